/* Tensor maps: those of boxes and of image columns, another address in one, and what is refused. */
#include "driver.h"

static CUdeviceptr memory;
static CUtensorMap map, other; /* the type has the alignment */

struct tensor {
    CUtensorMapDataType type;
    cuuint32_t rank;
    CUdeviceptr address;
    cuuint64_t dimensions[5], strides[5];
    cuuint32_t box[5], steps[5];
};

static struct tensor tensor(void)
{
    struct tensor t = {CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, memory, {64, 64}, {256}, {32, 32}, {1, 1}};
    return t;
}

static CUresult tiled(CUtensorMap *to, const struct tensor *t)
{
    return cuTensorMapEncodeTiled(to, t->type, t->rank, (void *)t->address, t->dimensions, t->strides, t->box, t->steps,
                                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                                  CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

static void boxes(void)
{
    struct tensor t = tensor();
    CHECK(tiled(&map, &t));
    REQUIRE(map.opaque[0] == t.address); /* as the driver has it, for programs that look */
    CHECK(cuTensorMapReplaceAddress(&map, (void *)(memory + 1024)));
    REQUIRE(map.opaque[0] == memory + 1024);
    t.address = memory + 1024;
    CHECK(tiled(&other, &t));
    REQUIRE(memcmp(&map, &other, sizeof map) == 0);
    EXPECT(INVALID, cuTensorMapReplaceAddress(&map, (void *)(memory + 3)));
    EXPECT(INVALID, cuTensorMapReplaceAddress(&map, NULL));

    t = tensor(), t.rank = 0;
    EXPECT(INVALID, tiled(&map, &t));
    t = tensor(), t.rank = 6;
    EXPECT(INVALID, tiled(&map, &t));
    t = tensor(), t.address = memory + 4;
    EXPECT(INVALID, tiled(&map, &t));
    t = tensor(), t.box[0] = 300;
    EXPECT(INVALID, tiled(&map, &t));
    t = tensor(), t.strides[0] = 200;
    EXPECT(INVALID, tiled(&map, &t));
    t = tensor(), t.steps[0] = 9;
    EXPECT(INVALID, tiled(&map, &t));
    t = tensor(), t.type = (CUtensorMapDataType)50;
    EXPECT(INVALID, tiled(&map, &t));
}

static CUresult columns(cuuint32_t rank, cuuint32_t channels)
{
    static const cuuint64_t dimensions[] = {64, 32, 32, 8, 1}, strides[] = {128, 128 * 32, 128 * 32 * 32, 0};
    static const int lower[] = {-1, -1, 0}, upper[] = {-1, -1, 0};
    static const cuuint32_t steps[] = {1, 1, 1, 1, 1};
    return cuTensorMapEncodeIm2col(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, rank, (void *)memory, dimensions, strides,
                                   lower, upper, channels, 32, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                   CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

static CUresult wide_columns(cuuint32_t rank)
{
    static const cuuint64_t dimensions[] = {64, 32, 32, 8, 1}, strides[] = {128, 128 * 32, 128 * 32 * 32, 0};
    static const cuuint32_t steps[] = {1, 1, 1, 1, 1};
    return cuTensorMapEncodeIm2colWide(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, rank, (void *)memory, dimensions, strides,
                                       -1, 1, 64, 32, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                       CU_TENSOR_MAP_IM2COL_WIDE_MODE_W, CU_TENSOR_MAP_SWIZZLE_128B,
                                       CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

int main(void)
{
    start();
    CHECK(cuMemAlloc(&memory, 1 << 20));
    boxes();
    CHECK(columns(4, 64));
    REQUIRE(map.opaque[0] == memory);
    EXPECT(INVALID, columns(2, 64));
    EXPECT(INVALID, columns(4, 300));
    CHECK(wide_columns(4));
    REQUIRE(map.opaque[0] == memory);
    EXPECT(INVALID, wide_columns(2));
    CHECK(cuMemFree(memory));
    printf("PASS " PROGRAM " boxes, columns, addresses\n");
    return 0;
}
