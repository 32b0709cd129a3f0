// Virtual memory management, as PyTorch's expandable segments use it: a large reservation that physical memory is mapped into piece by
// piece. Also what is refused. The driver's functions come through the runtime, so that nothing links libcuda.
#include "check.h"

#include <cstring>
#include <cuda.h>

#define REQUIRE_CU(expected, call)                                                                           \
    do {                                                                                                     \
        CUresult got_ = (call);                                                                              \
        if (got_ != (expected))                                                                              \
            fail("line %d: %s returned %d, expected %d", __LINE__, #call, (int)got_, (int)(expected));       \
    } while (0)
#define CU(call) REQUIRE_CU(CUDA_SUCCESS, call)
#define REFUSED(call)                                                                                        \
    do {                                                                                                     \
        CUresult got_ = (call);                                                                              \
        if (got_ == CUDA_SUCCESS)                                                                            \
            fail("line %d: %s succeeded", __LINE__, #call);                                                  \
    } while (0)

static void *find(const char *name)
{
    void *function = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaError_t status = cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &result);
    if (status != cudaSuccess || result != cudaDriverEntryPointSuccess || function == nullptr)
        fail("%s is not there (%d, %d)", name, (int)status, (int)result);
    return function;
}

#define FUNCTION(name) static decltype(&name) p_##name = (decltype(&name))find(#name)

__global__ static void fill(uint64_t *values, uint64_t n, uint64_t factor)
{
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x)
        values[i] = i * factor;
}

static CUmemAllocationProp properties(void)
{
    CUmemAllocationProp props;
    memset(&props, 0, sizeof props);
    props.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    props.location.id = 0;
    return props;
}

static void check_values(CUdeviceptr at, uint64_t first, uint64_t n, uint64_t factor)
{
    std::vector<uint64_t> values(n);
    CHECK(cudaMemcpy(values.data(), (void *)(at + first * 8), n * 8, cudaMemcpyDeviceToHost));
    for (uint64_t i = 0; i < n; i++)
        if (values[i] != (first + i) * factor)
            fail("value %llu is %llu", (unsigned long long)(first + i), (unsigned long long)values[i]);
}

int main()
{
    int supported = 0;
    CHECK(cudaFree(nullptr));
    FUNCTION(cuDeviceGetAttribute);
    CU(p_cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
    REQUIRE(supported == 1);
    FUNCTION(cuMemAddressReserve);
    FUNCTION(cuMemAddressFree);
    FUNCTION(cuMemCreate);
    FUNCTION(cuMemRelease);
    FUNCTION(cuMemMap);
    FUNCTION(cuMemUnmap);
    FUNCTION(cuMemSetAccess);
    FUNCTION(cuMemGetAccess);
    FUNCTION(cuMemGetAllocationGranularity);
    FUNCTION(cuMemGetAllocationPropertiesFromHandle);
    FUNCTION(cuMemRetainAllocationHandle);
    FUNCTION(cuPointerGetAttribute);

    CUmemAllocationProp props = properties();
    size_t piece = 0;
    CU(p_cuMemGetAllocationGranularity(&piece, &props, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
    REQUIRE(piece >= 4096 && (piece & (piece - 1)) == 0);

    // 32 GiB of addresses cost nothing.
    const size_t whole = 32ull << 30;
    CUdeviceptr base = 0;
    CU(p_cuMemAddressReserve(&base, whole, 0, 0, 0));
    REFUSED(p_cuMemAddressReserve(&base, whole, 0, 0, 1));

    const int pieces = 3;
    CUmemGenericAllocationHandle handles[pieces];
    CUmemAccessDesc access;
    memset(&access, 0, sizeof access);
    access.location = props.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    for (int i = 0; i < pieces; i++) {
        CU(p_cuMemCreate(&handles[i], piece, &props, 0));
        CU(p_cuMemMap(base + i * piece, piece, 0, handles[i], 0));
        CU(p_cuMemSetAccess(base + i * piece, piece, &access, 1));
    }
    REFUSED(p_cuMemMap(base, piece, 0, handles[0], 0)); // something is mapped there
    unsigned long long flags = 0;
    CU(p_cuMemGetAccess(&flags, &access.location, base + piece));
    REQUIRE(flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);

    // A kernel that crosses from one piece to the next; softgpu's copies do not, so each is of one piece.
    uint64_t n = pieces * piece / 8;
    fill<<<64, 256>>>((uint64_t *)base, n, 3);
    CHECK(cudaDeviceSynchronize());
    for (int i = 0; i < pieces; i++)
        check_values(base, i * piece / 8, piece / 8, 3);

    CUdeviceptr start = 0;
    size_t length = 0;
    int ordinal = -1;
    CUmemorytype type = (CUmemorytype)0;
    CU(p_cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, base + piece + 8));
    REQUIRE(type == CU_MEMORYTYPE_DEVICE);
    CU(p_cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, base + piece + 8));
    REQUIRE(ordinal == 0);
    CU(p_cuPointerGetAttribute(&start, CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR, base + piece + 8));
    CU(p_cuPointerGetAttribute(&length, CU_POINTER_ATTRIBUTE_MAPPING_SIZE, base + piece + 8));
    printf("mapping at +%llu, %llu bytes\n", (unsigned long long)(start - base), (unsigned long long)length);

    CUmemAllocationProp got;
    CU(p_cuMemGetAllocationPropertiesFromHandle(&got, handles[1]));
    REQUIRE(got.type == props.type && got.location.type == props.location.type && got.location.id == 0);

    // What is mapped lives on without its handle, and a handle can be had again.
    CUmemGenericAllocationHandle again = 0;
    CU(p_cuMemRetainAllocationHandle(&again, (void *)(base + 8)));
    REQUIRE(again == handles[0]);
    CU(p_cuMemRelease(again));
    for (int i = 0; i < pieces; i++)
        CU(p_cuMemRelease(handles[i]));
    CU(p_cuMemRetainAllocationHandle(&again, (void *)base));

    // The middle piece goes; the first is mapped there too, so that both addresses show the same memory.
    CU(p_cuMemUnmap(base + piece, piece));
    CU(p_cuMemMap(base + piece, piece, 0, again, 0));
    CU(p_cuMemSetAccess(base + piece, piece, &access, 1));
    check_values(base + piece, 0, 1000, 3);
    fill<<<64, 256>>>((uint64_t *)(base + piece), piece / 8, 5);
    CHECK(cudaDeviceSynchronize());
    check_values(base, 0, piece / 8, 5);
    CU(p_cuMemRelease(again));
    REFUSED(p_cuMemRelease(again));

    REFUSED(p_cuMemAddressFree(base, whole)); // there are mappings
    for (int i = 0; i < pieces; i++)
        CU(p_cuMemUnmap(base + i * piece, piece));
    CU(p_cuMemUnmap(base, piece)); // a reservation without a mapping there is no error
    REFUSED(p_cuMemUnmap(base + whole, piece));
    REFUSED(p_cuMemAddressFree(base + piece, whole - piece));
    CU(p_cuMemAddressFree(base, whole));

    CUmemAllocationProp bad = properties();
    bad.type = CU_MEM_ALLOCATION_TYPE_INVALID;
    REFUSED(p_cuMemCreate(&again, piece, &bad, 0));
    REFUSED(p_cuMemCreate(&again, piece + 1, &props, 0));
    return pass("%d pieces of %llu bytes in 32 GiB", pieces, (unsigned long long)piece);
}
