// Registering memory that the program has already, as PyTorch does it with its tensors' memory: at any address, with its contents, at the
// same address for the device. Also what registrations may share, what they refuse, and a child of a fork.
#include "check.h"

#include "entry.h"

#include <atomic>
#include <cstring>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>

__global__ static void add(uint32_t *values, size_t n, uint32_t what)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        values[i] += what;
}

FUNCTION(cuPointerGetAttribute);
FUNCTION(cuPointerGetAttributes);
FUNCTION(cuPointerSetAttribute);
FUNCTION(cuMemHostRegister);
FUNCTION(cuMemHostUnregister);
FUNCTION(cuMemHostGetFlags);

static char *pages(size_t n)
{
    void *memory = mmap(nullptr, n << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    return (char *)memory;
}

// Any address, any length: the contents stay, the device works in place, copies are right, and all of it is there afterwards.
static void in_place(size_t n, size_t offset)
{
    uint32_t *values = (uint32_t *)(pages((n * 4 >> 12) + 2) + offset), *device;
    for (size_t i = 0; i < n; i++)
        values[i] = (uint32_t)i;
    CHECK(cudaHostRegister(values, n * 4, cudaHostRegisterMapped | cudaHostRegisterPortable));
    for (size_t i = 0; i < n; i++)
        REQUIRE(values[i] == i);
    CHECK(cudaHostGetDevicePointer(&device, values, 0));
    REQUIRE(device == values);
    add<<<64, 128>>>(values, n, 5);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    DeviceArray<uint32_t> copy(n);
    CHECK(cudaMemcpyAsync(copy.get(), values, n * 4, cudaMemcpyDefault));
    add<<<64, 128>>>(copy.get(), n, 7);
    CHECK(cudaMemcpyAsync(values, copy.get(), n * 4, cudaMemcpyDeviceToHost));
    CHECK(cudaDeviceSynchronize());
    REQUIRE(values[0] == 12 && values[n - 1] == (uint32_t)n + 11);
    cudaPointerAttributes attributes;
    CHECK(cudaPointerGetAttributes(&attributes, values));
    REQUIRE(attributes.type == cudaMemoryTypeHost && attributes.hostPointer == values && attributes.devicePointer == values);
    unsigned flags = 0;
    CHECK(cudaHostGetFlags(&flags, values));
    REQUIRE(flags == 3);
    CHECK(cudaHostUnregister(values));
    CHECK(cudaPointerGetAttributes(&attributes, values));
    REQUIRE(attributes.type == cudaMemoryTypeUnregistered);
    for (size_t i = 0; i < n; i++)
        REQUIRE(values[i] == (uint32_t)i + 12);
    CHECK(cudaMemcpy(copy.get(), values, n * 4, cudaMemcpyHostToDevice));
}

// The heap: other things lie on the first and the last page.
static void heap(void)
{
    std::vector<uint32_t> before(1000, 1), values(100000, 2), after(1000, 3);
    CHECK(cudaHostRegister(values.data(), values.size() * 4, 0));
    before[999]++;
    after[0]++;
    add<<<64, 128>>>(values.data(), values.size(), 1);
    CHECK(cudaDeviceSynchronize());
    REQUIRE(values[0] == 3 && values[99999] == 3 && before[999] == 2 && after[0] == 4);
    CHECK(cudaHostUnregister(values.data()));
    REQUIRE(values[0] == 3 && values[99999] == 3 && before[999] == 2 && after[0] == 4);
}

static void attributes(char *base)
{
    CUdeviceptr at = (CUdeviceptr)base;
    unsigned value = 0, on = 7;
    unsigned long long address = 0;
    size_t size = 0;
    CHECK(cudaHostRegister(base + 100, 1000, cudaHostRegisterReadOnly));
    DRIVER(p_cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_ACCESS_FLAGS, at + 100));
    REQUIRE(value == CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ);
    DRIVER(p_cuMemHostGetFlags(&value, base + 200));
    REQUIRE(value == CU_MEMHOSTREGISTER_DEVICEMAP);
    DRIVER(p_cuPointerGetAttribute(&address, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, at + 200));
    DRIVER(p_cuPointerGetAttribute(&size, CU_POINTER_ATTRIBUTE_RANGE_SIZE, at + 200));
    REQUIRE(address == at + 100 && size == 1000);
    DRIVER(p_cuPointerGetAttribute(&address, CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR, at + 200));
    DRIVER(p_cuPointerGetAttribute(&size, CU_POINTER_ATTRIBUTE_MAPPING_SIZE, at + 200));
    REQUIRE(address == at && size == 4096);
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at + 50));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at + 2000));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuPointerGetAttribute(&value, (CUpointer_attribute)22, at + 100));

    DRIVER(p_cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, at + 100));
    REQUIRE(value == 0);
    DRIVER(p_cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, at + 300));
    DRIVER(p_cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, at + 100));
    REQUIRE(value == 1);
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at + 100));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuPointerSetAttribute(nullptr, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, at + 100));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, at + 2000));
    CHECK(cudaHostUnregister(base + 100));

    // What the driver does not know is the program's own.
    CUpointer_attribute asked[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_HOST_POINTER,
                                   CU_POINTER_ATTRIBUTE_DEVICE_POINTER, CU_POINTER_ATTRIBUTE_RANGE_SIZE};
    unsigned type = 9;
    int ordinal = 9;
    void *host = nullptr;
    CUdeviceptr device = 9;
    size = 9;
    void *places[] = {&type, &ordinal, &host, &device, &size};
    DRIVER(p_cuPointerGetAttributes(5, asked, places, at));
    REQUIRE(type == 0 && ordinal == -2 && host == base && device == 0 && size == 9);
}

// Registrations may share a page, but no byte.
static void share(char *base)
{
    memset(base, 1, 3 << 12);
    DRIVER(p_cuMemHostRegister(base + 100, 1000, 0));
    DRIVER(p_cuMemHostRegister(base + 2000, 1000, 0));
    DRIVER(p_cuMemHostRegister(base, 50, 0));
    DRIVER_EXPECT(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, p_cuMemHostRegister(base + 100, 1000, 0));
    DRIVER_EXPECT(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, p_cuMemHostRegister(base + 1100, 5000, 0));
    DRIVER_EXPECT(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, p_cuMemHostRegister(base + 40, 20, 0));
    DRIVER(p_cuMemHostRegister(base + 4000, 4192, 0));
    DRIVER(p_cuMemHostUnregister(base + 100));
    DRIVER(p_cuMemHostUnregister(base));
    add<<<1, 32>>>((uint32_t *)(base + 2000), 250, 1);
    add<<<1, 32>>>((uint32_t *)(base + 4000), 1048, 1);
    CHECK(cudaDeviceSynchronize());
    DRIVER(p_cuMemHostUnregister(base + 4000));
    add<<<1, 32>>>((uint32_t *)(base + 2000), 250, 1);
    CHECK(cudaDeviceSynchronize());
    DRIVER(p_cuMemHostUnregister(base + 2000));
    REQUIRE(base[1999] == 1 && base[2000] == 3 && base[3000] == 1 && base[4000] == 2 && base[8188] == 2 && base[8192] == 1);
}

static void refused(char *base)
{
    void *pinned, *device;
    CHECK(cudaMallocHost(&pinned, 8192));
    CHECK(cudaMalloc(&device, 8192));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostRegister(nullptr, 4096, 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostRegister(base, 0, 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostRegister(base, 4096, 0x10));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostRegister(base, 4096, CU_MEMHOSTREGISTER_IOMEMORY));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostRegister((void *)0x1000, 4096, 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostRegister(pinned, 4096, 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostRegister(device, 4096, 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostUnregister(nullptr));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostUnregister(pinned));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostUnregister(device));
    DRIVER_EXPECT(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, p_cuMemHostUnregister(base));
    DRIVER(p_cuMemHostRegister(base, 8192, 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostUnregister(base + 4096));
    EXPECT(cudaErrorInvalidValue, cudaFreeHost(base));
    DRIVER(p_cuMemHostUnregister(base));
    DRIVER_EXPECT(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, p_cuMemHostUnregister(base));
    munmap(base + 4096, 4096);
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostRegister(base, 8192, 0));
    mprotect(base, 4096, PROT_READ);
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, p_cuMemHostRegister(base, 4096, 0));
    CHECK(cudaFreeHost(pinned));
    CHECK(cudaFree(device));
}

// A child has its own copy, as of any private memory.
static void forked(char *base)
{
    memset(base, 5, 4096);
    CHECK(cudaHostRegister(base, 4096, 0));
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        bool same = base[0] == 5 && base[4095] == 5;
        memset(base, 6, 4096);
        _exit(same ? 0 : 1);
    }
    int status = 1;
    REQUIRE(waitpid(child, &status, 0) == child && status == 0);
    REQUIRE(base[0] == 5 && base[4095] == 5);
    CHECK(cudaHostUnregister(base));
    REQUIRE(base[0] == 5);
}

// Memory that the program has unmapped, and has something else at, stays as it is.
static void unmapped(char *base)
{
    CHECK(cudaHostRegister(base, 8192, 0));
    munmap(base, 4096);
    REQUIRE(mmap(base, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == base);
    base[0] = 9;
    CHECK(cudaHostUnregister(base));
    REQUIRE(base[0] == 9);
}

int main()
{
    int supported = 0;
    CHECK(cudaFree(nullptr));
    CHECK(cudaDeviceGetAttribute(&supported, cudaDevAttrHostRegisterSupported, 0));
    REQUIRE(supported == 1);
    in_place(1 << 20, 0);
    in_place(100000, 64);
    in_place(3, 4088);
    heap();
    attributes(pages(1));
    share(pages(3));
    refused(pages(2));
    forked(pages(1));
    unmapped(pages(2));
    return pass("memory registered in place");
}
