// Stream-ordered allocation: the default pool, a pool of the program's own, its attributes and limits, and what is refused.
#include "check.h"

#include <cstring>

#define COUNT 100000

__global__ static void add(uint32_t *values, uint32_t n, uint32_t addend)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        values[i] = values[i] * 2 + addend;
}

static void use(uint32_t *memory, cudaStream_t stream, uint32_t addend)
{
    static uint32_t results[COUNT];
    CHECK(cudaMemsetAsync(memory, 0x11, COUNT * sizeof *memory, stream));
    add<<<(COUNT + 255) / 256, 256, 0, stream>>>(memory, COUNT, addend);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpyAsync(results, memory, sizeof results, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    for (uint32_t i = 0; i < COUNT; i++)
        if (results[i] != 0x22222222u + addend)
            fail("value %u is %#x, expected %#x", i, results[i], 0x22222222u + addend);
}

static uint64_t attribute(cudaMemPool_t pool, cudaMemPoolAttr which)
{
    uint64_t value = ~0ull;
    CHECK(cudaMemPoolGetAttribute(pool, which, &value));
    return value;
}

static cudaMemPoolProps properties(void)
{
    cudaMemPoolProps props;
    memset(&props, 0, sizeof props);
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    props.location.id = 0;
    return props;
}

static void check_attributes(cudaMemPool_t pool)
{
    uint64_t threshold = 3ull << 32, zero = 0;
    CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
    REQUIRE(attribute(pool, cudaMemPoolAttrReleaseThreshold) == threshold);
    // Policies are int: the bytes behind stay as they are.
    int policy[2] = {0, 77};
    CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolReuseAllowOpportunistic, policy));
    policy[0] = 5;
    CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolReuseAllowOpportunistic, policy));
    REQUIRE(policy[0] == 0 && policy[1] == 77);
    EXPECT(cudaErrorInvalidValue, cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &threshold));
    CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &zero));
    EXPECT(cudaErrorInvalidValue, cudaMemPoolGetAttribute(pool, (cudaMemPoolAttr)1000, &zero));
    cudaGetLastError();
}

static void check_own_pool(cudaStream_t stream)
{
    cudaMemPoolProps props = properties();
    cudaMemPool_t pool, current, standard;
    CHECK(cudaMemPoolCreate(&pool, &props));
    check_attributes(pool);

    uint32_t *memory, *more;
    REQUIRE(attribute(pool, cudaMemPoolAttrUsedMemCurrent) == 0);
    CHECK(cudaMallocFromPoolAsync((void **)&memory, COUNT * sizeof *memory, pool, stream));
    use(memory, stream, 5);
    REQUIRE(attribute(pool, cudaMemPoolAttrUsedMemCurrent) >= COUNT * sizeof *memory);
    REQUIRE(attribute(pool, cudaMemPoolAttrReservedMemCurrent) >= COUNT * sizeof *memory);

    cudaPointerAttributes about;
    CHECK(cudaPointerGetAttributes(&about, memory + 5));
    REQUIRE(about.type == cudaMemoryTypeDevice && about.device == 0 && about.devicePointer == memory + 5);

    // As the device's own pool it serves cudaMallocAsync too.
    CHECK(cudaDeviceGetDefaultMemPool(&standard, 0));
    REQUIRE(standard != pool);
    CHECK(cudaDeviceSetMemPool(0, pool));
    CHECK(cudaDeviceGetMemPool(&current, 0));
    REQUIRE(current == pool);
    uint64_t before = attribute(pool, cudaMemPoolAttrUsedMemCurrent);
    CHECK(cudaMallocAsync((void **)&more, COUNT * sizeof *more, stream));
    use(more, stream, 6);
    REQUIRE(attribute(pool, cudaMemPoolAttrUsedMemCurrent) > before);
    CHECK(cudaFreeAsync(more, stream));
    CHECK(cudaFreeAsync(memory, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(attribute(pool, cudaMemPoolAttrUsedMemCurrent) == 0);
    REQUIRE(attribute(pool, cudaMemPoolAttrUsedMemHigh) >= 2 * COUNT * sizeof *memory);
    CHECK(cudaMemPoolTrimTo(pool, 0));

    // Memory outlives its pool, and the device goes back to its default pool.
    CHECK(cudaMallocFromPoolAsync((void **)&memory, COUNT * sizeof *memory, pool, stream));
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaMemPoolDestroy(pool));
    use(memory, stream, 7);
    CHECK(cudaFreeAsync(memory, stream));
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaDeviceGetMemPool(&current, 0));
    REQUIRE(current == standard);
}

static void check_access(cudaMemPool_t pool)
{
    cudaMemAccessDesc access = {};
    cudaMemAccessFlags flags = cudaMemAccessFlagsProtNone;
    access.location.type = cudaMemLocationTypeDevice;
    access.location.id = 0;
    access.flags = cudaMemAccessFlagsProtReadWrite;
    CHECK(cudaMemPoolGetAccess(&flags, pool, &access.location));
    REQUIRE(flags == cudaMemAccessFlagsProtReadWrite);
    CHECK(cudaMemPoolSetAccess(pool, &access, 1));
}

int main()
{
    int supported = 0;
    CHECK(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, 0));
    REQUIRE(supported == 1);
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));

    cudaMemPool_t pool, again;
    CHECK(cudaDeviceGetDefaultMemPool(&pool, 0));
    CHECK(cudaDeviceGetDefaultMemPool(&again, 0));
    REQUIRE(pool == again);
    check_access(pool);
    uint32_t *memory;
    CHECK(cudaMallocAsync((void **)&memory, COUNT * sizeof *memory, stream));
    use(memory, stream, 1);
    // Freed and allocated again in the order of the stream, many times.
    for (uint32_t i = 0; i < 100; i++) {
        CHECK(cudaFreeAsync(memory, stream));
        CHECK(cudaMallocAsync((void **)&memory, COUNT * sizeof *memory, stream));
    }
    use(memory, stream, 2);
    CHECK(cudaFree(memory));
    REQUIRE(cudaMemPoolDestroy(pool) != cudaSuccess); // a default pool has no end
    cudaGetLastError();

    check_own_pool(stream);

    cudaMemPoolProps bad = properties();
    bad.allocType = cudaMemAllocationTypeInvalid;
    REQUIRE(cudaMemPoolCreate(&pool, &bad) != cudaSuccess);
    cudaGetLastError();
    CHECK(cudaStreamDestroy(stream));
    return pass("default pool, own pool, attributes, access");
}
