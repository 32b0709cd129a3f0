/* Memory that is freed and at once allocated again: what still used it is over then, and what was freed is free for every other call. */
#include "driver.h"
#include <pthread.h>

#define SIZE ((size_t)16 << 20)
#define ROUNDS 20

/* Writes a value after a while. */
static const char image[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry later(.param .u64 word, .param .u32 value, .param .u32 rounds)\n{\n"
    ".reg .b64 %rd<3>;\n.reg .b32 %r<4>;\n.reg .pred %p<2>;\n"
    "ld.param.u64 %rd1, [word];\nld.param.u32 %r1, [value];\nld.param.u32 %r2, [rounds];\n"
    "cvta.to.global.u64 %rd2, %rd1;\n"
    "again:\nst.volatile.global.u32 [%rd2+64], %r2;\nsub.u32 %r2, %r2, 1;\nsetp.ne.u32 %p1, %r2, 0;\n@%p1 bra again;\n"
    "st.global.u32 [%rd2], %r1;\nret;\n}\n";

static CUfunction later;
static CUstream one, other;

static CUdeviceptr take(size_t size)
{
    CUdeviceptr memory;
    CHECK(cuMemAlloc(&memory, size));
    return memory;
}

static unsigned word(CUdeviceptr memory)
{
    unsigned value;
    CHECK(cuMemcpyDtoH(&value, memory, sizeof value));
    return value;
}

/* The kernel would write into memory that means something else by now. What is new is cleared: not promised, but so it is natively. */
static void what_used_it_is_over(void)
{
    for (unsigned round = 1; round <= ROUNDS; round++) {
        unsigned value = 1, rounds = 20000, wanted = 1000 + round;
        CUdeviceptr memory = take(SIZE);
        void *params[] = {&memory, &value, &rounds};
        CHECK(cuLaunchKernel(later, 1, 1, 1, 1, 1, 1, 0, one, params, NULL));
        CHECK(cuMemFree(memory));
        memory = take(SIZE);
        if (round % 2)
            CHECK(cuMemsetD32Async(memory, 1000 + round, SIZE / 4, other));
        else
            wanted = 0;
        CHECK(cuCtxSynchronize());
        REQUIRE(word(memory) == wanted && word(memory + SIZE - 4) == wanted);
        CHECK(cuMemFree(memory));
    }
}

static void other_sizes_follow(void)
{
    static const size_t sizes[] = {SIZE, SIZE / 2, 2 * SIZE, SIZE + 4, 100, SIZE, SIZE, (size_t)2 << 20, SIZE};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size;
        CUdeviceptr base, memory = take(sizes[i]);
        CHECK(cuMemsetD8(memory, 7, sizes[i]));
        CHECK(cuMemGetAddressRange(&base, &size, memory));
        REQUIRE(base == memory && size == sizes[i]);
        CHECK(cuMemFree(memory));
    }
    /* Two that are freed in a row, and two that follow. */
    CUdeviceptr first = take(SIZE), second = take(SIZE);
    CHECK(cuMemFree(first));
    CHECK(cuMemFree(second));
    first = take(SIZE);
    second = take(SIZE);
    REQUIRE(first + SIZE <= second || second + SIZE <= first);
    CHECK(cuMemsetD32(first, 1, SIZE / 4));
    CHECK(cuMemsetD32(second, 2, SIZE / 4));
    CHECK(cuCtxSynchronize());
    REQUIRE(word(first) == 1 && word(second) == 2 && word(first + SIZE - 4) == 1 && word(second + SIZE - 4) == 2);
    CHECK(cuMemFree(second));
    CHECK(cuMemFree(first));
}

static void *misuse(void *address)
{
    CUcontext context;
    CUdeviceptr memory = *(CUdeviceptr *)address;
    unsigned value;
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    CHECK(cuCtxSetCurrent(context));
    EXPECT(INVALID, cuMemcpyDtoH(&value, memory, 4));
    EXPECT(INVALID, cuMemFree(memory));
    CHECK(cuDevicePrimaryCtxRelease(0));
    return NULL;
}

static void it_is_free(void)
{
    unsigned value = 0;
    size_t before, after, size;
    CUdeviceptr memory, base;
    for (int round = 0; round < ROUNDS; round++) {
        memory = take(SIZE);
        CHECK(cuMemFree(memory));
        EXPECT(INVALID, cuMemFree(memory));
        memory = take(SIZE);
        CHECK(cuMemFree(memory));
        EXPECT(INVALID, cuMemcpyHtoD(memory, &value, 4));
        memory = take(SIZE);
        CHECK(cuMemFree(memory));
        EXPECT(CUDA_ERROR_NOT_FOUND, cuMemGetAddressRange(&base, &size, memory));
    }
    memory = take(4 * SIZE);
    CHECK(cuMemGetInfo(&before, &size));
    CHECK(cuMemFree(memory));
    CHECK(cuMemGetInfo(&after, &size));
    REQUIRE(after >= before + 2 * SIZE);
}

static void it_is_free_for_other_threads(void)
{
    pthread_t thread;
    for (int round = 0; round < ROUNDS; round++) {
        CUdeviceptr memory = take(SIZE);
        CHECK(cuMemFree(memory));
        REQUIRE(pthread_create(&thread, NULL, misuse, &memory) == 0);
        REQUIRE(pthread_join(thread, NULL) == 0);
    }
}

static void it_ends_with_its_context(CUcontext context)
{
    CUcontext short_lived;
    CHECK(cuCtxCreate(&short_lived, NULL, 0, 0));
    CUdeviceptr memory = take(SIZE);
    CHECK(cuMemFree(memory));
    CHECK(cuCtxDestroy(short_lived));
    CHECK(cuCtxSetCurrent(context));
    memory = take(SIZE);
    CHECK(cuMemsetD32(memory, 3, SIZE / 4));
    CHECK(cuCtxSynchronize());
    REQUIRE(word(memory) == 3);
    /* Freed while another context is current, in which it is not allocated again. */
    CHECK(cuCtxCreate(&short_lived, NULL, 0, 0));
    CHECK(cuMemFree(memory));
    memory = take(SIZE);
    CHECK(cuCtxDestroy(short_lived));
    CHECK(cuCtxSetCurrent(context));
    EXPECT(INVALID, cuMemFree(memory));
}

static void *loops(void *context)
{
    CHECK(cuCtxSetCurrent(context));
    for (unsigned round = 1; round <= 10 * ROUNDS; round++) {
        CUdeviceptr memory = take(SIZE);
        CHECK(cuMemsetD32(memory, round, 1));
        CHECK(cuMemsetD32(memory + SIZE - 4, round, 1));
        REQUIRE(word(memory) == round && word(memory + SIZE - 4) == round);
        CHECK(cuMemFree(memory));
        if (round % 3 == 0)
            usleep(50);
    }
    return NULL;
}

static void threads_have_their_own(CUcontext context)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        REQUIRE(pthread_create(&threads[i], NULL, loops, context) == 0);
    for (int i = 0; i < 4; i++)
        REQUIRE(pthread_join(threads[i], NULL) == 0);
}

int main(void)
{
    CUcontext context = start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, image));
    CHECK(cuModuleGetFunction(&later, module, "later"));
    CHECK(cuStreamCreate(&one, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    what_used_it_is_over();
    other_sizes_follow();
    it_is_free();
    it_ends_with_its_context(context);
    it_is_free_for_other_threads();
    threads_have_their_own(context);
    printf("PASS " PROGRAM " freed and allocated again\n");
    return 0;
}
