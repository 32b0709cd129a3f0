/* Copies, sets and what is known of memory: every form that a pool, an array or a graph has no part in, and bad input. */
#include "driver.h"

#define SIZE (1 << 20)

static unsigned char host[65536], back[65536];
static CUdeviceptr memory, half;

static int is(CUdeviceptr at, size_t size, const void *wanted)
{
    CHECK(cuMemcpyDtoH(back, at, size));
    return memcmp(back, wanted, size) == 0;
}

static void copies(CUcontext context)
{
    CUdeviceptr as_device = (CUdeviceptr)host;
    CHECK(cuMemcpy(memory, as_device, 1000));
    REQUIRE(is(memory, 1000, host));
    CHECK(cuMemcpy(half, memory, 1000));
    CHECK(cuCtxSynchronize());
    REQUIRE(is(half, 1000, host));
    memset(back, 0, sizeof back);
    CHECK(cuMemcpy((CUdeviceptr)back, half, 500));
    REQUIRE(memcmp(back, host, 500) == 0);
    CHECK(cuMemcpy((CUdeviceptr)back, as_device + 1000, 100));
    REQUIRE(memcmp(back, host + 1000, 100) == 0);
    CHECK(cuMemcpy(memory, half, 0));
    CHECK(cuMemcpy(0, 0, 0));
    EXPECT(INVALID, cuMemcpy(0, half, 4));
    EXPECT(INVALID, cuMemcpy(memory, 0, 4));

    CHECK(cuMemcpyHtoD(half, host + 2000, 3000));
    CHECK(cuMemcpyDtoD(memory, half, 3000));
    CHECK(cuCtxSynchronize());
    REQUIRE(is(memory, 3000, host + 2000));
    CHECK(cuMemcpyDtoDAsync(memory + 4096, half, 3000, NULL));
    CHECK(cuCtxSynchronize());
    REQUIRE(is(memory + 4096, 3000, host + 2000));
    CHECK(cuMemcpyDtoD(memory, half, 0));
    EXPECT(INVALID, cuMemcpyDtoD(memory, as_device, 100));
    EXPECT(INVALID, cuMemcpyDtoD(memory, 0, 100));
    EXPECT(INVALID, cuMemcpyDtoD(memory, half, 1 << 30));
    EXPECT(INVALID, cuMemcpyDtoDAsync(memory, 12345, 100, NULL));
    CHECK(cuMemcpyHtoD(memory, NULL, 0));
    EXPECT(INVALID, cuMemcpyHtoD(memory, NULL, 4));
    EXPECT(INVALID, cuMemcpyHtoD(12345, host, 4));
    EXPECT(INVALID, cuMemcpyHtoD(memory + SIZE - 2, host, 60000));
    EXPECT(INVALID, cuMemcpyDtoH(NULL, memory, 4));
    EXPECT(INVALID, cuMemcpyDtoH(back, 12345, 4));
    /* Unified addressing: a device address is taken where a host address belongs. */
    CHECK(cuMemcpyHtoD(memory, (void *)half, 100));
    CHECK(cuMemcpyDtoH((void *)(memory + 8192), half, 100));
    CHECK(cuCtxSynchronize());
    REQUIRE(is(memory, 100, host + 2000) && is(memory + 8192, 100, host + 2000));

    CHECK(cuMemcpyPeer(memory, context, half, context, 100));
    CHECK(cuMemcpyPeerAsync(memory + 100, NULL, half + 100, context, 100, NULL));
    CHECK(cuCtxSynchronize());
    REQUIRE(is(memory, 200, host + 2000));
    EXPECT(INVALID, cuMemcpyPeer(memory, context, 12345, context, 100));
    EXPECT(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, cuCtxEnablePeerAccess(context, 0));
    EXPECT(INVALID, cuCtxEnablePeerAccess(context, 1));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxEnablePeerAccess(NULL, 0));
    EXPECT(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, cuCtxDisablePeerAccess(context));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxDisablePeerAccess(NULL));
}

static int rows_are(CUdeviceptr at, size_t pitch, size_t width, size_t rows, const unsigned char *wanted, size_t step)
{
    for (size_t i = 0; i < rows; i++)
        if (!is(at + i * pitch, width, wanted + i * step))
            return 0;
    return 1;
}

static void planes(void)
{
    CUDA_MEMCPY2D copy;
    memset(&copy, 0, sizeof copy);
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = host;
    copy.srcPitch = 100;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = memory;
    copy.dstPitch = 128;
    copy.WidthInBytes = 100;
    copy.Height = 10;
    CHECK(cuMemcpy2D(&copy));
    REQUIRE(rows_are(memory, 128, 100, 10, host, 100));
    copy.srcY = 3;
    CHECK(cuMemcpy2DUnaligned(&copy));
    REQUIRE(rows_are(memory, 128, 100, 10, host + 300, 100));
    copy.srcY = 0;
    CHECK(cuMemcpy2DAsync(&copy, NULL));
    CHECK(cuCtxSynchronize());
    REQUIRE(rows_are(memory, 128, 100, 10, host, 100));
    copy.Height = 0;
    CHECK(cuMemcpy2D(&copy));
    copy.Height = 10;
    EXPECT(INVALID, cuMemcpy2D(NULL));
    EXPECT(INVALID, cuMemcpy2DUnaligned(NULL));
    copy.dstPitch = 99;
    EXPECT(INVALID, cuMemcpy2D(&copy));
    EXPECT(INVALID, cuMemcpy2DUnaligned(&copy));
    copy.dstPitch = 128;
    copy.srcMemoryType = (CUmemorytype)9;
    EXPECT(INVALID, cuMemcpy2D(&copy));
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstDevice = 12345;
    EXPECT(INVALID, cuMemcpy2D(&copy));
}

static void volumes(void)
{
    CUDA_MEMCPY3D copy;
    memset(&copy, 0, sizeof copy);
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = host;
    copy.srcPitch = 100;
    copy.srcHeight = 5;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = memory;
    copy.dstPitch = 128;
    copy.dstHeight = 8;
    copy.WidthInBytes = 100;
    copy.Height = 5;
    copy.Depth = 3;
    CHECK(cuMemcpy3D(&copy));
    for (int i = 0; i < 3; i++)
        REQUIRE(rows_are(memory + i * 128 * 8, 128, 100, 5, host + i * 500, 100));
    CHECK(cuMemsetD8(memory, 0, 128 * 8 * 3));
    CHECK(cuMemcpy3DAsync(&copy, NULL));
    CHECK(cuCtxSynchronize());
    for (int i = 0; i < 3; i++)
        REQUIRE(rows_are(memory + i * 128 * 8, 128, 100, 5, host + i * 500, 100));
    copy.Depth = 0;
    CHECK(cuMemcpy3D(&copy));
    copy.Depth = 3;
    EXPECT(INVALID, cuMemcpy3D(NULL));
    EXPECT(INVALID, cuMemcpy3DAsync(NULL, NULL));
    copy.dstHeight = 4;
    EXPECT(INVALID, cuMemcpy3D(&copy));
    copy.dstHeight = 8;
    copy.dstPitch = 10;
    EXPECT(INVALID, cuMemcpy3D(&copy));
}

/* Whether `count` elements of `size` bytes are `value`, and the byte behind them is not. */
static int set_to(CUdeviceptr at, size_t count, size_t size, uint32_t value)
{
    CHECK(cuCtxSynchronize());
    CHECK(cuMemcpyDtoH(back, at, count * size + 1));
    for (size_t i = 0; i < count; i++)
        if (memcmp(back + i * size, &value, size) != 0)
            return 0;
    return back[count * size] == 0xee;
}

static void sets(void)
{
    CHECK(cuMemsetD8(memory, 0xee, 65536));
    CHECK(cuMemsetD8(memory, 0x12, 101));
    REQUIRE(set_to(memory, 101, 1, 0x12));
    CHECK(cuMemsetD16(memory, 0x1234, 301));
    REQUIRE(set_to(memory, 301, 2, 0x1234));
    CHECK(cuMemsetD32(memory, 0x12345678, 401));
    REQUIRE(set_to(memory, 401, 4, 0x12345678));
    CHECK(cuMemsetD8(memory, 0, 0));
    CHECK(cuMemsetD8(0, 1, 0));
    EXPECT(INVALID, cuMemsetD8(0, 1, 1));
    EXPECT(INVALID, cuMemsetD8(12345, 1, 1));
    EXPECT(INVALID, cuMemsetD16(memory + 1, 1, 4));
    EXPECT(INVALID, cuMemsetD32(memory + 2, 1, 4));
    EXPECT(INVALID, cuMemsetD32(memory, 1, 1 << 19));
    EXPECT(INVALID, cuMemsetD16Async(memory + 1, 1, 1, NULL));
    EXPECT(INVALID, cuMemsetD32Async(memory + 2, 1, 1, NULL));
    EXPECT(INVALID, cuMemsetD8((CUdeviceptr)host, 1, 4));

    CHECK(cuMemsetD8(memory, 0xee, 65536));
    CHECK(cuMemsetD2D8(memory, 128, 0x21, 100, 3));
    REQUIRE(set_to(memory, 100, 1, 0x21) && set_to(memory + 256, 100, 1, 0x21) && set_to(memory + 384, 0, 1, 0));
    CHECK(cuMemsetD2D16(memory, 128, 0x2122, 51, 3));
    REQUIRE(set_to(memory, 51, 2, 0x2122) && set_to(memory + 256, 51, 2, 0x2122));
    CHECK(cuMemsetD2D32(memory, 128, 0x21222324, 26, 3));
    REQUIRE(set_to(memory, 26, 4, 0x21222324) && set_to(memory + 256, 26, 4, 0x21222324));
    CHECK(cuMemsetD8(memory, 0xee, 65536));
    CHECK(cuMemsetD2D8Async(memory, 128, 0x31, 100, 3, NULL));
    REQUIRE(set_to(memory + 256, 100, 1, 0x31));
    CHECK(cuMemsetD2D16Async(memory, 128, 0x3132, 51, 3, NULL));
    REQUIRE(set_to(memory + 256, 51, 2, 0x3132));
    CHECK(cuMemsetD2D32Async(memory, 128, 0x31323334, 26, 3, NULL));
    REQUIRE(set_to(memory + 256, 26, 4, 0x31323334));
    CHECK(cuMemsetD2D8(memory, 0, 1, 100, 1)); /* one row needs no pitch */
    CHECK(cuMemsetD2D8(memory, 128, 1, 0, 10));
    CHECK(cuMemsetD2D8(memory, 128, 1, 100, 0));
    EXPECT(INVALID, cuMemsetD2D8(memory, 10, 1, 100, 10));
    EXPECT(INVALID, cuMemsetD2D8(memory, 0, 1, 100, 2));
    EXPECT(INVALID, cuMemsetD2D16(memory, 127, 1, 50, 10));
    EXPECT(INVALID, cuMemsetD2D16(memory + 1, 128, 1, 50, 10));
    EXPECT(INVALID, cuMemsetD2D32(memory, 130, 1, 32, 10));
    EXPECT(INVALID, cuMemsetD2D32(memory + 2, 128, 1, 32, 10));
    EXPECT(INVALID, cuMemsetD2D32(memory, 128, 1, 33, 10));
    EXPECT(INVALID, cuMemsetD2D8(12345, 128, 1, 4, 4));
}

static void ranges(void)
{
    CUdeviceptr base = 0;
    size_t size = 0, pitch = 0;
    CHECK(cuMemGetAddressRange(&base, &size, memory + 5));
    REQUIRE(base == memory && size == SIZE);
    CHECK(cuMemGetAddressRange(NULL, &size, memory));
    CHECK(cuMemGetAddressRange(&base, NULL, memory));
    CHECK(cuMemGetAddressRange(NULL, NULL, memory));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuMemGetAddressRange(&base, &size, 12345));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuMemGetAddressRange(&base, &size, 0));
    EXPECT(INVALID, cuMemAlloc(NULL, 4));
    EXPECT(INVALID, cuMemAlloc(&base, 0));
    CHECK(cuMemFree(0));
    EXPECT(INVALID, cuMemFree(12345));
    EXPECT(INVALID, cuMemFree(memory + 4));
    CHECK(cuMemAllocPitch(&base, &pitch, 100, 10, 4));
    REQUIRE(pitch >= 100 && pitch % 4 == 0);
    CHECK(cuMemFree(base));
    EXPECT(INVALID, cuMemAllocPitch(&base, &pitch, 100, 10, 3));
    EXPECT(INVALID, cuMemAllocPitch(&base, &pitch, 0, 10, 4));
    EXPECT(INVALID, cuMemAllocPitch(&base, NULL, 100, 10, 4));
    CHECK(cuMemGetInfo(&size, NULL));
    CHECK(cuMemGetInfo(NULL, NULL));
}

static void pools(void)
{
    CUmemoryPool standard, pool;
    CUmemLocation place;
    memset(&place, 0, sizeof place);
    place.type = CU_MEM_LOCATION_TYPE_DEVICE;
    CHECK(cuDeviceGetDefaultMemPool(&standard, 0));
    CHECK(cuMemGetDefaultMemPool(&pool, &place, CU_MEM_ALLOCATION_TYPE_PINNED));
    REQUIRE(pool == standard);
    CHECK(cuMemGetMemPool(&pool, &place, CU_MEM_ALLOCATION_TYPE_PINNED));
    REQUIRE(pool == standard);
    CHECK(cuMemSetMemPool(&place, CU_MEM_ALLOCATION_TYPE_PINNED, standard));
    EXPECT(INVALID, cuMemGetDefaultMemPool(NULL, &place, CU_MEM_ALLOCATION_TYPE_PINNED));
    EXPECT(INVALID, cuMemGetDefaultMemPool(&pool, NULL, CU_MEM_ALLOCATION_TYPE_PINNED));
    EXPECT(INVALID, cuMemGetMemPool(&pool, NULL, CU_MEM_ALLOCATION_TYPE_PINNED));
    EXPECT(INVALID, cuMemGetDefaultMemPool(&pool, &place, (CUmemAllocationType)9));
    EXPECT(INVALID, cuMemSetMemPool(&place, CU_MEM_ALLOCATION_TYPE_PINNED, NULL));
    EXPECT(INVALID, cuMemSetMemPool(NULL, CU_MEM_ALLOCATION_TYPE_PINNED, standard));
    place.id = 99;
    EXPECT(INVALID, cuMemGetDefaultMemPool(&pool, &place, CU_MEM_ALLOCATION_TYPE_PINNED));
}

int main(void)
{
    CUcontext context = start();
    for (size_t i = 0; i < sizeof host; i++)
        host[i] = (unsigned char)(i * 31 + i / 256);
    CHECK(cuMemAlloc(&memory, SIZE));
    half = memory + SIZE / 2;
    copies(context);
    planes();
    volumes();
    sets();
    ranges();
    pools();
    CHECK(cuMemFree(memory));
    printf("PASS " PROGRAM " copies, planes, volumes, sets, ranges\n");
    return 0;
}
