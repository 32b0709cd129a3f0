/* Waiting for streams: what kernels have stored and printed is there when the wait is over, whether or not they can print. */
#include "driver.h"

#define HEAD ".version 7.0\n.target sm_70\n.address_size 64\n"

/* store(word, value). */
static const char quiet[] = HEAD
    ".visible .entry store(.param .u64 word, .param .u32 value)\n{\n.reg .b64 %rd<3>;\n.reg .b32 %r<2>;\n"
    "ld.param.u64 %rd1, [word];\nld.param.u32 %r1, [value];\ncvta.to.global.u64 %rd2, %rd1;\n"
    "st.global.u32 [%rd2], %r1;\nret;\n}\n";
/* says(number): prints "n %d\n". */
static const char printing[] = HEAD
    ".extern .func (.param .b32 r) vprintf(.param .b64 format, .param .b64 arguments);\n"
    ".global .align 1 .b8 text[6] = {110, 32, 37, 100, 10, 0};\n"
    ".visible .entry says(.param .u32 number)\n{\n.local .align 8 .b8 depot[8];\n.reg .b64 %SP;\n.reg .b64 %SPL;\n"
    ".reg .b32 %r<3>;\n.reg .b64 %rd<5>;\n"
    "mov.u64 %SPL, depot;\ncvta.local.u64 %SP, %SPL;\nld.param.u32 %r1, [number];\nadd.u64 %rd1, %SP, 0;\n"
    "add.u64 %rd2, %SPL, 0;\nst.local.u32 [%rd2], %r1;\nmov.u64 %rd3, text;\ncvta.global.u64 %rd4, %rd3;\n"
    "{\n.param .b64 a0;\nst.param.b64 [a0], %rd4;\n.param .b64 a1;\nst.param.b64 [a1], %rd1;\n.param .b32 r0;\n"
    "call.uni (r0), vprintf, (a0, a1);\nld.param.b32 %r2, [r0];\n}\nret;\n}\n";

static CUfunction kernel_of(const char *image, const char *name)
{
    CUmodule module;
    CUfunction function;
    CHECK(cuModuleLoadData(&module, image));
    CHECK(cuModuleGetFunction(&function, module, name));
    return function;
}

static void launch(CUfunction function, CUstream stream, void **params)
{
    CHECK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL));
}

/* Standard output is in a file meanwhile; what of it is not as it should be. */
static int own_stdout;
static FILE *kept;

static void keep_output(void)
{
    fflush(stdout);
    kept = tmpfile();
    own_stdout = dup(1);
    REQUIRE(kept && own_stdout >= 0 && dup2(fileno(kept), 1) == 1);
}

static int output_is(const char *expected, size_t len)
{
    static char text[16384];
    fflush(stdout);
    ssize_t n = pread(fileno(kept), text, sizeof text, 0);
    return n == (ssize_t)len && memcmp(text, expected, len) == 0;
}

static void release_output(void)
{
    fflush(stdout);
    dup2(own_stdout, 1);
}

/* Launches one kernel, the other, or both in either order, and waits, many times. The first wrong round, or -1. */
static int rounds(CUstream stream, CUfunction store, CUfunction says, CUdeviceptr device, volatile unsigned *word)
{
    static char expected[16384];
    size_t len = 0;
    for (unsigned i = 0; i < 300; i++) {
        unsigned stores = i % 4 != 1, speaks = i % 4 != 0, first = i % 4 == 2;
        void *stored[] = {&device, &i}, *said[] = {&i};
        if (speaks && first)
            launch(says, stream, said);
        if (stores)
            launch(store, stream, stored);
        if (speaks && !first)
            launch(says, stream, said);
        CHECK(cuStreamSynchronize(stream));
        if (speaks)
            len += (size_t)sprintf(expected + len, "n %u\n", i);
        if ((stores && *word != i) || (speaks && !output_is(expected, len)))
            return (int)i;
    }
    return -1;
}

/* Inputs through one stream, results from another, each waited for again and again: a wait for a stream that has nothing to do is over at once,
   one for a stream that has is not. */
static void inputs(CUfunction store)
{
    CUstream in, work;
    CUdeviceptr memory;
    unsigned *host;
    CHECK(cuStreamCreate(&in, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&work, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemAlloc(&memory, 1 << 22));
    CHECK(cuMemHostAlloc((void **)&host, 1 << 22, 0));
    unsigned *input = host, *result = host + (1 << 18), *last = result + (1 << 18) - 1;
    for (unsigned i = 1, stored = 0; i <= 300; i++) {
        for (unsigned word = 0; word < 3; word++) {
            input[word] = i * 10 + word;
            CHECK(cuMemcpyHtoDAsync(memory + (1 << 20) - 16 + word * 4, input + word, 4, in));
            CHECK(cuStreamSynchronize(in));
            CHECK(cuStreamSynchronize(work));
        }
        CUdeviceptr end = memory + (1 << 20) - 4;
        void *params[] = {&end, &i};
        if (i % 4 == 1)
            launch(store, work, params);
        else if (i % 4 == 2)
            CHECK(cuMemsetD32Async(end, i, 1, work));
        if (i % 4 == 1 || i % 4 == 2)
            stored = i;
        if (i % 3 == 0)
            CHECK(cuStreamSynchronize(work));
        memset(result, 0, 1 << 20);
        CHECK(cuMemcpyDtoHAsync(result, memory, 1 << 20, work));
        CHECK(cuStreamSynchronize(work));
        REQUIRE(last[0] == stored && last[-1] == i * 10 + 2 && last[-3] == i * 10);
        CHECK(cuStreamSynchronize(work));
    }
    CHECK(cuStreamDestroy(work));
    CHECK(cuStreamDestroy(in));
}

/* What was waited for is over, what follows in the stream is not: a question does not wait for that. */
static void what_follows(CUfunction store, CUdeviceptr device, volatile unsigned *word)
{
    CUstream stream;
    CUdeviceptr address;
    void *place;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemHostAlloc(&place, 4, CU_MEMHOSTALLOC_DEVICEMAP));
    CHECK(cuMemHostGetDevicePointer(&address, place, 0));
    volatile unsigned *flag = place;
    *flag = 0;
    for (unsigned i = 1; i <= 50; i++) {
        void *params[] = {&device, &i};
        launch(store, stream, params);
        CHECK(cuStreamSynchronize(stream));
        REQUIRE(*word == i);
        CHECK(cuStreamWaitValue32(stream, address, i, CU_STREAM_WAIT_VALUE_EQ));
        EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
        *flag = i;
        CHECK(cuStreamSynchronize(stream));
    }
    CHECK(cuStreamDestroy(stream));
    CHECK(cuMemFreeHost(place));
}

int main(void)
{
    start();
    CUfunction store = kernel_of(quiet, "store"), says = kernel_of(printing, "says");
    CUdeviceptr device;
    void *word;
    CHECK(cuMemHostAlloc(&word, 4, CU_MEMHOSTALLOC_DEVICEMAP));
    CHECK(cuMemHostGetDevicePointer(&device, word, 0));
    CUstream streams[] = {NULL, CU_STREAM_LEGACY, NULL};
    CHECK(cuStreamCreate(&streams[2], CU_STREAM_NON_BLOCKING));
    for (int s = 0; s < 3; s++) {
        keep_output();
        int wrong = rounds(streams[s], store, says, device, word);
        release_output();
        if (wrong >= 0) {
            printf("FAIL " PROGRAM ": stream %d, round %d: a result or a text is not there\n", s, wrong);
            return 1;
        }
    }
    inputs(store);
    what_follows(store, device, word);
    printf("PASS " PROGRAM " 900 waits, and 300 results\n");
    return 0;
}
