// Memory at its edges: every misuse gets its error code, and the program goes on.
#include "check.h"

#include <algorithm>

__global__ void fill(unsigned *out, unsigned count)
{
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x)
        out[i] = i ^ 0xabcd;
}

// The call fails with this error, which the next cudaGetLastError returns and clears.
#define REFUSED(error, call)                                                                                 \
    do {                                                                                                     \
        EXPECT(error, call);                                                                                 \
        EXPECT(error, cudaGetLastError());                                                                   \
        CHECK(cudaGetLastError());                                                                           \
    } while (0)

static void allocation()
{
    void *memory = (void *)1;
    REFUSED(cudaErrorMemoryAllocation, cudaMalloc(&memory, (size_t)1 << 60));
    REFUSED(cudaErrorMemoryAllocation, cudaMalloc(&memory, (size_t)1 << 45));
    REFUSED(cudaErrorInvalidValue, cudaMalloc(nullptr, 16));
    CHECK(cudaMalloc(&memory, 0));
    REQUIRE(memory == nullptr);
    CHECK(cudaFree(nullptr));
    CHECK(cudaFreeHost(nullptr));

    std::vector<char *> blocks;
    for (int i = 0; i < 100; i++) {
        char *block;
        CHECK(cudaMalloc(&block, 1 + noise(i) % 5000));
        REQUIRE((uintptr_t)block % 256 == 0);
        blocks.push_back(block);
    }
    std::vector<char *> sorted = blocks;
    std::sort(sorted.begin(), sorted.end());
    REQUIRE(std::unique(sorted.begin(), sorted.end()) == sorted.end());
    for (char *block : blocks)
        CHECK(cudaFree(block));
}

static void bad_pointers()
{
    int word = 0;
    unsigned *device;
    CHECK(cudaMalloc(&device, 4096));
    REFUSED(cudaErrorInvalidValue, cudaFree((void *)0x1000));
    REFUSED(cudaErrorInvalidValue, cudaFree(&word));
    REFUSED(cudaErrorInvalidValue, cudaFree((char *)device + 256)); // inside, not at the start
    REFUSED(cudaErrorInvalidValue, cudaFreeHost(&word));
    REFUSED(cudaErrorInvalidValue, cudaMemcpy((void *)0x1000, &word, sizeof word, cudaMemcpyHostToDevice));
    REFUSED(cudaErrorInvalidValue, cudaMemset((void *)0x1000, 0, 16));
    REFUSED(cudaErrorInvalidMemcpyDirection, cudaMemcpy(device, &word, sizeof word, (cudaMemcpyKind)77));
    CHECK(cudaMemcpy(device, &word, 0, cudaMemcpyHostToDevice));
    CHECK(cudaFree(device));
    REFUSED(cudaErrorInvalidValue, cudaFree(device));
}

static void refused_configuration(cudaError_t error)
{
    if (error != cudaErrorInvalidConfiguration && error != cudaErrorInvalidValue)
        fail("a launch that no device can run returned %d (%s)", error, cudaGetErrorName(error));
}

static void bad_launches(unsigned *device)
{
    // The runtime says invalid configuration or invalid value, depending on its version; the driver under it says invalid value.
    fill<<<1, 2048>>>(device, 1);
    refused_configuration(cudaGetLastError());
    fill<<<0, 32>>>(device, 1);
    refused_configuration(cudaGetLastError());
    fill<<<1, 32, 1 << 20>>>(device, 1);
    EXPECT(cudaErrorInvalidValue, cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    cudaEvent_t start, stop;
    float time;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&stop));
    CHECK(cudaEventQuery(start)); // never recorded counts as done
    REFUSED(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&time, start, stop));
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(stop));
}

static void attributes_of_pointers(unsigned *device)
{
    cudaPointerAttributes attributes;
    int word = 0;
    CHECK(cudaPointerGetAttributes(&attributes, device + 1));
    REQUIRE(attributes.type == cudaMemoryTypeDevice && attributes.device == 0);
    REQUIRE(attributes.devicePointer == device + 1 && attributes.hostPointer == nullptr);
    CHECK(cudaPointerGetAttributes(&attributes, &word));
    REQUIRE(attributes.type == cudaMemoryTypeUnregistered);
    unsigned *pinned, *mapped;
    CHECK(cudaHostAlloc(&pinned, 4096, cudaHostAllocMapped));
    CHECK(cudaPointerGetAttributes(&attributes, pinned));
    REQUIRE(attributes.type == cudaMemoryTypeHost && attributes.hostPointer == pinned);
    // A kernel writes pinned host memory in place.
    CHECK(cudaHostGetDevicePointer(&mapped, pinned, 0));
    fill<<<1, 64>>>(mapped, 1024);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    for (unsigned i = 0; i < 1024; i++)
        REQUIRE(pinned[i] == (i ^ 0xabcd));
    // A set of pinned memory without a stream is done when it returns.
    for (unsigned round = 1; round < 20; round++) {
        fill<<<1, 64>>>(mapped, 1024);
        CHECK(cudaGetLastError());
        CHECK(cudaMemset(pinned, round, 4096));
        REQUIRE(pinned[0] == round * 0x01010101u && pinned[1023] == round * 0x01010101u);
        CHECK(cudaMemset2D(pinned, 64, round + 1, 32, 64));
        REQUIRE(pinned[1008] == (round + 1) * 0x01010101u && pinned[1023] == round * 0x01010101u);
    }
    CHECK(cudaFreeHost(pinned));
}

static void accounting()
{
    constexpr size_t size = (size_t)96 << 20;
    size_t before, during, total;
    void *memory;
    CHECK(cudaMemGetInfo(&before, &total));
    CHECK(cudaMalloc(&memory, size));
    CHECK(cudaMemGetInfo(&during, &total));
    if (during + size > before)
        fail("%zu bytes were free before an allocation of %zu, %zu after", before, size, during);
    CHECK(cudaFree(memory));
}

int main()
{
    allocation();
    bad_pointers();
    unsigned *device;
    CHECK(cudaMalloc(&device, 4096));
    bad_launches(device);
    attributes_of_pointers(device);
    accounting();
    fill<<<1, 64>>>(device, 1024);
    CHECK(cudaGetLastError());
    std::vector<unsigned> host(1024);
    CHECK(cudaMemcpy(host.data(), device, 4096, cudaMemcpyDeviceToHost));
    for (unsigned i = 0; i < 1024; i++)
        REQUIRE(host[i] == (i ^ 0xabcd));
    CHECK(cudaFree(device));
    return pass("every misuse refused with its code, and memory works after it");
}
