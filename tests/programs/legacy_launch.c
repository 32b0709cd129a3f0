/* The launch functions of CUDA 3 and before: block, shared memory and parameters set in the function, one by one. */
#include "driver.h"

static CUdeviceptr words;
static CUfunction fill;

static void set(uint32_t value)
{
    CHECK(cuParamSetSize(fill, 12));
    CHECK(cuParamSetv(fill, 0, &words, sizeof words));
    CHECK(cuParamSeti(fill, 8, value));
}

static void launches(void)
{
    CUstream stream;
    CHECK(cuFuncSetBlockShape(fill, 16, 1, 1));
    set(100);
    CHECK(cuLaunch(fill));
    REQUIRE(holds(words, 16, 100));
    CHECK(cuLaunchGrid(fill, 3, 1)); /* everything is still set */
    REQUIRE(holds(words, 48, 100));
    CHECK(cuParamSeti(fill, 8, 7));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuLaunchGridAsync(fill, 2, 1, stream));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(holds(words, 32, 7));
    CHECK(cuParamSetf(fill, 8, 1.0f));
    CHECK(cuLaunch(fill));
    REQUIRE(holds(words, 16, 0x3f800000));
    CHECK(cuStreamDestroy(stream));

    /* A launch of the newer kind does not use what is set, and what is set must be set again. */
    uint32_t value = 9;
    void *parameters[] = {&words, &value};
    CHECK(cuLaunchKernel(fill, 1, 1, 1, 64, 1, 1, 0, NULL, parameters, NULL));
    REQUIRE(holds(words, 64, 9));
    CHECK(cuFuncSetBlockShape(fill, 16, 1, 1));
    set(5);
    CHECK(cuLaunch(fill));
    REQUIRE(holds(words, 16, 5));
}

static void shared_size(CUfunction shared)
{
    CHECK(cuFuncSetBlockShape(shared, 1, 1, 1));
    CHECK(cuFuncSetSharedSize(shared, 1024));
    CHECK(cuParamSetSize(shared, 8));
    CHECK(cuParamSetv(shared, 0, &words, 8));
    CHECK(cuLaunch(shared));
    REQUIRE(holds(words, 1, 1024));
}

static void refused(void)
{
    EXPECT(INVALID, cuFuncSetBlockShape(fill, 0, 1, 1));
    EXPECT(INVALID, cuFuncSetBlockShape(fill, -1, 1, 1));
    EXPECT(INVALID, cuFuncSetBlockShape(fill, 2048, 1, 1));
    EXPECT(INVALID, cuFuncSetBlockShape(fill, 64, 32, 1));
    EXPECT(INVALID, cuFuncSetSharedSize(fill, 49153));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuParamSeti(NULL, 0, 1));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuParamSetSize(NULL, 4));
    EXPECT(INVALID, cuParamSetv(fill, 0, NULL, 8));
    EXPECT(INVALID, cuParamSetSize(fill, 32765));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuFuncSetBlockShape(NULL, 1, 1, 1));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuLaunch(NULL));
}

static void on_several_devices(void)
{
    CUstream stream;
    uint32_t value = 21;
    void *parameters[] = {&words, &value};
    CUDA_LAUNCH_PARAMS launch = {fill, 1, 1, 1, 32, 1, 1, 0, NULL, parameters};
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    launch.hStream = stream;
    CHECK(cuLaunchCooperativeKernelMultiDevice(&launch, 1, 0));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(holds(words, 32, 21));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, (launch.hStream = NULL, cuLaunchCooperativeKernelMultiDevice(&launch, 1, 0)));
    launch.hStream = stream;
    EXPECT(INVALID, cuLaunchCooperativeKernelMultiDevice(NULL, 1, 0));
    value = 22;
    CHECK(cuLaunchCooperativeKernel(fill, 1, 1, 1, 32, 1, 1, 0, stream, parameters));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(holds(words, 32, 22));
    EXPECT(INVALID, cuLaunchCooperativeKernel(fill, 0, 1, 1, 32, 1, 1, 0, stream, parameters));
    EXPECT(INVALID, cuLaunchCooperativeKernelMultiDevice(&launch, 0, 0));
    EXPECT(INVALID, cuLaunchCooperativeKernelMultiDevice(&launch, 1, 0x80));
    CHECK(cuStreamDestroy(stream));
}

int main(void)
{
    CUmodule module;
    start();
    CHECK(cuModuleLoadData(&module, code));
    fill = function_of(module, "fill");
    CHECK(cuMemAlloc(&words, 16384));
    CHECK(cuMemsetD32(words, 0, 4096));
    launches();
    shared_size(function_of(module, "shared"));
    CUfunction empty = function_of(module, "empty");
    CHECK(cuFuncSetBlockShape(empty, 1, 1, 1));
    CHECK(cuLaunch(empty));
    CHECK(cuCtxSynchronize());
    refused();
    on_several_devices();
    CHECK(cuMemFree(words));
    printf("PASS " PROGRAM " block, shared memory, parameters, several devices\n");
    return 0;
}
