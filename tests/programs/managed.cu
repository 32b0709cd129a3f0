// Managed memory: one pointer for the program and the device, what it is said to be, advice, prefetches and what they are told to be.
#include "check.h"

#include "entry.h"

#include <initializer_list>

__global__ static void add(uint32_t *values, size_t n, uint32_t what)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        values[i] += what;
}

static decltype(&cuMemAdvise_v2) p_advise = (decltype(&cuMemAdvise_v2))driver_function("cuMemAdvise", 13000);
static decltype(&cuMemPrefetchAsync_v2) p_prefetch = (decltype(&cuMemPrefetchAsync_v2))driver_function("cuMemPrefetchAsync", 13000);
static CUresult (*p_advise_v1)(CUdeviceptr, size_t, CUmem_advise, CUdevice) =
    (CUresult(*)(CUdeviceptr, size_t, CUmem_advise, CUdevice))driver_function("cuMemAdvise", 8000);
static CUresult (*p_prefetch_v1)(CUdeviceptr, size_t, CUdevice, CUstream) =
    (CUresult(*)(CUdeviceptr, size_t, CUdevice, CUstream))driver_function("cuMemPrefetchAsync", 8000);
FUNCTION(cuMemAllocManaged);
FUNCTION(cuMemFree);
FUNCTION(cuMemGetAddressRange);
FUNCTION(cuMemHostGetDevicePointer);
FUNCTION(cuMemRangeGetAttribute);
FUNCTION(cuMemRangeGetAttributes);
FUNCTION(cuMemPrefetchBatchAsync);
FUNCTION(cuMemDiscardBatchAsync);
FUNCTION(cuMemDiscardAndPrefetchBatchAsync);
FUNCTION(cuPointerGetAttribute);

static const size_t bytes = 4 << 20;
static const CUdevice cpu = CU_DEVICE_CPU;

static int range(CUdeviceptr at, size_t n, CUmem_range_attribute attribute)
{
    int value = 77;
    DRIVER(p_cuMemRangeGetAttribute(&value, sizeof value, attribute, at, n));
    return value;
}

static CUmemLocation location(CUmemLocationType type, int id)
{
    CUmemLocation place;
    place.type = type;
    place.id = id;
    return place;
}

static void use(void)
{
    const size_t n = 1 << 20;
    uint32_t *values;
    CHECK(cudaMallocManaged(&values, n * 4));
    for (size_t i = 0; i < n; i++)
        values[i] = (uint32_t)i;
    add<<<64, 128>>>(values, n, 3);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    for (size_t i = 0; i < n; i++)
        REQUIRE(values[i] == (uint32_t)i + 3);

    // Copies of every direction, in the order of the stream, and sets.
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    DeviceArray<uint32_t> copy(n);
    std::vector<uint32_t> plain(n);
    add<<<64, 128, 0, stream>>>(values, n, 1);
    CHECK(cudaMemcpyAsync(copy.get(), values, n * 4, cudaMemcpyHostToDevice, stream));
    add<<<64, 128, 0, stream>>>(copy.get(), n, 1);
    CHECK(cudaMemcpyAsync(values, copy.get(), n * 4, cudaMemcpyDefault, stream));
    CHECK(cudaMemsetAsync(values, 0xff, 64, stream));
    CHECK(cudaMemcpyAsync(plain.data(), values, n * 4, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(values[15] == 0xffffffff && values[16] == 21 && plain[15] == 0xffffffff && plain[n - 1] == (uint32_t)n + 4);
    CHECK(cudaMemcpy(values, plain.data() + 16, 64, cudaMemcpyDefault));
    CHECK(cudaDeviceSynchronize()); // from pageable memory: the bytes are taken, not yet there
    REQUIRE(values[0] == 21 && values[15] == 36);

    cudaPointerAttributes attributes;
    CHECK(cudaPointerGetAttributes(&attributes, values + 5));
    REQUIRE(attributes.type == cudaMemoryTypeManaged && attributes.hostPointer == values + 5 && attributes.devicePointer == values + 5);
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaFree(values));
    CHECK(cudaPointerGetAttributes(&attributes, values));
    REQUIRE(attributes.type == cudaMemoryTypeUnregistered);
}

static void attributes(CUdeviceptr at)
{
    unsigned value = 9;
    DRIVER(p_cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at));
    REQUIRE(value == CU_MEMORYTYPE_DEVICE);
    DRIVER(p_cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_IS_MANAGED, at + 5000));
    REQUIRE(value == 1);
    DRIVER(p_cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, at));
    REQUIRE(value == 1);
    CUdeviceptr base = 0;
    size_t size = 0;
    DRIVER(p_cuMemGetAddressRange(&base, &size, at + 100));
    REQUIRE(base == at && size == bytes);
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostGetDevicePointer(&base, (void *)at, 0));
    EXPECT(cudaErrorInvalidValue, cudaFreeHost((void *)at));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemFree(at + 4096));
}

static void advise(CUdeviceptr at)
{
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY) == 0);
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION) == -2);
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION) == -2);
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE) == 0);
    DRIVER(p_advise_v1(at, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 5)); // the device is not looked at
    DRIVER(p_advise_v1(at, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, cpu));
    DRIVER(p_advise_v1(at, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, cpu));
    DRIVER(p_advise_v1(at, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, 0));
    int list[4] = {};
    DRIVER(p_cuMemRangeGetAttribute(list, sizeof list, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, at, bytes));
    REQUIRE(list[0] == 0 && list[1] == -1 && list[2] == -2 && list[3] == -2);
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY) == 1);
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION) == -1);
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE) == CU_MEM_LOCATION_TYPE_HOST);
    DRIVER(p_advise_v1(at, 65536, CU_MEM_ADVISE_UNSET_READ_MOSTLY, 0));
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY) == 0);
    REQUIRE(range(at + 65536, bytes - 65536, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY) == 1);
    DRIVER(p_advise(at + 65536, 65536, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, location(CU_MEM_LOCATION_TYPE_DEVICE, 0)));
    REQUIRE(range(at + 65536, 65536, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID) == 0);
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION) == -2);
    DRIVER(p_advise_v1(at, bytes, CU_MEM_ADVISE_UNSET_ACCESSED_BY, 0));
    DRIVER(p_cuMemRangeGetAttribute(list, 4, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, at, bytes));
    REQUIRE(list[0] == -1);
    DRIVER(p_advise_v1(at, bytes, CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION, 0));
    DRIVER(p_advise(at + 100, 100, CU_MEM_ADVISE_SET_READ_MOSTLY, location(CU_MEM_LOCATION_TYPE_HOST, 3)));
    REQUIRE(range(at, 4096, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY) == 1); // whole pages

    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_advise_v1(at, bytes, (CUmem_advise)0, 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_advise_v1(at, bytes, (CUmem_advise)7, 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_DEVICE, p_advise_v1(at, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, 99));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_DEVICE, p_advise_v1(at, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, -2));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_advise_v1(at, 0, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_advise_v1(at, bytes + 1, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CUmemLocation none = location((CUmemLocationType)0, 0), node = location(CU_MEM_LOCATION_TYPE_HOST_NUMA, 0);
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_advise(at, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, none));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_advise(at, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, node));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE,
              p_advise(at, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, location(CU_MEM_LOCATION_TYPE_DEVICE, 99)));
}

static void prefetch(CUdeviceptr at, CUstream stream)
{
    DRIVER(p_prefetch_v1(at, bytes, 0, stream));
    CHECK(cudaStreamSynchronize((cudaStream_t)stream));
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION) == 0);
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE) == CU_MEM_LOCATION_TYPE_DEVICE);
    DRIVER(p_prefetch(at, 65536, location(CU_MEM_LOCATION_TYPE_HOST_NUMA, 0), 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    REQUIRE(range(at, 65536, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION) == -1);
    REQUIRE(range(at, 65536, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE) == CU_MEM_LOCATION_TYPE_HOST_NUMA);
    REQUIRE(range(at, 65536, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID) == 0);
    REQUIRE(range(at, bytes, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION) == -2);
    DRIVER_EXPECT(CUDA_ERROR_INVALID_DEVICE, p_prefetch_v1(at, bytes, 99, stream));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_DEVICE, p_prefetch(at, bytes, location(CU_MEM_LOCATION_TYPE_DEVICE, 99), 0, stream));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_prefetch(at, bytes, location(CU_MEM_LOCATION_TYPE_DEVICE, 0), 1, stream));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_prefetch_v1(at, 0, 0, stream));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_prefetch_v1(at, bytes * 2, 0, stream));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_prefetch_v1(0, bytes, 0, stream));
}

static void batches(CUdeviceptr at, CUdeviceptr device, CUstream stream)
{
    CUdeviceptr pointers[] = {at, at + 65536};
    size_t sizes[] = {65536, 65536}, firsts[] = {0, 1};
    CUmemLocation places[] = {location(CU_MEM_LOCATION_TYPE_DEVICE, 0), location(CU_MEM_LOCATION_TYPE_HOST, 0)};
    DRIVER(p_cuMemPrefetchBatchAsync(pointers, sizes, 2, places, firsts, 2, 0, stream));
    CHECK(cudaStreamSynchronize((cudaStream_t)stream));
    REQUIRE(range(at, 65536, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION) == 0);
    REQUIRE(range(at + 65536, 65536, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION) == -1);
    DRIVER(p_cuMemDiscardAndPrefetchBatchAsync(pointers, sizes, 2, places, firsts, 1, 0, stream));
    CHECK(cudaStreamSynchronize((cudaStream_t)stream));
    REQUIRE(range(at, 131072, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION) == 0);
    DRIVER(p_cuMemDiscardBatchAsync(pointers, sizes, 2, 0, stream));
    for (auto function : {p_cuMemPrefetchBatchAsync, p_cuMemDiscardAndPrefetchBatchAsync}) {
        DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, function(pointers, sizes, 2, places, firsts, 1, 0, nullptr));
        DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, function(pointers, sizes, 2, places, firsts, 1, 1, stream));
        DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, function(pointers, sizes, 0, places, firsts, 1, 0, stream));
        DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, function(nullptr, sizes, 2, places, firsts, 1, 0, stream));
        DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, function(pointers, sizes, 2, nullptr, firsts, 1, 0, stream));
        DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, function(pointers, sizes, 2, places, firsts, 0, 0, stream));
        DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, function(pointers, sizes, 2, places, firsts + 1, 1, 0, stream));
    }
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemDiscardBatchAsync(pointers, sizes, 2, 0, nullptr));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemDiscardBatchAsync(pointers, nullptr, 2, 0, stream));
    pointers[1] = device;
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemDiscardBatchAsync(pointers, sizes, 2, 0, stream));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemPrefetchBatchAsync(pointers, sizes, 2, places, firsts, 1, 0, stream));
}

static void bad_input(CUdeviceptr at, CUdeviceptr device)
{
    CUdeviceptr got;
    int value[2];
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemAllocManaged(nullptr, 4096, CU_MEM_ATTACH_GLOBAL));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemAllocManaged(&got, 0, CU_MEM_ATTACH_GLOBAL));
    for (unsigned flags : {0u, 3u, 4u, 8u, 0x80000000u})
        DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemAllocManaged(&got, 4096, flags));
    DRIVER(p_cuMemAllocManaged(&got, 10, CU_MEM_ATTACH_HOST));
    DRIVER(p_cuMemFree(got));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_advise_v1(device, 4096, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_prefetch_v1(device, 4096, 0, nullptr));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemRangeGetAttribute(value, 4, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, device, 4096));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemRangeGetAttribute(value, 8, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, at, 4096));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemRangeGetAttribute(value, 6, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, at, 4096));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemRangeGetAttribute(nullptr, 4, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, at, 4096));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemRangeGetAttribute(value, 4, (CUmem_range_attribute)9, at, 4096));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemRangeGetAttribute(value, 4, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, at, 0));
    void *places[] = {&value[0], &value[1]};
    size_t sizes[] = {4, 4};
    CUmem_range_attribute asked[] = {CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION};
    DRIVER(p_cuMemRangeGetAttributes(places, sizes, asked, 2, at + (1 << 20), 4096));
    REQUIRE(value[0] == 1 && value[1] == -2);
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemRangeGetAttributes(places, sizes, asked, 0, at, 4096));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemRangeGetAttributes(places, nullptr, asked, 2, at, 4096));
}

int main()
{
    int managed = 0, concurrent = 0;
    CHECK(cudaFree(nullptr));
    CHECK(cudaDeviceGetAttribute(&managed, cudaDevAttrManagedMemory, 0));
    CHECK(cudaDeviceGetAttribute(&concurrent, cudaDevAttrConcurrentManagedAccess, 0));
    REQUIRE(managed == 1 && concurrent == 1);
    use();
    CUdeviceptr at, device;
    CUstream stream;
    CHECK(cudaStreamCreateWithFlags((cudaStream_t *)&stream, cudaStreamNonBlocking));
    CHECK(cudaMalloc((void **)&device, 4096));
    DRIVER(p_cuMemAllocManaged(&at, bytes, CU_MEM_ATTACH_GLOBAL));
    attributes(at);
    advise(at);
    prefetch(at, stream);
    batches(at, device, stream);
    bad_input(at, device);
    DRIVER(p_cuMemFree(at));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemFree(at));
    CHECK(cudaFree((void *)device));
    CHECK(cudaStreamDestroy((cudaStream_t)stream));
    return pass("managed memory, advice and prefetches");
}
