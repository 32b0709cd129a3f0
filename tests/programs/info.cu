// What a program asks before it computes: versions, device, properties, attributes, memory. Then one launch.
#include "check.h"

#include <cstring>
#include <strings.h>

__global__ void identify(unsigned *out)
{
    out[threadIdx.x] = blockDim.x * 1000 + threadIdx.x;
}

static int attribute(cudaDeviceAttr which)
{
    int value = -1;
    CHECK(cudaDeviceGetAttribute(&value, which, 0));
    return value;
}

int main()
{
    int driver = 0, runtime = 0, count = 0, current = -1;
    CHECK(cudaDriverGetVersion(&driver));
    CHECK(cudaRuntimeGetVersion(&runtime));
    CHECK(cudaGetDeviceCount(&count));
    printf("driver %d, runtime %d, devices %d\n", driver, runtime, count);
    REQUIRE(driver >= 12000 && runtime / 1000 == CUDART_VERSION / 1000 && count >= 1);
    CHECK(cudaGetDevice(&current));
    REQUIRE(current == 0);
    CHECK(cudaSetDevice(0));
    EXPECT(cudaErrorInvalidDevice, cudaSetDevice(count));
    EXPECT(cudaErrorInvalidDevice, cudaGetLastError());

    cudaDeviceProp p;
    memset(&p, 0xcc, sizeof p);
    CHECK(cudaGetDeviceProperties(&p, 0));
    printf("%s, %d.%d, %d multiprocessors, %zu bytes\n", p.name, p.major, p.minor, p.multiProcessorCount,
           p.totalGlobalMem);
    REQUIRE(strnlen(p.name, sizeof p.name) > 0 && strnlen(p.name, sizeof p.name) < sizeof p.name);
    REQUIRE(p.warpSize == 32 && p.maxThreadsPerBlock >= 1024);
    REQUIRE(p.major == attribute(cudaDevAttrComputeCapabilityMajor));
    REQUIRE(p.minor == attribute(cudaDevAttrComputeCapabilityMinor));
    REQUIRE(p.multiProcessorCount == attribute(cudaDevAttrMultiProcessorCount));
    REQUIRE(p.maxThreadsPerBlock == attribute(cudaDevAttrMaxThreadsPerBlock));
    REQUIRE(p.sharedMemPerBlock == (size_t)attribute(cudaDevAttrMaxSharedMemoryPerBlock));
    REQUIRE(p.unifiedAddressing == 1 && attribute(cudaDevAttrUnifiedAddressing) == 1);
    for (int which = 1; which <= 120; which++) { // none may fail but for being unknown
        int value;
        cudaError_t error = cudaDeviceGetAttribute(&value, (cudaDeviceAttr)which, 0);
        if (error != cudaSuccess && error != cudaErrorInvalidValue)
            fail("attribute %d returned %d (%s)", which, (int)error, cudaGetErrorName(error));
    }
    cudaGetLastError();

    char bus_id[32] = "", expected[32];
    CHECK(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, 0));
    snprintf(expected, sizeof expected, "%04x:%02x:%02x.0", p.pciDomainID, p.pciBusID, p.pciDeviceID);
    printf("PCI %s\n", bus_id);
    if (strcasecmp(bus_id, expected) != 0)
        fail("the PCI bus id is %s, the properties say %s", bus_id, expected);
    int device = -1;
    CHECK(cudaDeviceGetByPCIBusId(&device, bus_id));
    REQUIRE(device == 0);

    size_t free_bytes = 0, total = 0;
    CHECK(cudaMemGetInfo(&free_bytes, &total));
    printf("memory %zu free of %zu\n", free_bytes, total);
    REQUIRE(free_bytes > 0 && free_bytes <= total && total <= p.totalGlobalMem);

    cudaFuncAttributes attributes;
    CHECK(cudaFuncGetAttributes(&attributes, identify));
    REQUIRE(attributes.maxThreadsPerBlock >= 64 && attributes.sharedSizeBytes == 0);
    int blocks = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, identify, 128, 0));
    REQUIRE(blocks >= 1);

    DeviceArray<unsigned> out(64);
    identify<<<1, 64>>>(out.get());
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    std::vector<unsigned> result = out.read();
    for (unsigned i = 0; i < 64; i++)
        REQUIRE(result[i] == 64000 + i);
    return pass("%s, driver %d, runtime %d", p.name, driver, runtime);
}
