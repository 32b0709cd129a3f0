/* Stands for libggml-cuda.so: imports of libcuda.so.1, all of which must be there when it is opened with RTLD_NOW, and the pool that it
   makes of them: much address space, in which memory is mapped as the pool grows. */
#include <cuda.h>
#include <string.h>

#define RESERVED (32ull << 30)

static CUdeviceptr base;
static size_t size;

/* Why a call failed, for the caller's message; NULL if all is well. */
static const char *failure;

static int failed(CUresult result)
{
    if (result == CUDA_SUCCESS)
        return 0;
    if (cuGetErrorString(result, &failure) != CUDA_SUCCESS)
        failure = "an error without a text";
    return 1;
}

const char *backend_failure(void)
{
    return failure;
}

/* Maps the first granule of the pool; its address, or 0. The current context is of `ordinal`. */
unsigned long long backend_pool(int ordinal, unsigned long long *bytes)
{
    CUdevice device;
    CUmemGenericAllocationHandle memory;
    int supported = 0;
    if (failed(cuDeviceGet(&device, ordinal)) ||
        failed(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device)))
        return 0;
    if (!supported) {
        failure = "the device has no virtual memory management";
        return 0;
    }
    CUmemAllocationProp property;
    memset(&property, 0, sizeof property);
    property.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    property.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    property.location.id = device;
    CUmemAccessDesc access = {property.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    if (failed(cuMemGetAllocationGranularity(&size, &property, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)) ||
        failed(cuMemCreate(&memory, size, &property, 0)) || failed(cuMemAddressReserve(&base, RESERVED, 0, 0, 0)) ||
        failed(cuMemMap(base, size, 0, memory, 0)) || failed(cuMemRelease(memory)) ||
        failed(cuMemSetAccess(base, size, &access, 1)))
        return 0;
    *bytes = size;
    return base;
}

/* Ends the pool; whether that worked. */
int backend_end(void)
{
    return !failed(cuMemUnmap(base, size)) && !failed(cuMemAddressFree(base, RESERVED));
}
