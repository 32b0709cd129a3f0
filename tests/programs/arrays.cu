// Arrays: what is copied to them comes back from them, whole and in part, through the runtime and the driver API; mipmapped arrays; copies
// in graphs and in batches; and what is refused. The driver's functions come through the runtime, so that nothing links libcuda.
#include "check.h"

#include <cstring>
#include <cuda.h>
#include <dlfcn.h>

#define REQUIRE_CU(expected, call)                                                                           \
    do {                                                                                                     \
        CUresult got_ = (call);                                                                              \
        if (got_ != (expected))                                                                              \
            fail("line %d: %s returned %d, expected %d", __LINE__, #call, (int)got_, (int)(expected));       \
    } while (0)
#define CU(call) REQUIRE_CU(CUDA_SUCCESS, call)
#define INVALID(call) REQUIRE_CU(CUDA_ERROR_INVALID_VALUE, call)

static void *find(const char *name, int version = 12000)
{
    void *function = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaError_t status = cudaGetDriverEntryPointByVersion(name, &function, version, cudaEnableDefault, &result);
    if (status != cudaSuccess || result != cudaDriverEntryPointSuccess || function == nullptr)
        fail("%s is not there (%d, %d)", name, (int)status, (int)result);
    return function;
}

#define FUNCTION(name) static decltype(&name) p_##name = (decltype(&name))find(#name)

static std::vector<uint32_t> noisy(size_t n, uint32_t seed)
{
    std::vector<uint32_t> values(n);
    for (size_t i = 0; i < n; i++)
        values[i] = noise(seed * 0x10001u + (uint32_t)i);
    return values;
}

// The texels of an array on the host, and copies of boxes of it.
struct Mirror
{
    size_t w, h, d;
    std::vector<uint32_t> texels;
    Mirror(size_t w_, size_t h_, size_t d_, uint32_t seed) : w(w_), h(h_), d(d_), texels(noisy(w_ * h_ * d_, seed))
    {
    }
    uint32_t &at(size_t x, size_t y, size_t z)
    {
        return texels[(z * h + y) * w + x];
    }
};

static cudaArray_t make(const Mirror &m, bool layered = false)
{
    cudaChannelFormatDesc format = cudaCreateChannelDesc<unsigned>();
    cudaArray_t array;
    if (m.d > 1)
        CHECK(cudaMalloc3DArray(&array, &format, make_cudaExtent(m.w, m.h, m.d), layered ? cudaArrayLayered : 0));
    else
        CHECK(cudaMallocArray(&array, &format, m.w, m.h > 1 ? m.h : 0));
    return array;
}

static std::vector<uint32_t> read(cudaArray_t array, const Mirror &m)
{
    std::vector<uint32_t> got(m.texels.size());
    cudaMemcpy3DParms copy = {};
    copy.srcArray = array;
    copy.dstPtr = make_cudaPitchedPtr(got.data(), m.w * 4, m.w, m.h);
    copy.extent = make_cudaExtent(m.w, m.h, m.d);
    copy.kind = cudaMemcpyDeviceToHost;
    CHECK(cudaMemcpy3D(&copy));
    return got;
}

static void compare(const char *what, cudaArray_t array, const Mirror &m)
{
    std::vector<uint32_t> got = read(array, m);
    for (size_t i = 0; i < got.size(); i++)
        if (got[i] != m.texels[i])
            fail("%s: texel %zu %zu %zu is %#x, not %#x", what, i % m.w, i / m.w % m.h, i / m.w / m.h, got[i], m.texels[i]);
}

// Whole and in part, from and to pageable, pinned and device memory.
static void rectangles(size_t w, size_t h)
{
    Mirror m(w, h, 1, 1);
    cudaArray_t array = make(m), other = make(m);
    CHECK(cudaMemcpy2DToArray(array, 0, 0, m.texels.data(), w * 4, w * 4, h, cudaMemcpyHostToDevice));
    compare("the whole", array, m);
    // A rectangle from the middle of rows that are further apart.
    const size_t x = w / 3, y = h / 4, rw = w / 2, rh = h / 2, stride = rw + 5;
    std::vector<uint32_t> part = noisy(stride * rh, 2);
    CHECK(cudaMemcpy2DToArray(array, x * 4, y, part.data(), stride * 4, rw * 4, rh, cudaMemcpyHostToDevice));
    for (size_t j = 0; j < rh; j++)
        for (size_t i = 0; i < rw; i++)
            m.at(x + i, y + j, 0) = part[j * stride + i];
    compare("a rectangle", array, m);
    std::vector<uint32_t> back(stride * rh, 7);
    CHECK(cudaMemcpy2DFromArray(back.data(), stride * 4, array, x * 4, y, rw * 4, rh, cudaMemcpyDeviceToHost));
    for (size_t j = 0; j < rh; j++)
        for (size_t i = 0; i < stride; i++)
            REQUIRE(back[j * stride + i] == (i < rw ? part[j * stride + i] : 7));
    // Array to array, then to device memory and from there.
    CHECK(cudaMemcpy2DArrayToArray(other, 0, 0, array, 0, 0, w * 4, h, cudaMemcpyDeviceToDevice));
    compare("array to array", other, m);
    uint32_t *rows;
    size_t pitch;
    CHECK(cudaMallocPitch(&rows, &pitch, w * 4, h));
    CHECK(cudaMemcpy2DFromArray(rows, pitch, other, 0, 0, w * 4, h, cudaMemcpyDeviceToDevice));
    std::vector<uint32_t> flat(w * h);
    CHECK(cudaMemcpy2D(flat.data(), w * 4, rows, pitch, w * 4, h, cudaMemcpyDeviceToHost));
    REQUIRE(flat == m.texels);
    CHECK(cudaMemcpy2D(rows, pitch, part.data(), stride * 4, rw * 4, rh, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy2DToArray(other, 0, 0, rows, pitch, rw * 4, rh, cudaMemcpyDeviceToDevice));
    Mirror n = m;
    for (size_t j = 0; j < rh; j++)
        for (size_t i = 0; i < rw; i++)
            n.at(i, j, 0) = part[j * stride + i];
    compare("from device memory", other, n);
    // Pinned memory in a stream.
    uint32_t *pinned;
    cudaStream_t stream;
    CHECK(cudaMallocHost(&pinned, w * h * 8));
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    memcpy(pinned, m.texels.data(), w * h * 4);
    CHECK(cudaMemcpy2DToArrayAsync(other, 0, 0, pinned, w * 4, w * 4, h, cudaMemcpyHostToDevice, stream));
    CHECK(cudaMemcpy2DFromArrayAsync(pinned + w * h, w * 4, other, 0, 0, w * 4, h, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(memcmp(pinned + w * h, m.texels.data(), w * h * 4) == 0);
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaFreeHost(pinned));
    CHECK(cudaFree(rows));
    CHECK(cudaFreeArray(array));
    CHECK(cudaFreeArray(other));
}

static void boxes(bool layered)
{
    Mirror m(13, 9, 6, layered ? 3 : 4), n(13, 9, 6, 5);
    cudaArray_t a = make(m, layered), b = make(n, layered);
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(m.texels.data(), m.w * 4, m.w, m.h);
    copy.dstArray = a;
    copy.extent = make_cudaExtent(m.w, m.h, m.d);
    copy.kind = cudaMemcpyHostToDevice;
    CHECK(cudaMemcpy3D(&copy));
    copy.srcPtr.ptr = n.texels.data();
    copy.dstArray = b;
    CHECK(cudaMemcpy3D(&copy));
    compare("a volume", a, m);
    // A box of one into the other.
    copy = {};
    copy.srcArray = a;
    copy.srcPos = make_cudaPos(2, 3, 1);
    copy.dstArray = b;
    copy.dstPos = make_cudaPos(5, 0, 3);
    copy.extent = make_cudaExtent(7, 5, 3);
    copy.kind = cudaMemcpyDeviceToDevice;
    CHECK(cudaMemcpy3D(&copy));
    for (size_t z = 0; z < 3; z++)
        for (size_t y = 0; y < 5; y++)
            for (size_t x = 0; x < 7; x++)
                n.at(5 + x, y, 3 + z) = m.at(2 + x, 3 + y, 1 + z);
    compare("a box", b, n);
    // Through device memory, whose rows and planes are further apart.
    cudaPitchedPtr memory;
    CHECK(cudaMalloc3D(&memory, make_cudaExtent(20 * 4, 12, 6)));
    copy = {};
    copy.srcArray = b;
    copy.dstPtr = memory;
    copy.dstPos = make_cudaPos(4, 2, 0);
    copy.extent = make_cudaExtent(n.w, n.h, n.d);
    copy.kind = cudaMemcpyDeviceToDevice;
    // Positions in memory count bytes.
    copy.dstPos.x = 16;
    CHECK(cudaMemcpy3D(&copy));
    copy = {};
    copy.srcPtr = memory;
    copy.srcPos = make_cudaPos(16, 2, 0);
    copy.dstArray = a;
    copy.extent = make_cudaExtent(n.w, n.h, n.d);
    copy.kind = cudaMemcpyDeviceToDevice;
    CHECK(cudaMemcpy3DAsync(&copy, 0));
    compare("a volume through memory", a, n);
    // Beyond the edge.
    copy.extent.depth = 7;
    EXPECT(cudaErrorInvalidValue, cudaMemcpy3D(&copy));
    compare("a volume after a refused copy", a, n);
    CHECK(cudaFree(memory.ptr));
    CHECK(cudaFreeArray(a));
    CHECK(cudaFreeArray(b));
}

static void mipmaps(void)
{
    cudaChannelFormatDesc format = cudaCreateChannelDesc<unsigned>();
    cudaMipmappedArray_t mipmapped;
    CHECK(cudaMallocMipmappedArray(&mipmapped, &format, make_cudaExtent(32, 16, 0), 4));
    std::vector<Mirror> levels;
    for (unsigned i = 0; i < 4; i++) {
        cudaArray_t level, again;
        CHECK(cudaGetMipmappedArrayLevel(&level, mipmapped, i));
        CHECK(cudaGetMipmappedArrayLevel(&again, mipmapped, i));
        REQUIRE(level == again);
        cudaExtent extent;
        unsigned flags;
        cudaChannelFormatDesc got;
        CHECK(cudaArrayGetInfo(&got, &extent, &flags, level));
        REQUIRE(extent.width == 32u >> i && extent.height == 16u >> i && extent.depth == 0 && flags == 0);
        REQUIRE(got.x == 32 && got.y == 0 && got.f == cudaChannelFormatKindUnsigned);
        levels.emplace_back(32 >> i, 16 >> i, 1, 10 + i);
        CHECK(cudaMemcpy2DToArray(level, 0, 0, levels[i].texels.data(), levels[i].w * 4, levels[i].w * 4, levels[i].h,
                                  cudaMemcpyHostToDevice));
    }
    for (unsigned i = 0; i < 4; i++) {
        cudaArray_t level;
        CHECK(cudaGetMipmappedArrayLevel(&level, mipmapped, i));
        compare("a level", level, levels[i]);
    }
    cudaArray_t none;
    EXPECT(cudaErrorInvalidValue, cudaGetMipmappedArrayLevel(&none, mipmapped, 4));
    CHECK(cudaFreeMipmappedArray(mipmapped));

    FUNCTION(cuMipmappedArrayCreate);
    FUNCTION(cuMipmappedArrayDestroy);
    FUNCTION(cuMipmappedArrayGetLevel);
    FUNCTION(cuMipmappedArrayGetMemoryRequirements);
    FUNCTION(cuMipmappedArrayGetSparseProperties);
    CUDA_ARRAY3D_DESCRIPTOR d = {16, 8, 0, CU_AD_FORMAT_FLOAT, 1, 0};
    CUmipmappedArray m;
    CUarray level;
    // More levels than there can be are as many as there can be; none is one.
    CU(p_cuMipmappedArrayCreate(&m, &d, 9));
    // A level ends with what it is part of, not before.
    FUNCTION(cuArrayDestroy);
    FUNCTION(cuArrayGetDescriptor);
    CUDA_ARRAY_DESCRIPTOR got;
    CU(p_cuMipmappedArrayGetLevel(&level, m, 1));
    CU(p_cuArrayDestroy(level));
    CU(p_cuArrayGetDescriptor(&got, level));
    REQUIRE(got.Width == 8 && got.Height == 4);
    CU(p_cuMipmappedArrayGetLevel(&level, m, 4));
    INVALID(p_cuMipmappedArrayGetLevel(&level, m, 5));
    INVALID(p_cuMipmappedArrayGetLevel(nullptr, m, 0));
    CUDA_ARRAY_MEMORY_REQUIREMENTS requirements;
    CUDA_ARRAY_SPARSE_PROPERTIES properties;
    INVALID(p_cuMipmappedArrayGetMemoryRequirements(&requirements, m, 0));
    INVALID(p_cuMipmappedArrayGetSparseProperties(&properties, m));
    CU(p_cuMipmappedArrayDestroy(m));
    CU(p_cuMipmappedArrayCreate(&m, &d, 0));
    INVALID(p_cuMipmappedArrayGetLevel(&level, m, 1));
    CU(p_cuMipmappedArrayDestroy(m));
    INVALID(p_cuMipmappedArrayCreate(nullptr, &d, 1));
    INVALID(p_cuMipmappedArrayCreate(&m, nullptr, 1));
    REQUIRE_CU(CUDA_ERROR_INVALID_HANDLE, p_cuMipmappedArrayDestroy(nullptr));
    REQUIRE_CU(CUDA_ERROR_INVALID_HANDLE, p_cuMipmappedArrayGetLevel(&level, nullptr, 0));
}

static CUresult create(CUarray *array, size_t w, size_t h, size_t d, CUarray_format format, unsigned channels, unsigned flags)
{
    FUNCTION(cuArray3DCreate);
    CUDA_ARRAY3D_DESCRIPTOR wanted = {w, h, d, format, channels, flags};
    return p_cuArray3DCreate(array, &wanted);
}

static void descriptors(void)
{
    FUNCTION(cuArrayCreate);
    FUNCTION(cuArrayDestroy);
    FUNCTION(cuArrayGetDescriptor);
    FUNCTION(cuArray3DGetDescriptor);
    FUNCTION(cuArrayGetMemoryRequirements);
    FUNCTION(cuArrayGetSparseProperties);
    FUNCTION(cuArrayGetPlane);
    CUarray array, plane;
    CUDA_ARRAY_DESCRIPTOR two = {16, 8, CU_AD_FORMAT_SIGNED_INT16, 2}, got;
    CUDA_ARRAY3D_DESCRIPTOR three;
    CUDA_ARRAY_MEMORY_REQUIREMENTS requirements;
    CUDA_ARRAY_SPARSE_PROPERTIES properties;
    CU(p_cuArrayCreate(&array, &two));
    CU(p_cuArrayGetDescriptor(&got, array));
    REQUIRE(got.Width == 16 && got.Height == 8 && got.Format == CU_AD_FORMAT_SIGNED_INT16 && got.NumChannels == 2);
    CU(p_cuArray3DGetDescriptor(&three, array));
    REQUIRE(three.Width == 16 && three.Height == 8 && three.Depth == 0 && three.Flags == 0);
    INVALID(p_cuArrayGetDescriptor(nullptr, array));
    INVALID(p_cuArrayGetMemoryRequirements(&requirements, array, 0));
    INVALID(p_cuArrayGetMemoryRequirements(&requirements, nullptr, 0));
    INVALID(p_cuArrayGetSparseProperties(&properties, array));
    INVALID(p_cuArrayGetPlane(&plane, array, 0));
    CU(p_cuArrayDestroy(array));
    const unsigned flags = CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_SURFACE_LDST;
    CU(create(&array, 16, 8, 5, CU_AD_FORMAT_UNSIGNED_INT8, 4, flags));
    CU(p_cuArray3DGetDescriptor(&three, array));
    REQUIRE(three.Width == 16 && three.Height == 8 && three.Depth == 5 && three.Format == CU_AD_FORMAT_UNSIGNED_INT8 &&
            three.NumChannels == 4 && three.Flags == flags);
    CU(p_cuArrayDestroy(array));

    REQUIRE_CU(CUDA_ERROR_INVALID_HANDLE, p_cuArrayDestroy(nullptr));
    REQUIRE_CU(CUDA_ERROR_INVALID_HANDLE, p_cuArrayGetDescriptor(&got, nullptr));
    REQUIRE_CU(CUDA_ERROR_INVALID_HANDLE, p_cuArray3DGetDescriptor(&three, nullptr));
    INVALID(p_cuArrayCreate(nullptr, &two));
    INVALID(p_cuArrayCreate(&array, nullptr));
    two.Width = 0;
    INVALID(p_cuArrayCreate(&array, &two));
    INVALID(create(&array, 16, 16, 0, CU_AD_FORMAT_FLOAT, 3, 0));
    INVALID(create(&array, 16, 16, 0, (CUarray_format)0x77, 1, 0));
    INVALID(create(&array, 131073, 1, 0, CU_AD_FORMAT_FLOAT, 1, 0));
    INVALID(create(&array, 16, 8, 6, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_CUBEMAP));
    INVALID(create(&array, 16, 16, 0, CU_AD_FORMAT_FLOAT, 1, 0x8000));
    REQUIRE_CU(CUDA_ERROR_OUT_OF_MEMORY, create(&array, 16384, 16384, 16384, CU_AD_FORMAT_FLOAT, 4, 0));
}

// The functions that copy in the order of an array's bytes: they reach one row.
static void bytes(void)
{
    FUNCTION(cuMemcpyHtoA);
    FUNCTION(cuMemcpyAtoH);
    FUNCTION(cuMemcpyHtoAAsync);
    FUNCTION(cuMemcpyAtoHAsync);
    FUNCTION(cuMemcpyAtoD);
    FUNCTION(cuMemcpyDtoA);
    FUNCTION(cuMemcpyAtoA);
    FUNCTION(cuArrayDestroy);
    const size_t n = 1000;
    CUarray a, b, rows, none = nullptr;
    CU(create(&a, n, 0, 0, CU_AD_FORMAT_UNSIGNED_INT32, 1, 0));
    CU(create(&b, n, 0, 0, CU_AD_FORMAT_UNSIGNED_INT32, 1, 0));
    CU(create(&rows, 16, 16, 0, CU_AD_FORMAT_UNSIGNED_INT32, 1, 0));
    std::vector<uint32_t> values = noisy(n, 20), got(n);
    CU(p_cuMemcpyHtoA(a, 0, values.data(), n * 4));
    CU(p_cuMemcpyAtoH(got.data(), a, 40, 400));
    REQUIRE(memcmp(got.data(), values.data() + 10, 400) == 0);
    CU(p_cuMemcpyAtoA(b, 0, a, 400, 600 * 4));
    CU(p_cuMemcpyAtoA(b, 600 * 4, a, 0, 400 * 4));
    CU(p_cuMemcpyAtoH(got.data(), b, 0, n * 4));
    for (size_t i = 0; i < n; i++)
        REQUIRE(got[i] == (i < 600 ? values[i + 100] : values[i - 600]));
    DeviceArray<uint32_t> memory(values);
    CUdeviceptr address = (CUdeviceptr)memory.get();
    CU(p_cuMemcpyAtoD(address, b, 0, 600 * 4));
    CU(p_cuMemcpyDtoA(a, 800, address, 200 * 4));
    CU(p_cuMemcpyAtoH(got.data(), a, 0, n * 4));
    for (size_t i = 0; i < n; i++)
        REQUIRE(got[i] == (i >= 200 && i < 400 ? values[i - 100] : values[i]));
    uint32_t *pinned;
    cudaStream_t stream;
    CHECK(cudaMallocHost(&pinned, 2 * n * 4));
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    memcpy(pinned, values.data(), n * 4);
    CU(p_cuMemcpyHtoAAsync(a, 0, pinned, n * 4, stream));
    CU(p_cuMemcpyAtoHAsync(pinned + n, a, 0, n * 4, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(memcmp(pinned + n, values.data(), n * 4) == 0);
    CU(p_cuMemcpyHtoAAsync(b, 0, values.data(), n * 4, stream));
    CU(p_cuMemcpyAtoHAsync(got.data(), b, 0, n * 4, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(got == values);

    CU(p_cuMemcpyHtoA(rows, 0, values.data(), 64));
    INVALID(p_cuMemcpyHtoA(rows, 0, values.data(), 128));
    INVALID(p_cuMemcpyAtoHAsync(pinned, rows, 0, 1024, stream));
    INVALID(p_cuMemcpyHtoA(a, 4, values.data(), n * 4));
    INVALID(p_cuMemcpyHtoA(none, 0, values.data(), 16));
    INVALID(p_cuMemcpyAtoH(got.data(), none, 0, 16));
    INVALID(p_cuMemcpyAtoH(nullptr, a, 0, 16));
    INVALID(p_cuMemcpyAtoD(address, none, 0, 16));
    INVALID(p_cuMemcpyDtoA(a, 0, 0, 16));
    INVALID(p_cuMemcpyAtoA(a, 0, none, 0, 16));
    CU(p_cuMemcpyHtoA(none, 0, values.data(), 0));
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaFreeHost(pinned));
    CU(p_cuArrayDestroy(a));
    CU(p_cuArrayDestroy(b));
    CU(p_cuArrayDestroy(rows));
}

static void strided(void)
{
    FUNCTION(cuMemcpy2D);
    FUNCTION(cuMemcpy2DUnaligned);
    FUNCTION(cuMemcpy3D);
    FUNCTION(cuMemcpy3DPeer);
    FUNCTION(cuMemcpy3DPeerAsync);
    FUNCTION(cuArrayDestroy);
    FUNCTION(cuCtxGetCurrent);
    CUarray array, volume;
    CUcontext context;
    CU(p_cuCtxGetCurrent(&context));
    CU(create(&array, 16, 16, 0, CU_AD_FORMAT_FLOAT, 1, 0));
    CU(create(&volume, 16, 8, 4, CU_AD_FORMAT_FLOAT, 1, 0));
    std::vector<uint32_t> values = noisy(16 * 16 * 2, 30), got(16 * 16 * 2);
    CUDA_MEMCPY2D in = {};
    in.srcMemoryType = CU_MEMORYTYPE_HOST;
    in.srcHost = values.data();
    in.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    in.dstArray = array;
    in.WidthInBytes = 64;
    in.Height = 16;
    CU(p_cuMemcpy2D(&in));
    CUDA_MEMCPY2D out = {};
    out.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    out.srcArray = array;
    out.srcPitch = 7; // of no account
    out.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    out.dstDevice = (CUdeviceptr)got.data();
    out.dstPitch = 64;
    out.WidthInBytes = 64;
    out.Height = 16;
    CU(p_cuMemcpy2DUnaligned(&out));
    REQUIRE(memcmp(got.data(), values.data(), 1024) == 0);
    struct
    {
        size_t x, y, w, h;
    } const wrong[] = {{0, 0, 68, 16}, {4, 0, 64, 16}, {0, 1, 64, 16}, {0, 0, 64, 17}};
    for (auto &r : wrong) {
        out.srcXInBytes = r.x, out.srcY = r.y, out.WidthInBytes = r.w, out.Height = r.h, out.dstPitch = r.w;
        INVALID(p_cuMemcpy2D(&out));
    }
    out.srcXInBytes = out.srcY = 0, out.WidthInBytes = 64, out.Height = 16, out.dstPitch = 32;
    INVALID(p_cuMemcpy2D(&out));
    out.dstPitch = 64;
    out.srcArray = nullptr;
    INVALID(p_cuMemcpy2D(&out));
    out.WidthInBytes = 0;
    CU(p_cuMemcpy2D(&out));

    CUDA_MEMCPY3D three = {};
    three.srcMemoryType = CU_MEMORYTYPE_HOST;
    three.srcHost = values.data();
    three.srcPitch = 64;
    three.srcHeight = 8;
    three.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    three.dstArray = volume;
    three.WidthInBytes = 64;
    three.Height = 8;
    three.Depth = 4;
    CU(p_cuMemcpy3D(&three));
    three.dstLOD = 1;
    INVALID(p_cuMemcpy3D(&three));
    three.dstLOD = 0;
    three.dstZ = 1;
    INVALID(p_cuMemcpy3D(&three));
    three.dstZ = 0;
    three.dstArray = array;
    INVALID(p_cuMemcpy3D(&three));

    DeviceArray<uint32_t> memory(values.size());
    CUDA_MEMCPY3D_PEER peer = {};
    peer.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    peer.srcArray = volume;
    peer.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    peer.dstDevice = (CUdeviceptr)memory.get();
    peer.dstContext = context;
    peer.dstPitch = 64;
    peer.dstHeight = 8;
    peer.WidthInBytes = 64;
    peer.Height = 8;
    peer.Depth = 4;
    CU(p_cuMemcpy3DPeer(&peer));
    REQUIRE(memory.read() == values);
    memory.zero();
    CU(p_cuMemcpy3DPeerAsync(&peer, CU_STREAM_PER_THREAD));
    CHECK(cudaStreamSynchronize(cudaStreamPerThread));
    REQUIRE(memory.read() == values);
    peer.dstMemoryType = CU_MEMORYTYPE_HOST;
    peer.dstHost = got.data();
    std::fill(got.begin(), got.end(), 0);
    CU(p_cuMemcpy3DPeer(&peer));
    REQUIRE(got == values);
    peer.srcArray = nullptr;
    INVALID(p_cuMemcpy3DPeer(&peer));
    CU(p_cuArrayDestroy(array));
    CU(p_cuArrayDestroy(volume));
}

static void graph(void)
{
    Mirror m(24, 10, 1, 40);
    cudaArray_t a = make(m), b = make(m);
    uint32_t *pinned;
    CHECK(cudaMallocHost(&pinned, 2 * 240 * 4));
    uint32_t *back = pinned + 240;
    cudaGraph_t graph;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(pinned, m.w * 4, m.w, m.h);
    copy.dstArray = a;
    copy.extent = make_cudaExtent(m.w, m.h, 1);
    copy.kind = cudaMemcpyHostToDevice;
    cudaGraphNode_t first, second, third;
    CHECK(cudaGraphAddMemcpyNode(&first, graph, nullptr, 0, &copy));
    cudaMemcpy3DParms got;
    CHECK(cudaGraphMemcpyNodeGetParams(first, &got));
    REQUIRE(got.dstArray == a && got.srcPtr.ptr == pinned && got.extent.width == m.w && got.extent.height == m.h);
    copy = {};
    copy.srcArray = a;
    copy.dstArray = b;
    copy.extent = make_cudaExtent(m.w, m.h, 1);
    copy.kind = cudaMemcpyDeviceToDevice;
    CHECK(cudaGraphAddMemcpyNode(&second, graph, &first, 1, &copy));
    copy = {};
    copy.srcArray = b;
    copy.dstPtr = make_cudaPitchedPtr(back, m.w * 4, m.w, m.h);
    copy.extent = make_cudaExtent(m.w, m.h, 1);
    copy.kind = cudaMemcpyDeviceToHost;
    CHECK(cudaGraphAddMemcpyNode(&third, graph, &second, 1, &copy));
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (uint32_t round = 0; round < 3; round++) {
        Mirror n(24, 10, 1, 41 + round);
        memcpy(pinned, n.texels.data(), 240 * 4);
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaStreamSynchronize(stream));
        REQUIRE(memcmp(back, n.texels.data(), 240 * 4) == 0);
    }
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));

    // The same as captured, and from pageable memory.
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CHECK(cudaMemcpy2DToArrayAsync(b, 0, 0, pinned, m.w * 4, m.w * 4, m.h, cudaMemcpyHostToDevice, stream));
    CHECK(cudaMemcpy2DFromArrayAsync(back, m.w * 4, b, 0, 0, m.w * 4, m.h, cudaMemcpyDeviceToHost, stream));
    std::vector<uint32_t> pageable = noisy(240, 45);
    CHECK(cudaMemcpy2DToArrayAsync(a, 0, 0, pageable.data(), m.w * 4, m.w * 4, m.h, cudaMemcpyHostToDevice, stream));
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    memcpy(pinned, m.texels.data(), 240 * 4);
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(memcmp(back, m.texels.data(), 240 * 4) == 0);
    Mirror n = m;
    n.texels = pageable;
    compare("captured from pageable memory", a, n);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaFreeHost(pinned));
    CHECK(cudaFreeArray(a));
    CHECK(cudaFreeArray(b));
}

#if CUDA_VERSION >= 13000
static void batch(void)
{
    static decltype(&cuMemcpy3DBatchAsync) copy = (decltype(&cuMemcpy3DBatchAsync))find("cuMemcpy3DBatchAsync", 13000);
    FUNCTION(cuArrayDestroy);
    CUarray a, b;
    CU(create(&a, 16, 16, 0, CU_AD_FORMAT_UNSIGNED_INT16, 2, 0));
    CU(create(&b, 16, 16, 0, CU_AD_FORMAT_UNSIGNED_INT16, 2, 0));
    uint32_t *pinned;
    cudaStream_t stream;
    CHECK(cudaMallocHost(&pinned, 1024 * 4));
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    std::vector<uint32_t> values = noisy(1024, 50);
    memcpy(pinned, values.data(), 4096);
    // Rows of 20 elements into two arrays; then a part of the first comes back.
    CUDA_MEMCPY3D_BATCH_OP ops[2];
    memset(ops, 0, sizeof ops);
    for (auto &op : ops) {
        op.src.type = CU_MEMCPY_OPERAND_TYPE_POINTER;
        op.src.op.ptr.ptr = (CUdeviceptr)pinned;
        op.src.op.ptr.rowLength = 20;
        op.src.op.ptr.layerHeight = 16;
        op.dst.type = CU_MEMCPY_OPERAND_TYPE_ARRAY;
        op.dst.op.array.array = a;
        op.extent = {16, 16, 1};
        op.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
    }
    ops[1].dst.op.array.array = b;
    CU(copy(2, ops, 0, stream));
    CUDA_MEMCPY3D_BATCH_OP back = ops[0];
    back.src.type = CU_MEMCPY_OPERAND_TYPE_ARRAY;
    back.src.op.array.array = a;
    back.src.op.array.offset = {3, 2, 0};
    back.dst.type = CU_MEMCPY_OPERAND_TYPE_POINTER;
    memset(&back.dst.op, 0, sizeof back.dst.op);
    back.dst.op.ptr.ptr = (CUdeviceptr)(pinned + 512);
    back.extent = {8, 4, 1};
    CU(copy(1, &back, 0, stream));
    CHECK(cudaStreamSynchronize(stream));
    for (size_t y = 0; y < 4; y++)
        for (size_t x = 0; x < 8; x++)
            REQUIRE(pinned[512 + y * 8 + x] == values[(y + 2) * 20 + x + 3]);
    // The form of CUDA 12.8 says which operation failed.
    typedef CUresult (*Copy)(size_t, CUDA_MEMCPY3D_BATCH_OP *, size_t *, unsigned long long, CUstream);
    static Copy older = (Copy)find("cuMemcpy3DBatchAsync", 12080);
    size_t failed = 7;
    memset(pinned + 512, 0, 32 * 4);
    CU(older(1, &back, &failed, 0, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(pinned[512] == values[2 * 20 + 3]);
    INVALID(copy(1, &back, 1, stream));
    INVALID(copy(0, &back, 0, stream));
    INVALID(copy(1, &back, 0, nullptr));
    CUDA_MEMCPY3D_BATCH_OP wrong = back;
    wrong.extent.depth = 0;
    INVALID(copy(1, &wrong, 0, stream));
    wrong = back;
    wrong.extent.width = 14;
    INVALID(copy(1, &wrong, 0, stream));
    wrong = back;
    wrong.srcAccessOrder = (CUmemcpySrcAccessOrder)0;
    INVALID(copy(1, &wrong, 0, stream));
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaFreeHost(pinned));
    CU(p_cuArrayDestroy(a));
    CU(p_cuArrayDestroy(b));
}
#endif

// A tile of a sparse array is mapped, written and read. What is no list of mappings is refused on any device.
static bool sparse(void)
{
    FUNCTION(cuDeviceGetAttribute);
    FUNCTION(cuMemMapArrayAsync);
    INVALID(p_cuMemMapArrayAsync(nullptr, 1, nullptr));
    int supported = 0;
    CU(p_cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_SPARSE_CUDA_ARRAY_SUPPORTED, 0));
    if (!supported)
        return false;
    FUNCTION(cuArrayDestroy);
    FUNCTION(cuArrayGetSparseProperties);
    FUNCTION(cuMemCreate);
    FUNCTION(cuMemRelease);
    CUarray array;
    CU(create(&array, 1024, 1024, 0, CU_AD_FORMAT_UNSIGNED_INT8, 4, CUDA_ARRAY3D_SPARSE));
    CUDA_ARRAY_SPARSE_PROPERTIES p;
    CU(p_cuArrayGetSparseProperties(&p, array));
    REQUIRE(p.tileExtent.width > 0 && p.tileExtent.height > 0 && p.tileExtent.depth == 1);
    CUmemAllocationProp props = {};
    props.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    props.allocFlags.usage = CU_MEM_CREATE_USAGE_TILE_POOL;
    CUmemGenericAllocationHandle pool;
    CU(p_cuMemCreate(&pool, 4 << 20, &props, 0));
    CUarrayMapInfo map = {};
    map.resourceType = CU_RESOURCE_TYPE_ARRAY;
    map.resource.array = array;
    map.subresourceType = CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_SPARSE_LEVEL;
    map.subresource.sparseLevel.extentWidth = p.tileExtent.width;
    map.subresource.sparseLevel.extentHeight = p.tileExtent.height;
    map.subresource.sparseLevel.extentDepth = 1;
    map.memOperationType = CU_MEM_OPERATION_TYPE_MAP;
    map.memHandleType = CU_MEM_HANDLE_TYPE_GENERIC;
    map.memHandle.memHandle = pool;
    map.deviceBitMask = 1;
    CU(p_cuMemMapArrayAsync(&map, 1, nullptr));
    CHECK(cudaDeviceSynchronize());
    std::vector<uint32_t> values = noisy((size_t)p.tileExtent.width * p.tileExtent.height, 60), got(values.size());
    CHECK(cudaMemcpy2DToArray((cudaArray_t)array, 0, 0, values.data(), p.tileExtent.width * 4, p.tileExtent.width * 4,
                              p.tileExtent.height, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy2DFromArray(got.data(), p.tileExtent.width * 4, (cudaArray_t)array, 0, 0, p.tileExtent.width * 4,
                                p.tileExtent.height, cudaMemcpyDeviceToHost));
    REQUIRE(got == values);
    map.flags = 1;
    INVALID(p_cuMemMapArrayAsync(&map, 1, nullptr));
    map.flags = 0;
    map.deviceBitMask = 2;
    INVALID(p_cuMemMapArrayAsync(&map, 1, nullptr));
    map.deviceBitMask = 1;
    map.subresource.sparseLevel.extentWidth = 3;
    INVALID(p_cuMemMapArrayAsync(&map, 1, nullptr));
    map.subresource.sparseLevel.extentWidth = p.tileExtent.width;
    map.memOperationType = CU_MEM_OPERATION_TYPE_UNMAP;
    map.memHandle.memHandle = 0;
    CU(p_cuMemMapArrayAsync(&map, 1, nullptr));
    INVALID(p_cuMemMapArrayAsync(&map, 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    CU(p_cuMemRelease(pool));
    CU(p_cuArrayDestroy(array));
    return true;
}

// The forms with 32-bit sizes want contexts of CUDA 3, which no 64-bit process has.
static void old(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    REQUIRE(driver != nullptr);
    CUarray array, none = nullptr;
    CU(create(&array, 64, 0, 0, CU_AD_FORMAT_FLOAT, 1, 0));
    typedef CUresult (*Create)(CUarray *, const unsigned *);
    typedef CUresult (*Get)(unsigned *, CUarray);
    typedef CUresult (*Read)(void *, CUarray, unsigned, unsigned);
    unsigned descriptor[6] = {16, 8, 0x20, 1, 0, 0}, got[6];
    uint32_t host[4];
    CUarray made;
    REQUIRE_CU(CUDA_ERROR_INVALID_CONTEXT, ((Create)dlsym(driver, "cuArrayCreate"))(&made, descriptor));
    REQUIRE_CU(CUDA_ERROR_INVALID_CONTEXT, ((Get)dlsym(driver, "cuArrayGetDescriptor"))(got, array));
    REQUIRE_CU(CUDA_ERROR_INVALID_HANDLE, ((Get)dlsym(driver, "cuArrayGetDescriptor"))(got, none));
    REQUIRE_CU(CUDA_ERROR_INVALID_CONTEXT, ((Read)dlsym(driver, "cuMemcpyAtoH"))(host, array, 0, 16));
    FUNCTION(cuArrayDestroy);
    CU(p_cuArrayDestroy(array));
    dlclose(driver);
}

int main()
{
    CHECK(cudaFree(nullptr));
    rectangles(40, 24);
    // Larger than what is copied at once.
    rectangles(1500, 1300);
    boxes(false);
    boxes(true);
    mipmaps();
    descriptors();
    bytes();
    strided();
    graph();
    old();
#if CUDA_VERSION >= 13000
    batch();
#endif
    return pass("arrays, copies, mipmaps, graphs%s", sparse() ? ", sparse arrays" : "");
}
