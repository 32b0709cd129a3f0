/* Streams, events and occupancy: what streams say of themselves, attributes, recording, how many blocks fit, and bad input. */
#include "driver.h"

#define BAD_HANDLE CUDA_ERROR_INVALID_HANDLE

static void about_streams(CUcontext context)
{
    CUstream urgent, plain, other;
    CUcontext of = NULL;
    CUgreenCtx green = (CUgreenCtx)1;
    CUdevice device = 9;
    unsigned flags = 9;
    int priority = 9, least, greatest;
    unsigned long long ids[4];
    CHECK(cuCtxGetStreamPriorityRange(&least, &greatest));
    CHECK(cuStreamCreateWithPriority(&urgent, CU_STREAM_NON_BLOCKING, -1000)); /* clamped */
    CHECK(cuStreamGetPriority(urgent, &priority));
    REQUIRE(priority == greatest);
    CHECK(cuStreamCreateWithPriority(&plain, CU_STREAM_DEFAULT, 1000));
    CHECK(cuStreamGetPriority(plain, &priority));
    REQUIRE(priority == least);
    EXPECT(INVALID, cuStreamCreateWithPriority(&other, 2, 0));
    EXPECT(INVALID, cuStreamCreateWithPriority(NULL, 0, 0));
    EXPECT(INVALID, cuStreamCreate(&other, 2));
    EXPECT(INVALID, cuStreamCreate(NULL, 0));
    CHECK(cuStreamGetFlags(urgent, &flags));
    REQUIRE(flags == CU_STREAM_NON_BLOCKING);
    CHECK(cuStreamGetFlags(plain, &flags));
    REQUIRE(flags == CU_STREAM_DEFAULT);
    CHECK(cuStreamGetFlags(NULL, &flags));
    REQUIRE(flags == 0);
    CHECK(cuStreamGetFlags(CU_STREAM_PER_THREAD, &flags));
    EXPECT(INVALID, cuStreamGetFlags(plain, NULL));
    CHECK(cuStreamGetPriority(NULL, &priority));
    REQUIRE(priority == 0);
    EXPECT(INVALID, cuStreamGetPriority(plain, NULL));
    CHECK(cuStreamGetCtx_v2(plain, &of, &green));
    REQUIRE(of == context && green == NULL);
    CHECK(cuStreamGetCtx_v2(plain, &of, NULL));
    EXPECT(INVALID, cuStreamGetCtx_v2(plain, NULL, NULL));
    CHECK(cuStreamGetDevice(plain, &device));
    REQUIRE(device == 0);
    CHECK(cuStreamGetDevice(NULL, &device));
    EXPECT(INVALID, cuStreamGetDevice(plain, NULL));
    CHECK(cuStreamGetId(plain, &ids[0]));
    CHECK(cuStreamGetId(urgent, &ids[1]));
    CHECK(cuStreamGetId(NULL, &ids[2]));
    CHECK(cuStreamGetId(CU_STREAM_LEGACY, &ids[3]));
    REQUIRE(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2] && ids[2] == ids[3]);
    EXPECT(INVALID, cuStreamGetId(plain, NULL));
    CHECK(cuStreamDestroy(urgent));
    CHECK(cuStreamDestroy(plain));
}

static void attributes(void)
{
    CUstream from, to;
    CUstreamAttrValue value;
    CHECK(cuStreamCreate(&from, 0));
    CHECK(cuStreamCreate(&to, 0));
    memset(&value, 0, sizeof value);
    value.syncPolicy = CU_SYNC_POLICY_YIELD;
    CHECK(cuStreamSetAttribute(from, CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    memset(&value, 0, sizeof value);
    CHECK(cuStreamGetAttribute(from, CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    REQUIRE(value.syncPolicy == CU_SYNC_POLICY_YIELD);
    CHECK(cuStreamCopyAttributes(to, from));
    memset(&value, 0, sizeof value);
    CHECK(cuStreamGetAttribute(to, CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    REQUIRE(value.syncPolicy == CU_SYNC_POLICY_YIELD);
    value.syncPolicy = (CUsynchronizationPolicy)9;
    EXPECT(INVALID, cuStreamSetAttribute(from, CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    EXPECT(INVALID, cuStreamGetAttribute(from, (CUstreamAttrID)2, &value)); /* of launches only */
    CHECK(cuStreamGetAttribute(from, CU_STREAM_ATTRIBUTE_PRIORITY, &value));
    REQUIRE(value.priority == 0);
    int priority = 9, least, greatest;
    CHECK(cuCtxGetStreamPriorityRange(&least, &greatest));
    value.priority = greatest;
    CHECK(cuStreamSetAttribute(from, CU_STREAM_ATTRIBUTE_PRIORITY, &value));
    CHECK(cuStreamGetPriority(from, &priority));
    REQUIRE(priority == greatest);
    CHECK(cuStreamDestroy(from));
    CHECK(cuStreamDestroy(to));
    for (uintptr_t special = 0; special <= 2; special++)
        EXPECT(BAD_HANDLE, cuStreamDestroy((CUstream)special));
}

static void events(void)
{
    CUevent event, untimed, bad;
    CUstream stream;
    float milliseconds = -1;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_BLOCKING_SYNC));
    CHECK(cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING));
    EXPECT(INVALID, cuEventCreate(NULL, 0));
    EXPECT(INVALID, cuEventCreate(&bad, 0x100));
    EXPECT(BAD_HANDLE, cuEventElapsedTime(&milliseconds, event, event)); /* never recorded */
    CHECK(cuEventQuery(event));
    CHECK(cuEventRecordWithFlags(event, stream, CU_EVENT_RECORD_DEFAULT));
    CHECK(cuEventRecordWithFlags(untimed, stream, CU_EVENT_RECORD_DEFAULT));
    CHECK(cuStreamWaitEvent(NULL, event, 0));
    CHECK(cuEventSynchronize(event));
    CHECK(cuEventSynchronize(untimed));
    CHECK(cuEventElapsedTime(&milliseconds, event, event));
    REQUIRE(milliseconds == 0);
    EXPECT(BAD_HANDLE, cuEventElapsedTime(&milliseconds, event, untimed));
    EXPECT(CUDA_ERROR_ILLEGAL_STATE, cuEventRecordWithFlags(event, stream, CU_EVENT_RECORD_EXTERNAL));
    EXPECT(INVALID, cuEventRecordWithFlags(event, stream, 2));
    EXPECT(CUDA_ERROR_ILLEGAL_STATE, cuStreamWaitEvent(stream, event, CU_EVENT_WAIT_EXTERNAL));
    EXPECT(INVALID, cuStreamWaitEvent(stream, event, 2));
    EXPECT(BAD_HANDLE, cuStreamWaitEvent(stream, NULL, 0));
    EXPECT(BAD_HANDLE, cuEventRecordWithFlags(NULL, stream, 0));
    EXPECT(BAD_HANDLE, cuEventDestroy(NULL));
    CHECK(cuEventDestroy(event));
    CHECK(cuEventDestroy(untimed));
    CHECK(cuStreamDestroy(stream));
}

static size_t shared_of(int threads)
{
    return (size_t)threads * 4;
}

static void occupancy(CUfunction fill)
{
    int blocks = 77, least = 0, size = 0;
    size_t shared = 0;
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, fill, 128, 0));
    REQUIRE(blocks >= 1);
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, fill, 2048, 0));
    REQUIRE(blocks == 0);
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, fill, 128, 1 << 20));
    REQUIRE(blocks == 0);
    EXPECT(INVALID, cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, fill, 0, 0));
    EXPECT(INVALID, cuOccupancyMaxActiveBlocksPerMultiprocessor(NULL, fill, 128, 0));
    EXPECT(BAD_HANDLE, cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, NULL, 128, 0));
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&blocks, fill, 128, 0,
                                                               CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE));
    EXPECT(INVALID, cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&blocks, fill, 128, 0, 2));
    CHECK(cuOccupancyAvailableDynamicSMemPerBlock(&shared, fill, 1, 128));
    REQUIRE(shared >= 16384);
    EXPECT(INVALID, cuOccupancyAvailableDynamicSMemPerBlock(&shared, fill, 0, 128));
    EXPECT(INVALID, cuOccupancyAvailableDynamicSMemPerBlock(&shared, fill, 1, 2048));
    CHECK(cuOccupancyMaxPotentialBlockSize(&least, &size, fill, NULL, 0, 0));
    REQUIRE(least >= 1 && size >= 128 && size <= 1024);
    CHECK(cuOccupancyMaxPotentialBlockSize(&least, &size, fill, shared_of, 0, 128));
    REQUIRE(size >= 1 && size <= 128);
    CHECK(cuOccupancyMaxPotentialBlockSizeWithFlags(&least, &size, fill, NULL, 0, 0,
                                                    CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE));
    REQUIRE(size >= 1);
    EXPECT(INVALID, cuOccupancyMaxPotentialBlockSizeWithFlags(&least, &size, fill, NULL, 0, 0, 8));
    EXPECT(BAD_HANDLE, cuOccupancyMaxPotentialBlockSize(&least, &size, NULL, NULL, 0, 0));
}

int main(void)
{
    CUmodule module;
    CUcontext context = start();
    CHECK(cuModuleLoadData(&module, code));
    about_streams(context);
    attributes();
    events();
    occupancy(function_of(module, "fill"));
    printf("PASS " PROGRAM " streams, attributes, events, occupancy\n");
    return 0;
}
