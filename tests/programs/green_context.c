/* Green contexts: a device's SMs split, contexts and streams that use a part, events of contexts, and what is refused. */
#include "driver.h"

static CUcontext primary;
static CUmodule module;
static CUfunction fill;
static CUdeviceptr words;

static CUdevResource device_resource(void)
{
    CUdevResource all;
    memset(&all, 0xee, sizeof all);
    CHECK(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_SM));
    REQUIRE(all.type == CU_DEV_RESOURCE_TYPE_SM);
    int sms = 0;
    CHECK(cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    REQUIRE(all.sm.smCount == (unsigned)sms && all.sm.minSmPartitionSize >= 1);
    return all;
}

/* One group of the least size, and what is left. */
static CUdevResource split(const CUdevResource *all)
{
    CUdevResource group, rest;
    unsigned least = all->sm.minSmPartitionSize, possible = 1000, count = 1;
    CHECK(cuDevSmResourceSplitByCount(NULL, &possible, all, NULL, 0, least));
    REQUIRE(possible >= 1 && possible <= all->sm.smCount);
    CHECK(cuDevSmResourceSplitByCount(&group, &count, all, &rest, 0, least));
    REQUIRE(count == 1 && group.type == CU_DEV_RESOURCE_TYPE_SM);
    REQUIRE(group.sm.smCount >= least && group.sm.smCount <= all->sm.smCount);
    if (group.sm.smCount < all->sm.smCount)
        REQUIRE(rest.type == CU_DEV_RESOURCE_TYPE_SM && rest.sm.smCount == all->sm.smCount - group.sm.smCount);
    return group;
}

static CUgreenCtx make(const CUdevResource *part)
{
    CUdevResourceDesc description = NULL;
    CUgreenCtx green = NULL;
    CHECK(cuDevResourceGenerateDesc(&description, (CUdevResource *)part, 1));
    CHECK(cuGreenCtxCreate(&green, description, 0, CU_GREEN_CTX_DEFAULT_STREAM));
    REQUIRE(green);
    return green;
}

static void launch(CUstream stream, uint32_t value)
{
    void *parameters[] = {&words, &value};
    CHECK(cuLaunchKernel(fill, 16, 1, 1, 64, 1, 1, 0, stream, parameters, NULL));
}

static void use_context(CUgreenCtx green, const CUdevResource *part)
{
    CUcontext context, again, current = NULL, of_stream = NULL;
    CUgreenCtx of_stream_green = NULL;
    CUdevResource mine;
    CUdevice device = 9;
    CHECK(cuCtxFromGreenCtx(&context, green));
    CHECK(cuCtxFromGreenCtx(&again, green));
    REQUIRE(context == again && context != primary);
    CHECK(cuCtxGetDevResource(context, &mine, CU_DEV_RESOURCE_TYPE_SM));
    REQUIRE(mine.sm.smCount == part->sm.smCount);
    CHECK(cuGreenCtxGetDevResource(green, &mine, CU_DEV_RESOURCE_TYPE_SM));
    REQUIRE(mine.sm.smCount == part->sm.smCount);

    CHECK(cuCtxPushCurrent(context));
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == context);
    CHECK(cuCtxGetDevice(&device));
    REQUIRE(device == 0);
    launch(NULL, 100);
    REQUIRE(holds(words, 1024, 100));
    uint32_t value = 1;
    void *parameters[] = {&words, &value};
    EXPECT(CUDA_ERROR_INVALID_HANDLE, /* it has no streams per thread */
           cuLaunchKernel(fill, 1, 1, 1, 1, 1, 1, 0, CU_STREAM_PER_THREAD, parameters, NULL));
    CHECK(cuStreamGetCtx_v2(NULL, &of_stream, &of_stream_green));
    REQUIRE(of_stream == primary && of_stream_green == green);
    CHECK(cuCtxPopCurrent(&current));
    REQUIRE(current == context);
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == primary);
}

static void use_stream(CUgreenCtx green)
{
    CUstream stream, ordinary;
    CUcontext context = NULL;
    CUgreenCtx of_stream = NULL;
    unsigned flags = 9;
    EXPECT(INVALID, cuGreenCtxStreamCreate(&stream, green, 0, 0));
    EXPECT(INVALID, cuGreenCtxStreamCreate(NULL, green, CU_STREAM_NON_BLOCKING, 0));
    CHECK(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
    CHECK(cuStreamGetFlags(stream, &flags));
    REQUIRE(flags == CU_STREAM_NON_BLOCKING);
    CHECK(cuStreamGetGreenCtx(stream, &of_stream));
    REQUIRE(of_stream == green);
    CHECK(cuStreamGetCtx_v2(stream, &context, &of_stream));
    REQUIRE(context == primary && of_stream == green);
    launch(stream, 7);
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(holds(words, 1024, 7));

    CHECK(cuStreamCreate(&ordinary, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamGetGreenCtx(ordinary, &of_stream));
    REQUIRE(of_stream == NULL);
    CHECK(cuStreamGetCtx_v2(ordinary, &context, &of_stream));
    REQUIRE(context == primary && of_stream == NULL);

    /* Work of the green context is done before what waits for its event. */
    CUevent event;
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    for (uint32_t round = 0; round < 20; round++) {
        CHECK(cuMemsetD32Async(words, 0xffffffff, 1024, stream));
        launch(stream, round);
        CHECK(cuGreenCtxRecordEvent(green, event));
        CHECK(cuStreamWaitEvent(ordinary, event, 0));
        uint32_t read[1024];
        CHECK(cuMemcpyDtoHAsync(read, words, sizeof read, ordinary));
        CHECK(cuStreamSynchronize(ordinary));
        for (uint32_t i = 0; i < 1024; i++)
            REQUIRE(read[i] == round + i);
    }
    CHECK(cuEventRecord(event, ordinary));
    CHECK(cuGreenCtxWaitEvent(green, event));
    CHECK(cuCtxRecordEvent(primary, event));
    CHECK(cuCtxWaitEvent(primary, event));
    CHECK(cuEventSynchronize(event));
    CUcontext own;
    CUevent foreign;
    CHECK(cuCtxCreate(&own, NULL, 0, 0));
    CHECK(cuEventCreate(&foreign, 0));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuCtxRecordEvent(primary, foreign));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuGreenCtxRecordEvent(green, foreign));
    CHECK(cuCtxRecordEvent(own, foreign));
    CHECK(cuCtxWaitEvent(primary, foreign));
    CHECK(cuEventSynchronize(foreign));
    CHECK(cuCtxDestroy(own));
    CHECK(cuCtxSetCurrent(primary));
    CHECK(cuEventDestroy(event));
    CHECK(cuStreamDestroy(stream));
    CHECK(cuStreamDestroy(ordinary));
}

static void refused(const CUdevResource *all, const CUdevResource *part)
{
    CUdevResource other;
    CUdevResourceDesc description;
    CUgreenCtx green;
    unsigned count = 1;
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetDevResource(99, &other, CU_DEV_RESOURCE_TYPE_SM));
    EXPECT(INVALID, cuDeviceGetDevResource(0, NULL, CU_DEV_RESOURCE_TYPE_SM));
    EXPECT(CUDA_ERROR_INVALID_RESOURCE_TYPE, cuDeviceGetDevResource(0, &other, CU_DEV_RESOURCE_TYPE_INVALID));
    EXPECT(INVALID, cuDevSmResourceSplitByCount(&other, NULL, all, NULL, 0, 1));
    EXPECT(INVALID, cuDevSmResourceSplitByCount(&other, &count, NULL, NULL, 0, 1));
    EXPECT(INVALID, cuDevSmResourceSplitByCount(&other, &count, all, NULL, 3, 1));
    count = 1;
    EXPECT(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
           cuDevSmResourceSplitByCount(&other, &count, all, NULL, 0, all->sm.smCount + 1));
    EXPECT(INVALID, cuDevResourceGenerateDesc(NULL, (CUdevResource *)part, 1));
    EXPECT(INVALID, cuDevResourceGenerateDesc(&description, NULL, 1));
    other = *part;
    other.type = CU_DEV_RESOURCE_TYPE_INVALID;
    EXPECT(CUDA_ERROR_INVALID_RESOURCE_TYPE, cuDevResourceGenerateDesc(&description, &other, 1));
    CHECK(cuDevResourceGenerateDesc(&description, (CUdevResource *)part, 1));
    EXPECT(INVALID, cuGreenCtxCreate(&green, description, 0, 0));
    EXPECT(INVALID, cuGreenCtxCreate(NULL, description, 0, CU_GREEN_CTX_DEFAULT_STREAM));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuGreenCtxCreate(&green, description, 99, CU_GREEN_CTX_DEFAULT_STREAM));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuGreenCtxDestroy(NULL));
}

int main(void)
{
    primary = start();
    CHECK(cuModuleLoadData(&module, code));
    fill = function_of(module, "fill");
    CHECK(cuMemAlloc(&words, 4096));
    CUdevResource all = device_resource(), of_context;
    CHECK(cuCtxGetDevResource(primary, &of_context, CU_DEV_RESOURCE_TYPE_SM));
    REQUIRE(of_context.sm.smCount == all.sm.smCount);
    CUdevResource part = split(&all);
    CUgreenCtx green = make(&part), second = make(&part);
    REQUIRE(green != second);
    unsigned long long id = 0, other_id = 0;
    CHECK(cuGreenCtxGetId(green, &id));
    CHECK(cuGreenCtxGetId(second, &other_id));
    REQUIRE(id != other_id);
    use_context(green, &part);
    use_stream(green);
    use_context(second, &part);
    CHECK(cuGreenCtxDestroy(second));
    use_context(green, &part);
    refused(&all, &part);
    CUstream left;
    CHECK(cuGreenCtxStreamCreate(&left, green, CU_STREAM_NON_BLOCKING, 0));
    CHECK(cuGreenCtxDestroy(green));
    EXPECT(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuStreamQuery(left));
    EXPECT(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuStreamDestroy(left));

    launch(NULL, 3); /* the primary context is as it was */
    REQUIRE(holds(words, 1024, 3));
    CHECK(cuMemFree(words));
    printf("PASS " PROGRAM " %u of %u SMs\n", part.sm.smCount, all.sm.smCount);
    return 0;
}
