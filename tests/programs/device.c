/* Devices and errors: what a program asks before it has a context, peers of a single device, and bad input. */
#include "driver.h"

static void properties(void)
{
    CUdevprop properties;
    int major = 0, minor = 0, value = 0;
    memset(&properties, 0, sizeof properties);
    CHECK(cuDeviceComputeCapability(&major, &minor, 0));
    CHECK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
    REQUIRE(major == value && minor >= 0);
    EXPECT(INVALID, cuDeviceComputeCapability(NULL, &minor, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceComputeCapability(&major, &minor, 99));
    CHECK(cuDeviceGetProperties(&properties, 0));
    CHECK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 0));
    REQUIRE(properties.maxThreadsPerBlock == value && properties.SIMDWidth == 32);
    CHECK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 0));
    REQUIRE(properties.maxGridSize[1] == value);
    CHECK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 0));
    REQUIRE(properties.sharedMemPerBlock == value);
    EXPECT(INVALID, cuDeviceGetProperties(NULL, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetProperties(&properties, -1));
    EXPECT(INVALID, cuDeviceGetAttribute(&value, (CUdevice_attribute)9999, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 99));
}

static void addresses(void)
{
    char id[32];
    CUdevice device = 9;
    CUuuid uuid;
    size_t size;
    CHECK(cuDeviceGetPCIBusId(id, 13, 0));
    REQUIRE(strlen(id) == 12);
    CHECK(cuDeviceGetByPCIBusId(&device, id));
    REQUIRE(device == 0);
    EXPECT(INVALID, cuDeviceGetPCIBusId(id, 12, 0));
    EXPECT(INVALID, cuDeviceGetPCIBusId(id, 5, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetPCIBusId(id, 13, 99));
    EXPECT(INVALID, cuDeviceGetByPCIBusId(&device, "garbage"));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetByPCIBusId(&device, "0000:ff:1f.0"));
    EXPECT(INVALID, cuDeviceGetUuid(NULL, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetUuid(&uuid, 99));
    EXPECT(INVALID, cuDeviceTotalMem(NULL, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceTotalMem(&size, 99));
    EXPECT(INVALID, cuDeviceGet(NULL, 0));
    EXPECT(INVALID, cuDeviceGetCount(NULL));
}

static void luid(void)
{
    char name[8];
    unsigned mask;
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuDeviceGetLuid(name, &mask, 0)); /* Windows only */
    EXPECT(INVALID, cuDeviceGetLuid(NULL, &mask, 0));
    EXPECT(INVALID, cuDeviceGetLuid(name, NULL, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetLuid(name, &mask, 99));
}

static void linear_textures(void)
{
    size_t one = 0, four = 0;
    CHECK(cuDeviceGetTexture1DLinearMaxWidth(&one, CU_AD_FORMAT_FLOAT, 1, 0));
    CHECK(cuDeviceGetTexture1DLinearMaxWidth(&four, CU_AD_FORMAT_FLOAT, 4, 0));
    REQUIRE(one > 0 && four > 0 && four <= one);
    EXPECT(INVALID, cuDeviceGetTexture1DLinearMaxWidth(&one, CU_AD_FORMAT_FLOAT, 3, 0));
    EXPECT(INVALID, cuDeviceGetTexture1DLinearMaxWidth(&one, (CUarray_format)5, 1, 0));
    EXPECT(INVALID, cuDeviceGetTexture1DLinearMaxWidth(NULL, CU_AD_FORMAT_FLOAT, 1, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetTexture1DLinearMaxWidth(&one, CU_AD_FORMAT_FLOAT, 1, 99));
}

/* A device is not its own peer. */
static void peers(void)
{
    int value = 77;
    unsigned capability = 77;
    CUatomicOperation operation = CU_ATOMIC_OPERATION_INTEGER_ADD;
    CHECK(cuDeviceCanAccessPeer(&value, 0, 0));
    REQUIRE(value == 0);
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceCanAccessPeer(&value, 0, 99));
    EXPECT(INVALID, cuDeviceCanAccessPeer(NULL, 0, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE,
           cuDeviceGetP2PAttribute(&value, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 0, 0));
    EXPECT(INVALID, cuDeviceGetP2PAttribute(NULL, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 0, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetP2PAtomicCapabilities(&capability, &operation, 1, 0, 0));
    EXPECT(INVALID, cuDeviceGetHostAtomicCapabilities(&capability, &operation, 0, 0));
    EXPECT(INVALID, cuDeviceGetHostAtomicCapabilities(NULL, &operation, 1, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetHostAtomicCapabilities(&capability, &operation, 1, 99));
}

static void errors(void)
{
    const char *text = NULL;
    CHECK(cuGetErrorString(CUDA_ERROR_INVALID_VALUE, &text));
    REQUIRE(strcmp(text, "invalid argument") == 0);
    CHECK(cuGetErrorString(CUDA_SUCCESS, &text));
    REQUIRE(strcmp(text, "no error") == 0);
    EXPECT(INVALID, cuGetErrorString((CUresult)12345, &text));
    REQUIRE(text == NULL);
    EXPECT(INVALID, cuGetErrorName((CUresult)12345, &text));
}

static void called(CUasyncNotificationInfo *info, void *argument, CUasyncCallbackHandle callback)
{
    (void)info, (void)argument, (void)callback;
}

static void notifications(void)
{
    CUasyncCallbackHandle first = NULL, second = NULL;
    CHECK(cuDeviceRegisterAsyncNotification(0, called, NULL, &first));
    CHECK(cuDeviceRegisterAsyncNotification(0, called, NULL, &second));
    REQUIRE(first && second && first != second);
    EXPECT(INVALID, cuDeviceRegisterAsyncNotification(0, NULL, NULL, &first));
    CHECK(cuDeviceUnregisterAsyncNotification(0, first));
    CHECK(cuDeviceUnregisterAsyncNotification(0, second));
}

int main(void)
{
    int major, minor;
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuDeviceComputeCapability(&major, &minor, 0));
    CHECK(cuInit(0));
    properties();
    addresses();
    luid();
    linear_textures();
    peers();
    errors();
    notifications();
    start();
    CUmemDecompressParams parameters;
    size_t index = 77;
    int algorithms = -1;
    memset(&parameters, 0, sizeof parameters);
    CHECK(cuDeviceGetAttribute(&algorithms, CU_DEVICE_ATTRIBUTE_MEM_DECOMPRESS_ALGORITHM_MASK, 0));
    if (algorithms == 0)
        EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuMemBatchDecompressAsync(&parameters, 1, 0, &index, NULL));
    printf("PASS " PROGRAM " properties, peers, errors\n");
    return 0;
}
