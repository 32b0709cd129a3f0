/* Many launches one behind another: each takes effect, in its order, whatever comes between. Each kernel mixes a value into a word so
   that another order gives another word. */
#include "driver.h"
#include <pthread.h>

#define HEAD ".version 7.0\n.target sm_70\n.address_size 64\n"
#define MIX(name, parameters, change)                                                                        \
    ".visible .entry " name "(" parameters ")\n{\n.reg .b64 %rd<3>;\n.reg .b32 %r<4>;\n"                     \
    "ld.param.u64 %rd1, [word];\nld.param.u32 %r1, [value];\ncvta.to.global.u64 %rd2, %rd1;\n"               \
    "ld.global.u32 %r2, [%rd2];\n" change "st.global.u32 [%rd2], %r3;\nret;\n}\n"

static const char image[] = HEAD
    MIX("add", ".param .u64 word, .param .u32 value", "mad.lo.u32 %r3, %r2, 1664525, %r1;\n")
    MIX("xor", ".param .u32 value, .param .u64 pad, .param .u64 word",
        "mul.lo.u32 %r3, %r2, 22695477;\nxor.b32 %r3, %r3, %r1;\n")
    ".visible .entry nothing()\n{\nret;\n}\n";

static CUmodule module;
static CUfunction add, xor, nothing;

static void load(void)
{
    CHECK(cuModuleLoadData(&module, image));
    CHECK(cuModuleGetFunction(&add, module, "add"));
    CHECK(cuModuleGetFunction(&xor, module, "xor"));
    CHECK(cuModuleGetFunction(&nothing, module, "nothing"));
}

/* A word of the device's, and what it should be. */
struct word {
    CUdeviceptr place;
    unsigned expected;
    CUstream stream;
};

static struct word word_in(CUstream stream)
{
    struct word w = {0, 1, stream};
    CHECK(cuMemAlloc(&w.place, 4));
    CHECK(cuMemsetD32(w.place, 1, 1));
    CHECK(cuCtxSynchronize());
    return w;
}

static void check(struct word *w, const char *what)
{
    unsigned got = 0;
    CHECK(cuStreamSynchronize(w->stream));
    CHECK(cuMemcpyDtoH(&got, w->place, 4));
    if (got != w->expected) {
        printf("FAIL " PROGRAM ": %s: the word is %08x, expected %08x\n", what, got, w->expected);
        fflush(stdout);
        _exit(1);
    }
}

static CUresult launch_add(struct word *w, unsigned value, unsigned shared)
{
    void *params[] = {&w->place, &value};
    CUresult result = cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, shared, w->stream, params, NULL);
    if (shared <= 48 << 10)
        w->expected = w->expected * 1664525 + value;
    return result;
}

static CUresult launch_xor(struct word *w, unsigned value)
{
    uint64_t pad = ~0ull;
    void *params[] = {&value, &pad, &w->place};
    w->expected = (w->expected * 22695477) ^ value;
    return cuLaunchKernel(xor, 1, 1, 1, 1, 1, 1, 0, w->stream, params, NULL);
}

static unsigned noise(void)
{
    static __thread unsigned state = 12345;
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state;
}

static void any(struct word *w)
{
    unsigned what = noise();
    if (what % 7 == 0)
        CHECK(cuLaunchKernel(nothing, 1, 1, 1, 1 + what % 64, 1, 1, 0, w->stream, NULL, NULL));
    else if (what % 3 == 0)
        CHECK(launch_xor(w, what));
    else
        CHECK(launch_add(w, what, what % 1024));
}

static void many(struct word *w, int count)
{
    for (int i = 0; i < count; i++)
        any(w);
}

/* Other work of the stream's between. */
static void among_others(struct word *w)
{
    unsigned *pinned;
    CUevent event;
    CHECK(cuMemHostAlloc((void **)&pinned, 4, 0));
    CHECK(cuEventCreate(&event, 0));
    for (int i = 0; i < 200; i++) {
        many(w, (int)(noise() % 80));
        switch (i % 4) {
        case 0:
            CHECK(cuMemsetD32Async(w->place, (unsigned)i, 1, w->stream));
            w->expected = (unsigned)i;
            break;
        case 1:
            CHECK(cuEventRecord(event, w->stream));
            break;
        case 2:
            CHECK(cuStreamSynchronize(w->stream));
            *pinned = noise();
            CHECK(cuMemcpyHtoDAsync(w->place, pinned, 4, w->stream));
            w->expected = *pinned;
            break;
        default: {
            unsigned value = noise();
            void *params[] = {&w->place, &value};
            CUlaunchAttribute priority = {.id = CU_LAUNCH_ATTRIBUTE_PRIORITY};
            CUlaunchConfig config = {1, 1, 1, 1, 1, 1, 0, w->stream, &priority, 1};
            CHECK(cuLaunchKernelEx(&config, add, params, NULL));
            w->expected = w->expected * 1664525 + value;
        }
        }
    }
    check(w, "among other work");
    CHECK(cuEventDestroy(event));
    CHECK(cuMemFreeHost(pinned));
}

/* A launch that the driver refuses: it says so, and the others take place. */
static void with_errors(struct word *w)
{
    for (int i = 0; i < 20; i++) {
        many(w, 100);
        CUresult refused = launch_add(w, 1, 200000);
        many(w, 100);
        CUresult later = cuStreamSynchronize(w->stream);
        REQUIRE((refused == INVALID) != (later == INVALID));
        check(w, "around a launch that is refused");
    }
    /* Allowed from now on, with another shape of the same kernel. */
    CHECK(cuFuncSetAttribute(add, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 60000));
    for (int i = 0; i < 500; i++) {
        unsigned value = noise();
        CHECK(launch_add(w, value, 60000));
        w->expected = w->expected * 1664525 + value;
    }
    check(w, "with more shared memory");
}

static void with_captures(struct word *w)
{
    for (int i = 0; i < 10; i++) {
        CUgraph graph;
        CUgraphExec exec;
        size_t nodes = 0;
        many(w, 200);
        CHECK(cuStreamBeginCapture(w->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        for (int k = 0; k < 60; k++)
            CHECK(launch_add(w, (unsigned)k, 0));
        CHECK(cuStreamEndCapture(w->stream, &graph));
        CHECK(cuGraphGetNodes(graph, NULL, &nodes));
        REQUIRE(nodes == 60);
        CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
        CHECK(cuGraphLaunch(exec, w->stream));
        many(w, 200);
        CHECK(cuGraphExecDestroy(exec));
        CHECK(cuGraphDestroy(graph));
        check(w, "around a capture");
    }
}

/* Modules that come and go: a function's handle may be another's soon. */
static void with_modules(struct word *w)
{
    for (int i = 0; i < 20; i++) {
        many(w, 300);
        CHECK(cuStreamSynchronize(w->stream));
        CHECK(cuModuleUnload(module));
        load();
    }
    check(w, "with modules that end");
}

static CUcontext context;

/* A thread with a word in a stream of its own. */
struct other {
    pthread_t thread;
    struct word word;
};

static void begin(struct other *others, int count, void *(*run)(void *))
{
    for (int i = 0; i < count; i++) {
        CUstream stream;
        CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
        others[i].word = word_in(stream);
        REQUIRE(pthread_create(&others[i].thread, NULL, run, &others[i].word) == 0);
    }
}

static void *launching_thread(void *argument)
{
    CHECK(cuCtxSetCurrent(context));
    many(argument, 20000);
    return NULL;
}

/* Captures that no other thread may break, while others launch. */
static void beside_captures(struct word *w)
{
    struct other others[2];
    begin(others, 2, launching_thread);
    for (int i = 0; i < 100; i++) {
        CUgraph graph;
        CUgraphExec exec;
        CHECK(cuStreamBeginCapture(w->stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
        for (int k = 0; k < 8; k++)
            CHECK(launch_add(w, (unsigned)k, 0));
        CHECK(cuStreamEndCapture(w->stream, &graph));
        CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
        CHECK(cuGraphLaunch(exec, w->stream));
        CHECK(cuGraphExecDestroy(exec));
        CHECK(cuGraphDestroy(graph));
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(others[i].thread, NULL);
        check(&others[i].word, "beside captures");
    }
    check(w, "captured beside others");
}

static void *other_thread(void *argument)
{
    struct word *w = argument;
    CHECK(cuCtxSetCurrent(context));
    many(w, 10000);
    check(w, "in a thread of its own");
    return NULL;
}

int main(void)
{
    context = start();
    load();
    CUstream streams[4] = {0, CU_STREAM_PER_THREAD};
    int least, greatest;
    CHECK(cuCtxGetStreamPriorityRange(&least, &greatest));
    CHECK(cuStreamCreate(&streams[2], CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreateWithPriority(&streams[3], CU_STREAM_NON_BLOCKING, greatest));
    struct word words[4];
    for (int s = 0; s < 4; s++) {
        words[s] = word_in(streams[s]);
        many(&words[s], 5000);
        check(&words[s], "in a stream");
    }
    for (int i = 0; i < 5000; i++)
        many(&words[i / 50 % 4], 1 + (int)(noise() % 3));
    for (int s = 0; s < 4; s++)
        check(&words[s], "in streams by turns");
    /* A stream that waits for another each time. */
    CUevent event;
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    struct word shared = words[2];
    for (int i = 0; i < 200; i++) {
        shared.stream = streams[2 + i % 2];
        many(&shared, 30);
        CHECK(cuEventRecord(event, shared.stream));
        CHECK(cuStreamWaitEvent(streams[2 + (i + 1) % 2], event, 0));
    }
    CHECK(cuCtxSynchronize());
    check(&shared, "from stream to stream");
    words[2].expected = shared.expected;
    among_others(&words[2]);
    with_errors(&words[2]);
    with_captures(&words[2]);
    beside_captures(&words[2]);
    with_modules(&words[2]);
    with_modules(&words[0]);
    struct other others[3];
    begin(others, 3, other_thread);
    many(&words[2], 10000);
    check(&words[2], "beside threads");
    for (int i = 0; i < 3; i++)
        pthread_join(others[i].thread, NULL);
    printf("PASS " PROGRAM " launches in a row, in order\n");
    return 0;
}
