/* Contexts: flags, limits, configurations, the stack, what is attached, execution affinity, primary contexts, and bad input. */
#include "driver.h"

CUresult cuProfilerStart(void);
CUresult cuProfilerStop(void);

static void limits(void)
{
    size_t value = 0;
    static const CUlimit kept[] = {CU_LIMIT_STACK_SIZE, CU_LIMIT_PRINTF_FIFO_SIZE, CU_LIMIT_MALLOC_HEAP_SIZE};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        CHECK(cuCtxGetLimit(&value, kept[i]));
        REQUIRE(value > 0);
        CHECK(cuCtxSetLimit(kept[i], value));
    }
    CHECK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 2048));
    CHECK(cuCtxGetLimit(&value, CU_LIMIT_STACK_SIZE));
    REQUIRE(value == 2048);
    CHECK(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 16 << 20));
    CHECK(cuCtxGetLimit(&value, CU_LIMIT_MALLOC_HEAP_SIZE));
    REQUIRE(value == 16 << 20);
    EXPECT(INVALID, cuCtxGetLimit(NULL, CU_LIMIT_STACK_SIZE));
    EXPECT(INVALID, cuCtxGetLimit(&value, (CUlimit)99));
    EXPECT(INVALID, cuCtxSetLimit((CUlimit)99, 1));
}

static void configurations(void)
{
    CUfunc_cache cache = (CUfunc_cache)77;
    CUsharedconfig shared = (CUsharedconfig)77;
    CHECK(cuCtxSetCacheConfig(CU_FUNC_CACHE_PREFER_NONE));
    CHECK(cuCtxGetCacheConfig(&cache));
    REQUIRE(cache == CU_FUNC_CACHE_PREFER_NONE);
    CHECK(cuCtxSetCacheConfig(CU_FUNC_CACHE_PREFER_L1));
    EXPECT(INVALID, cuCtxSetCacheConfig((CUfunc_cache)4));
    EXPECT(INVALID, cuCtxGetCacheConfig(NULL));
    CHECK(cuCtxSetSharedMemConfig(CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE));
    CHECK(cuCtxGetSharedMemConfig(&shared));
    REQUIRE(shared == CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE);
    EXPECT(INVALID, cuCtxSetSharedMemConfig((CUsharedconfig)3));
    EXPECT(INVALID, cuCtxGetSharedMemConfig(NULL));
    int least = 9, greatest = 9;
    CHECK(cuCtxGetStreamPriorityRange(&least, &greatest));
    REQUIRE(least == 0 && greatest <= 0);
    CHECK(cuCtxGetStreamPriorityRange(NULL, NULL));
    CHECK(cuCtxResetPersistingL2Cache());
}

static void flags(void)
{
    static const unsigned set[] = {CU_CTX_SCHED_SPIN, CU_CTX_SCHED_YIELD, CU_CTX_SCHED_BLOCKING_SYNC, 0};
    unsigned got;
    for (int i = 0; i < 4; i++) {
        CHECK(cuCtxSetFlags(set[i]));
        CHECK(cuCtxGetFlags(&got));
        REQUIRE(got == (set[i] | CU_CTX_MAP_HOST));
    }
    EXPECT(INVALID, cuCtxSetFlags(3));
    EXPECT(INVALID, cuCtxSetFlags(0x100));
    EXPECT(INVALID, cuCtxGetFlags(NULL));
}

static void of_own(CUcontext primary)
{
    CUcontext own, again, current = NULL;
    unsigned long long id = 0, primary_id = 0;
    unsigned version = 0, got = 9;
    CUdevice device = 9;
    CHECK(cuCtxCreate(&own, NULL, CU_CTX_SCHED_YIELD, 0));
    CHECK(cuCtxGetFlags(&got));
    REQUIRE(got == CU_CTX_SCHED_YIELD);
    CHECK(cuCtxGetId(own, &id));
    CHECK(cuCtxGetId(primary, &primary_id));
    REQUIRE(id != primary_id);
    EXPECT(INVALID, cuCtxGetId(own, NULL));
    CHECK(cuCtxGetApiVersion(own, &version));
    REQUIRE(version == 3020);
    CHECK(cuCtxGetApiVersion(NULL, &version));
    EXPECT(INVALID, cuCtxGetApiVersion(own, NULL));
    CHECK(cuCtxGetDevice_v2(&device, primary));
    REQUIRE(device == 0);
    CHECK(cuCtxGetDevice_v2(&device, NULL));
    EXPECT(INVALID, cuCtxGetDevice_v2(NULL, primary));
    CHECK(cuCtxSynchronize_v2(primary));
    CHECK(cuCtxSynchronize_v2(NULL));
    /* A second use, and its end; the end of the last one is the context's. */
    CHECK(cuCtxAttach(&again, 0));
    REQUIRE(again == own);
    EXPECT(INVALID, cuCtxAttach(&again, 1));
    EXPECT(INVALID, cuCtxAttach(NULL, 0));
    CHECK(cuCtxDetach(own));
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == own);
    CHECK(cuCtxDetach(own));
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == primary);
    EXPECT(INVALID, cuCtxDestroy(NULL));
    EXPECT(INVALID, cuCtxPushCurrent(NULL));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy(primary));
    EXPECT(INVALID, cuCtxCreate(NULL, NULL, 0, 0));
    EXPECT(INVALID, cuCtxCreate(&own, NULL, 0x40000, 0));
    EXPECT(INVALID, cuCtxCreate(&own, NULL, CU_CTX_SCHED_SPIN | CU_CTX_SCHED_YIELD, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuCtxCreate(&own, NULL, 0, 99));
}

/* Execution affinity needs MPS; sharing with graphics needs graphics. */
static void creation_parameters(void)
{
    CUcontext context;
    CUctxCreateParams parameters;
    CUexecAffinityParam affinity = {CU_EXEC_AFFINITY_TYPE_SM_COUNT, {{1}}};
    CUctxCigParam sharing = {CIG_DATA_TYPE_D3D12_COMMAND_QUEUE, NULL};
    int supported = 9, sms = 0;
    memset(&parameters, 0, sizeof parameters);
    CHECK(cuCtxCreate(&context, &parameters, 0, 0));
    CHECK(cuCtxDestroy(context));
    parameters.numExecAffinityParams = 1;
    EXPECT(INVALID, cuCtxCreate(&context, &parameters, 0, 0));
    parameters.execAffinityParams = &affinity;
    CHECK(cuDeviceGetExecAffinitySupport(&supported, CU_EXEC_AFFINITY_TYPE_SM_COUNT, 0));
    if (!supported)
        EXPECT(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY, cuCtxCreate(&context, &parameters, 0, 0));
    parameters.execAffinityParams = NULL;
    parameters.numExecAffinityParams = 0;
    parameters.cigParams = &sharing;
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuCtxCreate(&context, &parameters, 0, 0));
    EXPECT(INVALID, cuDeviceGetExecAffinitySupport(NULL, CU_EXEC_AFFINITY_TYPE_SM_COUNT, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetExecAffinitySupport(&supported, CU_EXEC_AFFINITY_TYPE_SM_COUNT, 99));

    CHECK(cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    CHECK(cuCtxGetExecAffinity(&affinity, CU_EXEC_AFFINITY_TYPE_SM_COUNT));
    REQUIRE(affinity.param.smCount.val == (unsigned)sms);
    EXPECT(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY, cuCtxGetExecAffinity(&affinity, (CUexecAffinityType)3));
    EXPECT(INVALID, cuCtxGetExecAffinity(NULL, CU_EXEC_AFFINITY_TYPE_SM_COUNT));
}

static void stack(CUcontext primary)
{
    CUcontext current;
    CUdevice device;
    unsigned got;
    CHECK(cuCtxPopCurrent(&current));
    REQUIRE(current == primary);
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxPopCurrent(&current));
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == NULL);
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxGetDevice(&device));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxGetFlags(&got));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxSynchronize());
    CHECK(cuCtxSetCurrent(NULL));
    EXPECT(INVALID, cuCtxGetCurrent(NULL));
    CHECK(cuCtxSetCurrent(primary));
}

static void flush(void)
{
    CUflushGPUDirectRDMAWritesTarget target = CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX;
    CHECK(cuFlushGPUDirectRDMAWrites(target, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER));
    EXPECT(INVALID, cuFlushGPUDirectRDMAWrites((CUflushGPUDirectRDMAWritesTarget)1,
                                               CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER));
    EXPECT(INVALID, cuFlushGPUDirectRDMAWrites(target, (CUflushGPUDirectRDMAWritesScope)5));
}

static void primary_contexts(void)
{
    unsigned got = 9;
    int active = 9;
    CUcontext first, second, current = NULL;
    CUdeviceptr memory;
    CHECK(cuDevicePrimaryCtxGetState(0, &got, &active));
    REQUIRE(got == 0 && active == 0);
    CHECK(cuDevicePrimaryCtxSetFlags(0, CU_CTX_SCHED_BLOCKING_SYNC));
    CHECK(cuDevicePrimaryCtxGetState(0, &got, &active));
    REQUIRE(got == CU_CTX_SCHED_BLOCKING_SYNC && active == 0);
    EXPECT(INVALID, cuDevicePrimaryCtxSetFlags(0, 0x100));
    EXPECT(INVALID, cuDevicePrimaryCtxSetFlags(0, 3));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDevicePrimaryCtxSetFlags(99, 0));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease(0));
    CHECK(cuDevicePrimaryCtxReset(0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDevicePrimaryCtxReset(99));
    EXPECT(INVALID, cuDevicePrimaryCtxGetState(0, NULL, &active));
    EXPECT(INVALID, cuDevicePrimaryCtxGetState(0, &got, NULL));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDevicePrimaryCtxGetState(99, &got, &active));

    CHECK(cuDevicePrimaryCtxRetain(&first, 0));
    EXPECT(INVALID, cuDevicePrimaryCtxRetain(NULL, 0));
    CHECK(cuDevicePrimaryCtxGetState(0, &got, &active));
    REQUIRE(got == 0 && active == 1); /* the reset took the flags */
    CHECK(cuCtxSetCurrent(first));
    CHECK(cuMemAlloc(&memory, 100));
    CHECK(cuDevicePrimaryCtxReset(0));
    CHECK(cuDevicePrimaryCtxGetState(0, &got, &active));
    REQUIRE(active == 0);
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == first);
    EXPECT(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuMemAlloc(&memory, 100));
    CHECK(cuDevicePrimaryCtxRetain(&second, 0));
    REQUIRE(second == first);
    CHECK(cuMemAlloc(&memory, 100));
    CHECK(cuMemFree(memory));
    CHECK(cuDevicePrimaryCtxRelease(0));
    CHECK(cuCtxSetCurrent(NULL));
}

// Copies to pinned memory that are waited for, in one context.
static void copy_in(CUcontext context, unsigned value)
{
    CUdeviceptr device;
    unsigned *host;
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemAlloc(&device, 4096));
    CHECK(cuMemHostAlloc((void **)&host, 4096, 0));
    for (unsigned i = 0; i < 3; i++) {
        CHECK(cuMemsetD32(device, value + i, 1024));
        CHECK(cuMemcpyDtoHAsync(host, device, 4096, NULL));
        CHECK(cuStreamSynchronize(NULL));
        REQUIRE(host[0] == value + i && host[1023] == value + i);
        CHECK(cuMemcpyDtoH(host, device, 4));
    }
    CHECK(cuMemFreeHost(host));
    CHECK(cuMemFree(device));
}

// Waits go on right in contexts that take turns, and after others have ended.
static void waits(CUcontext primary)
{
    CUdevice device;
    CHECK(cuCtxGetDevice(&device));
    for (unsigned round = 0; round < 3; round++) {
        CUcontext own;
        CHECK(cuCtxCreate(&own, NULL, 0, device));
        for (unsigned i = 0; i < 3; i++) {
            copy_in(primary, 10 * i);
            copy_in(own, 10 * i + 1000);
        }
        CHECK(cuCtxDestroy(own));
        copy_in(primary, round);
    }
}

int main(void)
{
    unsigned got;
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuCtxGetFlags(&got));
    CHECK(cuInit(0));
    EXPECT(INVALID, cuInit(1));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxGetFlags(&got));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxDetach(NULL));
    primary_contexts();
    CUcontext primary = start();
    limits();
    configurations();
    flags();
    of_own(primary);
    creation_parameters();
    flush();
    stack(primary);
    waits(primary);
    CHECK(cuProfilerStart());
    CHECK(cuProfilerStop());
    printf("PASS " PROGRAM " primary, own, limits, flags, affinity, waits\n");
    return 0;
}
