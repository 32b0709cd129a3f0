/* What a stream capture forbids, and what it ends by; a cooperative launch in a capture; copy nodes that become ones of pageable memory. */
#include "driver.h"
#include <pthread.h>

enum { WORDS = 256, BYTES = WORDS * 4 };

static CUstream stream;
static CUfunction fill;
static CUdeviceptr words;

static void begin(CUstreamCaptureMode mode)
{
    CHECK(cuStreamBeginCapture(stream, mode));
}

/* Ends the capture, which must give `expected`. */
static void end(CUresult expected)
{
    CUgraph graph = NULL;
    EXPECT(expected, cuStreamEndCapture(stream, &graph));
    REQUIRE((graph != NULL) == (expected == CUDA_SUCCESS));
    if (graph)
        CHECK(cuGraphDestroy(graph));
}

/* The call is refused in a capture and ends it, unless the capture is a relaxed one. */
#define UNSAFE(call)                                                                                         \
    do {                                                                                                     \
        for (int mode_ = 0; mode_ < 2; mode_++) {                                                            \
            begin((CUstreamCaptureMode)mode_);                                                               \
            EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, call);                                             \
            end(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);                                                      \
        }                                                                                                    \
        begin(CU_STREAM_CAPTURE_MODE_RELAXED);                                                               \
        CHECK(call);                                                                                         \
        end(CUDA_SUCCESS);                                                                                   \
    } while (0)

/* The call is refused in every capture, and ends it. */
#define REFUSED(expected, call)                                                                              \
    do {                                                                                                     \
        for (int mode_ = 0; mode_ < 3; mode_++) {                                                            \
            begin((CUstreamCaptureMode)mode_);                                                               \
            EXPECT(expected, call);                                                                          \
            end(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);                                                      \
        }                                                                                                    \
    } while (0)

static void unsafe_calls(void)
{
    void *pinned = NULL, *also = NULL, *own = NULL;
    CUdeviceptr managed = 0, device;
    CUmodule module;
    CHECK(cuMemAlloc(&device, BYTES));
    CHECK(cuModuleLoadData(&module, code));
    REQUIRE(posix_memalign(&own, 4096, 8192) == 0);
    UNSAFE(cuMemHostAlloc(&pinned, BYTES, 0));
    UNSAFE(cuMemAllocHost(&also, BYTES));
    UNSAFE(cuMemAllocManaged(&managed, BYTES, CU_MEM_ATTACH_GLOBAL));
    CUresult registered = cuMemHostRegister(own, 8192, 0);
    if (registered == CUDA_SUCCESS) {
        CHECK(cuMemHostUnregister(own));
        UNSAFE(cuMemHostRegister(own, 8192, 0));
        UNSAFE(cuMemHostUnregister(own));
    } else {
        /* A guest whose kernel has no udmabuf cannot register memory. */
        REQUIRE(registered == CUDA_ERROR_NOT_SUPPORTED);
    }
    UNSAFE(cuMemFreeHost(also));
    UNSAFE(cuMemFree(device));
    UNSAFE(cuModuleUnload(module));
    REFUSED(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            cuMemPrefetchAsync(managed, BYTES, (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_DEVICE}, 0, stream));
    memset(pinned, 1, BYTES);
    CHECK(cuMemFreeHost(pinned));
    CHECK(cuMemFree(managed));
    free(own);
}

static void default_stream(void)
{
    static uint32_t host[WORDS];
    CUstream captured = stream;
    REFUSED(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemcpyHtoD(words, host, BYTES));
    REFUSED(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemcpyDtoH(host, words, BYTES));
    REFUSED(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemsetD32(words, 0, WORDS));
    /* The default stream does not wait for a stream of its own order. */
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    CHECK(cuMemcpyHtoD(words, host, BYTES));
    end(CUDA_SUCCESS);
    CHECK(cuStreamDestroy(stream));
    stream = captured;
}

static CUcontext context;

static void *allocate(void *expected)
{
    void *pinned;
    CHECK(cuCtxSetCurrent(context));
    EXPECT((CUresult)(uintptr_t)expected, cuMemHostAlloc(&pinned, BYTES, 0));
    if (!expected)
        CHECK(cuMemFreeHost(pinned));
    return NULL;
}

static void in_another_thread(CUresult expected)
{
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, allocate, (void *)(uintptr_t)expected) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
}

static void other_threads(void)
{
    begin(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    in_another_thread(CUDA_SUCCESS);
    end(CUDA_SUCCESS);
    begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    in_another_thread(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    end(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

static void cooperative_launch(void)
{
    CUgraph graph;
    CUgraphExec exec;
    uint32_t value = 40;
    void *parameters[] = {&words, &value};
    begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
    CHECK(cuLaunchCooperativeKernel(fill, 1, 1, 1, WORDS, 1, 1, 0, stream, parameters));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiate(&exec, graph, 0));
    CHECK(cuGraphLaunch(exec, stream));
    REQUIRE(holds(words, WORDS, 40));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
}

static void run(CUgraph graph)
{
    CUgraphExec exec;
    CHECK(cuGraphInstantiate(&exec, graph, 0));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuGraphExecDestroy(exec));
}

/* First a copy to the device and one from it, between pinned memory; then of pageable memory, with what is before and after. */
static void copies_change_their_memory(void)
{
    static uint32_t from[WORDS], to[WORDS];
    uint32_t *pinned;
    CUgraph graph;
    CUgraphNode in, out, first, last, found[8];
    size_t count = 8;
    CHECK(cuMemHostAlloc((void **)&pinned, 2 * BYTES, 0));
    CUDA_MEMCPY3D copy = {0};
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = pinned;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = words;
    copy.WidthInBytes = BYTES;
    copy.Height = copy.Depth = 1;
    CUDA_MEMCPY3D back = copy;
    back.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    back.srcDevice = words;
    back.dstMemoryType = CU_MEMORYTYPE_HOST;
    back.dstHost = pinned + WORDS;
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphAddEmptyNode(&first, graph, NULL, 0));
    CHECK(cuGraphAddMemcpyNode(&in, graph, &first, 1, &copy, context));
    CHECK(cuGraphAddMemcpyNode(&out, graph, &in, 1, &back, context));
    CHECK(cuGraphAddEmptyNode(&last, graph, &out, 1));
    for (uint32_t i = 0; i < WORDS; i++)
        pinned[i] = from[i] = 3 * i + 1;
    run(graph);
    REQUIRE(memcmp(pinned, pinned + WORDS, BYTES) == 0);
    copy.srcHost = from;
    back.dstHost = to;
    CHECK(cuGraphMemcpyNodeSetParams(in, &copy));
    CHECK(cuGraphMemcpyNodeSetParams(out, &back));
    memset(pinned, 0, BYTES);
    run(graph);
    REQUIRE(memcmp(from, to, BYTES) == 0);
    /* Nothing else is to be seen of it. */
    CHECK(cuGraphGetNodes(graph, NULL, &count));
    REQUIRE(count == 4);
    count = 8;
    CHECK(cuGraphNodeGetDependencies(out, found, NULL, &count));
    REQUIRE(count == 1 && found[0] == in);
    count = 8;
    CHECK(cuGraphNodeGetDependentNodes(out, found, NULL, &count));
    REQUIRE(count == 1 && found[0] == last);
    /* And back to pinned memory. */
    copy.srcHost = pinned;
    CHECK(cuGraphMemcpyNodeSetParams(in, &copy));
    run(graph);
    REQUIRE(to[1] == 0 && to[WORDS - 1] == 0);
    CHECK(cuGraphDestroy(graph));
    CHECK(cuMemFreeHost(pinned));
}

int main(void)
{
    CUmodule module;
    context = start();
    CHECK(cuModuleLoadData(&module, code));
    fill = function_of(module, "fill");
    CHECK(cuStreamCreate(&stream, CU_STREAM_DEFAULT));
    CHECK(cuMemAlloc(&words, BYTES));
    unsafe_calls();
    default_stream();
    other_threads();
    cooperative_launch();
    copies_change_their_memory();
    printf("PASS " PROGRAM " unsafe calls, default stream, threads, cooperative launch, copies\n");
    return 0;
}
