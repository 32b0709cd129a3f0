// Texture and surface objects: what kernels read through them is computed again here, by the formulas of the CUDA programming guide
// (appendix "Texture Fetching"): point sampling exactly, linear filtering within the 8 fraction bits of the weights. Then the getters,
// and what is refused.
#include "check.h"

#include <cmath>
#include <cstring>
#include <cuda.h>

// Texels of at most four channels as floats, x fastest.
struct Image
{
    int w, h, d, channels;
    std::vector<float> values;
    Image(int w_, int h_, int d_, int channels_) : w(w_), h(h_), d(d_), channels(channels_), values((size_t)w_ * h_ * d_ * channels_)
    {
    }
    float &at(int x, int y, int z, int c)
    {
        return values[(((size_t)z * h + y) * w + x) * channels + c];
    }
};

struct Sampling
{
    cudaTextureAddressMode mode;
    bool linear, normalized;
    float border[4];
};

// The texel of an index outside the texture, or -1 for the border's color.
static int addressed(int i, int n, cudaTextureAddressMode mode)
{
    if (i >= 0 && i < n)
        return i;
    switch (mode) {
    case cudaAddressModeWrap:
        return ((i % n) + n) % n;
    case cudaAddressModeMirror: {
        int m = ((i % (2 * n)) + 2 * n) % (2 * n);
        return m < n ? m : 2 * n - 1 - m;
    }
    case cudaAddressModeClamp:
        return i < 0 ? 0 : n - 1;
    default:
        return -1;
    }
}

static float texel(Image &image, int x, int y, int z, int c, const Sampling &s)
{
    x = addressed(x, image.w, s.mode);
    y = addressed(y, image.h, s.mode);
    z = addressed(z, image.d, s.mode);
    return x < 0 || y < 0 || z < 0 ? s.border[c] : image.at(x, y, z, c);
}

// What a fetch of `dims` dimensions gives.
static float sampled(Image &image, int dims, const float at[3], int c, const Sampling &s)
{
    int size[3] = {image.w, image.h, image.d}, first[3] = {0, 0, 0};
    float weight[3] = {0, 0, 0};
    for (int k = 0; k < dims; k++) {
        float x = s.normalized ? at[k] * size[k] : at[k];
        if (s.linear)
            x -= 0.5f;
        first[k] = (int)floorf(x);
        weight[k] = s.linear ? floorf((x - first[k]) * 256 + 0.5f) / 256 : 0;
    }
    if (!s.linear)
        return texel(image, first[0], first[1], first[2], c, s);
    float sum = 0;
    for (int corner = 0; corner < 1 << dims; corner++) {
        float factor = 1;
        int at_[3];
        for (int k = 0; k < 3; k++) {
            int up = corner >> k & 1;
            at_[k] = first[k] + up;
            if (k < dims)
                factor *= up ? weight[k] : 1 - weight[k];
        }
        if (factor != 0)
            sum += factor * texel(image, at_[0], at_[1], at_[2], c, s);
    }
    return sum;
}

template <int Dims> __global__ static void sample(cudaTextureObject_t texture, const float4 *at, float *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    float4 p = at[i];
    if (Dims == 1)
        out[i] = tex1D<float>(texture, p.x);
    else if (Dims == 2)
        out[i] = tex2D<float>(texture, p.x, p.y);
    else
        out[i] = tex3D<float>(texture, p.x, p.y, p.z);
}

__global__ static void sample_four(cudaTextureObject_t texture, const float4 *at, float4 *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = tex2D<float4>(texture, at[i].x, at[i].y);
}

template <typename T> __global__ static void sample_integers(cudaTextureObject_t texture, const float4 *at, T *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = tex2D<T>(texture, at[i].x, at[i].y);
}

template <typename T> __global__ static void fetch(cudaTextureObject_t texture, int first, T *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = tex1Dfetch<T>(texture, first + i);
}

__global__ static void sample_layers(cudaTextureObject_t texture, const float4 *at, float *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = tex2DLayered<float>(texture, at[i].x, at[i].y, (int)at[i].z);
}

__global__ static void sample_row_layers(cudaTextureObject_t texture, const float4 *at, float *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = tex1DLayered<float>(texture, at[i].x, (int)at[i].z);
}

__global__ static void sample_levels(cudaTextureObject_t texture, const float4 *at, float *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = tex2DLod<float>(texture, at[i].x, at[i].y, at[i].w);
}

__global__ static void sample_cube(cudaTextureObject_t texture, const float4 *at, float *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = texCubemap<float>(texture, at[i].x, at[i].y, at[i].z);
}

__global__ static void gather(cudaTextureObject_t texture, const float4 *at, float4 *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = tex2Dgather<float4>(texture, at[i].x, at[i].y, 0);
}

static const int THREADS = 128;
#define BLOCKS(n) (((n) + THREADS - 1) / THREADS)

static cudaArray_t array_of(Image &image, unsigned flags = cudaArrayDefault)
{
    REQUIRE(image.channels == 1);
    cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
    cudaExtent extent = make_cudaExtent(image.w, image.h > 1 ? image.h : 0, image.d > 1 ? image.d : 0);
    cudaArray_t array;
    CHECK(cudaMalloc3DArray(&array, &format, extent, flags));
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(image.values.data(), image.w * sizeof(float), image.w, image.h);
    copy.dstArray = array;
    copy.extent = make_cudaExtent(image.w, image.h, image.d);
    copy.kind = cudaMemcpyHostToDevice;
    CHECK(cudaMemcpy3D(&copy));
    return array;
}

// The modes of dimensions that a texture has not got are looked at too: with a border there, half of a row would be the border.
static cudaTextureDesc description(const Sampling &s, int dims = 2)
{
    cudaTextureDesc t = {};
    for (int k = 0; k < 3; k++)
        t.addressMode[k] = k < dims ? s.mode : cudaAddressModeClamp;
    t.filterMode = s.linear ? cudaFilterModeLinear : cudaFilterModePoint;
    t.normalizedCoords = s.normalized;
    memcpy(t.borderColor, s.border, sizeof t.borderColor);
    return t;
}

static cudaTextureObject_t texture_of(cudaArray_t array, const cudaTextureDesc &t)
{
    cudaResourceDesc r = {};
    r.resType = cudaResourceTypeArray;
    r.res.array.array = array;
    cudaTextureObject_t texture;
    CHECK(cudaCreateTextureObject(&texture, &r, &t, nullptr));
    return texture;
}

static Image noisy(int w, int h, int d, uint32_t seed)
{
    Image image(w, h, d, 1);
    for (size_t i = 0; i < image.values.size(); i++)
        image.values[i] = (noise(seed + (uint32_t)i) >> 16) / 65536.0f;
    return image;
}

// Positions inside and beyond the texture, away from where rounding would decide which texel is meant.
static std::vector<float4> positions(const Image &image, bool normalized, bool outside)
{
    std::vector<float4> all;
    const int size[3] = {image.w, image.h, image.d};
    for (uint32_t i = 0; i < 600; i++) {
        float p[3];
        for (uint32_t k = 0; k < 3; k++) {
            int cells = size[k] * 8;
            int range = outside ? 3 * cells : cells;
            int cell = (int)(noise(i * 3 + k) % (uint32_t)range) - (outside ? cells : 0);
            p[k] = (cell + 0.5f) / 8;
            if (normalized)
                p[k] /= size[k];
        }
        all.push_back(make_float4(p[0], p[1], p[2], 0));
    }
    return all;
}

template <int Dims> static void check_sampling(Image image, const Sampling &s)
{
    cudaArray_t array = array_of(image);
    cudaTextureObject_t texture = texture_of(array, description(s, Dims));
    std::vector<float4> at = positions(image, s.normalized, true);
    int n = (int)at.size();
    DeviceArray<float4> where(at);
    DeviceArray<float> out(n);
    sample<Dims><<<BLOCKS(n), THREADS>>>(texture, where.get(), out.get(), n);
    CHECK(cudaGetLastError());
    std::vector<float> got = out.read();
    for (int i = 0; i < n; i++) {
        float p[3] = {at[i].x, at[i].y, at[i].z}, want = sampled(image, Dims, p, 0, s);
        float slack = s.linear ? Dims / 256.0f : 0;
        if (!(fabsf(got[i] - want) <= slack))
            fail("%d dimensions, mode %d, linear %d, normalized %d: at %g %g %g is %g, not %g", Dims, (int)s.mode, s.linear,
                 s.normalized, p[0], p[1], p[2], got[i], want);
    }
    CHECK(cudaDestroyTextureObject(texture));
    CHECK(cudaFreeArray(array));
}

static void sampling(void)
{
    const cudaTextureAddressMode modes[] = {cudaAddressModeClamp, cudaAddressModeBorder, cudaAddressModeWrap,
                                            cudaAddressModeMirror};
    for (bool linear : {false, true})
        for (bool normalized : {false, true})
            for (cudaTextureAddressMode mode : modes) {
                // Wrap and mirror want normalized coordinates.
                if (!normalized && (mode == cudaAddressModeWrap || mode == cudaAddressModeMirror))
                    continue;
                Sampling s = {mode, linear, normalized, {0, 0, 0, 0}};
                check_sampling<1>(noisy(16, 1, 1, 1), s);
                check_sampling<2>(noisy(16, 8, 1, 2), s);
                check_sampling<3>(noisy(8, 4, 16, 3), s);
            }
    check_sampling<2>(noisy(12, 10, 1, 4), {cudaAddressModeBorder, false, false, {0.75f, 0, 0, 0}});
}

// 8-bit texels as fractions, filtered, and as numbers.
static void read_modes(void)
{
    const int w = 16, h = 8;
    std::vector<uchar4> texels(w * h);
    Image image(w, h, 1, 4);
    for (int i = 0; i < w * h; i++) {
        uint32_t bits = noise((uint32_t)i);
        memcpy(&texels[i], &bits, 4);
        for (int c = 0; c < 4; c++)
            image.values[i * 4 + c] = (bits >> 8 * c & 0xff) / 255.0f;
    }
    cudaChannelFormatDesc format = cudaCreateChannelDesc<uchar4>();
    cudaArray_t array;
    CHECK(cudaMallocArray(&array, &format, w, h));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, texels.data(), w * 4, w * 4, h, cudaMemcpyHostToDevice));
    for (bool linear : {false, true}) {
        Sampling s = {cudaAddressModeClamp, linear, false, {0, 0, 0, 0}};
        cudaTextureDesc t = description(s);
        t.readMode = cudaReadModeNormalizedFloat;
        cudaTextureObject_t texture = texture_of(array, t);
        std::vector<float4> at = positions(image, false, true);
        int n = (int)at.size();
        DeviceArray<float4> where(at), out(n);
        sample_four<<<BLOCKS(n), THREADS>>>(texture, where.get(), out.get(), n);
        CHECK(cudaGetLastError());
        std::vector<float4> got = out.read();
        for (int i = 0; i < n; i++) {
            float p[3] = {at[i].x, at[i].y, 0}, values[4];
            memcpy(values, &got[i], sizeof values);
            for (int c = 0; c < 4; c++) {
                float want = sampled(image, 2, p, c, s);
                if (!(fabsf(values[c] - want) <= (linear ? 2 / 256.0f : 1e-6f)))
                    fail("normalized bytes, linear %d: channel %d at %g %g is %g, not %g", linear, c, p[0], p[1], values[c],
                         want);
            }
        }
        CHECK(cudaDestroyTextureObject(texture));
    }
    Sampling s = {cudaAddressModeClamp, false, false, {0, 0, 0, 0}};
    cudaTextureObject_t texture = texture_of(array, description(s));
    std::vector<float4> at = positions(image, false, false);
    int n = (int)at.size();
    DeviceArray<float4> where(at);
    DeviceArray<uchar4> out(n);
    sample_integers<uchar4><<<BLOCKS(n), THREADS>>>(texture, where.get(), out.get(), n);
    CHECK(cudaGetLastError());
    std::vector<uchar4> got = out.read();
    for (int i = 0; i < n; i++)
        if (memcmp(&got[i], &texels[(int)at[i].y * w + (int)at[i].x], 4) != 0)
            fail("bytes at %g %g are wrong", at[i].x, at[i].y);
    CHECK(cudaDestroyTextureObject(texture));
    CHECK(cudaFreeArray(array));
}

// Linear memory and rows of it.
static void memory(void)
{
    std::vector<int> numbers(5000);
    for (size_t i = 0; i < numbers.size(); i++)
        numbers[i] = (int)noise((uint32_t)i);
    DeviceArray<int> in(numbers), out(numbers.size());
    cudaResourceDesc r = {};
    r.resType = cudaResourceTypeLinear;
    r.res.linear.devPtr = in.get();
    r.res.linear.desc = cudaCreateChannelDesc<int>();
    r.res.linear.sizeInBytes = numbers.size() * sizeof(int);
    cudaTextureDesc t = {};
    cudaTextureObject_t texture;
    CHECK(cudaCreateTextureObject(&texture, &r, &t, nullptr));
    int n = (int)numbers.size();
    fetch<int><<<BLOCKS(n - 7), THREADS>>>(texture, 7, out.get(), n - 7);
    CHECK(cudaGetLastError());
    std::vector<int> got = out.read();
    REQUIRE(memcmp(got.data(), numbers.data() + 7, (n - 7) * sizeof(int)) == 0);
    CHECK(cudaDestroyTextureObject(texture));

    Image image = noisy(37, 21, 1, 5);
    float *rows;
    size_t pitch;
    CHECK(cudaMallocPitch(&rows, &pitch, image.w * sizeof(float), image.h));
    CHECK(cudaMemcpy2D(rows, pitch, image.values.data(), image.w * sizeof(float), image.w * sizeof(float), image.h,
                       cudaMemcpyHostToDevice));
    r = {};
    r.resType = cudaResourceTypePitch2D;
    r.res.pitch2D.devPtr = rows;
    r.res.pitch2D.desc = cudaCreateChannelDesc<float>();
    r.res.pitch2D.width = image.w;
    r.res.pitch2D.height = image.h;
    r.res.pitch2D.pitchInBytes = pitch;
    for (bool linear : {false, true}) {
        Sampling s = {cudaAddressModeClamp, linear, false, {0, 0, 0, 0}};
        t = description(s);
        CHECK(cudaCreateTextureObject(&texture, &r, &t, nullptr));
        std::vector<float4> at = positions(image, false, true);
        DeviceArray<float4> where(at);
        DeviceArray<float> floats(at.size());
        sample<2><<<BLOCKS((int)at.size()), THREADS>>>(texture, where.get(), floats.get(), (int)at.size());
        CHECK(cudaGetLastError());
        std::vector<float> values = floats.read();
        for (size_t i = 0; i < at.size(); i++) {
            float p[3] = {at[i].x, at[i].y, 0}, want = sampled(image, 2, p, 0, s);
            if (!(fabsf(values[i] - want) <= (linear ? 2 / 256.0f : 0)))
                fail("rows of memory, linear %d: at %g %g is %g, not %g", linear, p[0], p[1], values[i], want);
        }
        CHECK(cudaDestroyTextureObject(texture));
    }
    CHECK(cudaFree(rows));
}

static void layers(void)
{
    Image image = noisy(16, 8, 5, 6), rows = noisy(32, 1, 4, 7);
    cudaArray_t array = array_of(image, cudaArrayLayered);
    Sampling s = {cudaAddressModeClamp, false, false, {0, 0, 0, 0}};
    cudaTextureObject_t texture = texture_of(array, description(s));
    std::vector<float4> at = positions(image, false, false);
    int n = (int)at.size();
    DeviceArray<float4> where(at);
    DeviceArray<float> out(n);
    sample_layers<<<BLOCKS(n), THREADS>>>(texture, where.get(), out.get(), n);
    CHECK(cudaGetLastError());
    std::vector<float> got = out.read();
    for (int i = 0; i < n; i++)
        if (got[i] != image.at((int)at[i].x, (int)at[i].y, (int)at[i].z, 0))
            fail("layer %d at %g %g is %g", (int)at[i].z, at[i].x, at[i].y, got[i]);
    CHECK(cudaDestroyTextureObject(texture));
    CHECK(cudaFreeArray(array));

    cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
    CHECK(cudaMalloc3DArray(&array, &format, make_cudaExtent(rows.w, 0, rows.d), cudaArrayLayered));
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(rows.values.data(), rows.w * sizeof(float), rows.w, 1);
    copy.dstArray = array;
    copy.extent = make_cudaExtent(rows.w, 1, rows.d);
    copy.kind = cudaMemcpyHostToDevice;
    CHECK(cudaMemcpy3D(&copy));
    s.linear = true;
    texture = texture_of(array, description(s, 1));
    at = positions(rows, false, false);
    DeviceArray<float4> row_positions(at);
    sample_row_layers<<<BLOCKS(n), THREADS>>>(texture, row_positions.get(), out.get(), n);
    CHECK(cudaGetLastError());
    got = out.read();
    for (int i = 0; i < n; i++) {
        Image layer(rows.w, 1, 1, 1);
        int z = (int)at[i].z;
        layer.values.assign(rows.values.begin() + z * rows.w, rows.values.begin() + (z + 1) * rows.w);
        float p[3] = {at[i].x, 0, 0}, want = sampled(layer, 1, p, 0, s);
        if (!(fabsf(got[i] - want) <= 1 / 256.0f))
            fail("row %d at %g is %g, not %g", z, p[0], got[i], want);
    }
    CHECK(cudaDestroyTextureObject(texture));
    CHECK(cudaFreeArray(array));
}

// Every texel becomes its value of before, mirrored, plus one; positions beyond the edge read as zero and are not written.
__global__ static void mirror(cudaSurfaceObject_t from, cudaSurfaceObject_t to, int w, int h)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    float value = surf2Dread<float>(from, (w - 1 - x) * (int)sizeof(float), y, cudaBoundaryModeZero);
    surf2Dwrite(value + 1, to, x * (int)sizeof(float), y, cudaBoundaryModeZero);
}

__global__ static void number_volume(cudaSurfaceObject_t surface, int w, int h, int d)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < w * h * d)
        surf3Dwrite(make_ushort2((unsigned short)i, (unsigned short)~i), surface, i % w * (int)sizeof(ushort2), i / w % h, i / w / h);
}

__global__ static void number_layers(cudaSurfaceObject_t surface, int w, int h, int d)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < w * h * d) {
        int x = i % w, y = i / w % h, layer = i / w / h;
        uint4 value = surf2DLayeredread<uint4>(surface, x * (int)sizeof(uint4), y, layer);
        value.y += (unsigned)i;
        surf2DLayeredwrite(value, surface, x * (int)sizeof(uint4), y, layer);
    }
}

static cudaSurfaceObject_t surface_of(cudaArray_t array)
{
    cudaResourceDesc r = {};
    r.resType = cudaResourceTypeArray;
    r.res.array.array = array;
    cudaSurfaceObject_t surface;
    CHECK(cudaCreateSurfaceObject(&surface, &r));
    return surface;
}

static void surfaces(void)
{
    Image image = noisy(50, 9, 1, 8);
    cudaArray_t from = array_of(image, cudaArraySurfaceLoadStore), to = array_of(image, cudaArraySurfaceLoadStore);
    cudaSurfaceObject_t a = surface_of(from), b = surface_of(to);
    mirror<<<dim3(2, image.h), 32>>>(a, b, image.w, image.h);
    CHECK(cudaGetLastError());
    std::vector<float> got(image.values.size());
    CHECK(cudaMemcpy2DFromArray(got.data(), image.w * 4, to, 0, 0, image.w * 4, image.h, cudaMemcpyDeviceToHost));
    for (int y = 0; y < image.h; y++)
        for (int x = 0; x < image.w; x++)
            if (got[y * image.w + x] != image.at(image.w - 1 - x, y, 0, 0) + 1)
                fail("surface at %d %d is %g", x, y, got[y * image.w + x]);
    cudaResourceDesc r;
    CHECK(cudaGetSurfaceObjectResourceDesc(&r, b));
    REQUIRE(r.resType == cudaResourceTypeArray && r.res.array.array == to);
    CHECK(cudaDestroySurfaceObject(a));
    CHECK(cudaDestroySurfaceObject(b));
    CHECK(cudaFreeArray(from));
    CHECK(cudaFreeArray(to));

    const int w = 12, h = 6, d = 5, n = w * h * d;
    cudaChannelFormatDesc format = cudaCreateChannelDesc<ushort2>();
    cudaArray_t volume;
    CHECK(cudaMalloc3DArray(&volume, &format, make_cudaExtent(w, h, d), cudaArraySurfaceLoadStore));
    a = surface_of(volume);
    number_volume<<<BLOCKS(n), THREADS>>>(a, w, h, d);
    CHECK(cudaGetLastError());
    std::vector<ushort2> pairs(n);
    cudaMemcpy3DParms copy = {};
    copy.srcArray = volume;
    copy.dstPtr = make_cudaPitchedPtr(pairs.data(), w * sizeof(ushort2), w, h);
    copy.extent = make_cudaExtent(w, h, d);
    copy.kind = cudaMemcpyDeviceToHost;
    CHECK(cudaMemcpy3D(&copy));
    for (int i = 0; i < n; i++)
        if (pairs[i].x != (unsigned short)i || pairs[i].y != (unsigned short)~i)
            fail("volume's texel %d is %u %u", i, pairs[i].x, pairs[i].y);
    CHECK(cudaDestroySurfaceObject(a));
    CHECK(cudaFreeArray(volume));

    format = cudaCreateChannelDesc<uint4>();
    CHECK(cudaMalloc3DArray(&volume, &format, make_cudaExtent(w, h, d), cudaArraySurfaceLoadStore | cudaArrayLayered));
    std::vector<uint4> fours(n);
    for (int i = 0; i < n; i++)
        fours[i] = make_uint4(noise(i), noise(i + n), noise(i + 2 * n), noise(i + 3 * n));
    copy = {};
    copy.srcPtr = make_cudaPitchedPtr(fours.data(), w * sizeof(uint4), w, h);
    copy.dstArray = volume;
    copy.extent = make_cudaExtent(w, h, d);
    copy.kind = cudaMemcpyHostToDevice;
    CHECK(cudaMemcpy3D(&copy));
    a = surface_of(volume);
    number_layers<<<BLOCKS(n), THREADS>>>(a, w, h, d);
    CHECK(cudaGetLastError());
    std::vector<uint4> back(n);
    copy = {};
    copy.srcArray = volume;
    copy.dstPtr = make_cudaPitchedPtr(back.data(), w * sizeof(uint4), w, h);
    copy.extent = make_cudaExtent(w, h, d);
    copy.kind = cudaMemcpyDeviceToHost;
    CHECK(cudaMemcpy3D(&copy));
    for (int i = 0; i < n; i++)
        if (back[i].x != fours[i].x || back[i].y != fours[i].y + (unsigned)i || back[i].z != fours[i].z || back[i].w != fours[i].w)
            fail("layers' texel %d is wrong", i);
    CHECK(cudaDestroySurfaceObject(a));
    CHECK(cudaFreeArray(volume));
}

// Levels of one value each: between two of them the filter mixes.
static void mipmaps(void)
{
    cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
    cudaMipmappedArray_t mipmapped;
    CHECK(cudaMallocMipmappedArray(&mipmapped, &format, make_cudaExtent(16, 16, 0), 4));
    const float values[4] = {1, 3, 11, 7};
    for (unsigned i = 0; i < 4; i++) {
        cudaArray_t level;
        CHECK(cudaGetMipmappedArrayLevel(&level, mipmapped, i));
        size_t size = 16 >> i;
        std::vector<float> texels(size * size, values[i]);
        CHECK(cudaMemcpy2DToArray(level, 0, 0, texels.data(), size * 4, size * 4, size, cudaMemcpyHostToDevice));
    }
    cudaResourceDesc r = {};
    r.resType = cudaResourceTypeMipmappedArray;
    r.res.mipmap.mipmap = mipmapped;
    cudaTextureDesc t = {};
    t.normalizedCoords = 1;
    t.filterMode = cudaFilterModeLinear;
    t.maxMipmapLevelClamp = 3;
    std::vector<float4> at;
    for (int i = 0; i <= 48; i++)
        at.push_back(make_float4(0.3f, 0.6f, 0, i / 16.0f + 1 / 64.0f));
    int n = (int)at.size();
    DeviceArray<float4> where(at);
    DeviceArray<float> out(n);
    for (bool linear : {false, true}) {
        t.mipmapFilterMode = linear ? cudaFilterModeLinear : cudaFilterModePoint;
        cudaTextureObject_t texture;
        CHECK(cudaCreateTextureObject(&texture, &r, &t, nullptr));
        sample_levels<<<BLOCKS(n), THREADS>>>(texture, where.get(), out.get(), n);
        CHECK(cudaGetLastError());
        std::vector<float> got = out.read();
        for (int i = 0; i < n; i++) {
            float lod = fminf(at[i].w, 3), want;
            int low = (int)lod;
            if (linear)
                want = low == 3 ? values[3] : values[low] + (values[low + 1] - values[low]) * (lod - low);
            else
                want = values[(int)floorf(lod + 0.5f)];
            if (!(fabsf(got[i] - want) <= (linear ? 8 / 128.0f : 0)))
                fail("level %g, linear %d, is %g, not %g", at[i].w, linear, got[i], want);
        }
        cudaResourceDesc back;
        CHECK(cudaGetTextureObjectResourceDesc(&back, texture));
        REQUIRE(back.resType == cudaResourceTypeMipmappedArray && back.res.mipmap.mipmap == mipmapped);
        CHECK(cudaDestroyTextureObject(texture));
    }
    CHECK(cudaFreeMipmappedArray(mipmapped));
}

// Faces of one value each.
static void cubemap(void)
{
    cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
    cudaArray_t array;
    CHECK(cudaMalloc3DArray(&array, &format, make_cudaExtent(8, 8, 6), cudaArrayCubemap));
    std::vector<float> texels(8 * 8 * 6);
    for (size_t i = 0; i < texels.size(); i++)
        texels[i] = (float)(i / 64);
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(texels.data(), 32, 8, 8);
    copy.dstArray = array;
    copy.extent = make_cudaExtent(8, 8, 6);
    copy.kind = cudaMemcpyHostToDevice;
    CHECK(cudaMemcpy3D(&copy));
    cudaTextureDesc t = {};
    t.normalizedCoords = 1;
    for (auto &mode : t.addressMode)
        mode = cudaAddressModeClamp;
    cudaTextureObject_t texture = texture_of(array, t);
    std::vector<float4> at;
    for (int face = 0; face < 6; face++)
        for (int i = 0; i < 16; i++) {
            float p[3] = {0.1f * (i % 4) - 0.17f, 0.1f * (i / 4) - 0.13f, 0.1f};
            // The largest coordinate tells the face: +x, -x, +y, -y, +z, -z.
            p[face / 2] = face % 2 ? -1.5f : 1.5f;
            at.push_back(make_float4(p[0], p[1], p[2], (float)face));
        }
    int n = (int)at.size();
    DeviceArray<float4> where(at);
    DeviceArray<float> out(n);
    sample_cube<<<BLOCKS(n), THREADS>>>(texture, where.get(), out.get(), n);
    CHECK(cudaGetLastError());
    std::vector<float> got = out.read();
    for (int i = 0; i < n; i++)
        if (got[i] != at[i].w)
            fail("direction %g %g %g is face %g, not %g", at[i].x, at[i].y, at[i].z, got[i], at[i].w);
    CHECK(cudaDestroyTextureObject(texture));
    CHECK(cudaFreeArray(array));
}

static void gathers(void)
{
    Image image = noisy(16, 8, 1, 10);
    cudaArray_t array = array_of(image, cudaArrayTextureGather);
    Sampling s = {cudaAddressModeClamp, false, false, {0, 0, 0, 0}};
    cudaTextureObject_t texture = texture_of(array, description(s));
    std::vector<float4> at = positions(image, false, false);
    int n = (int)at.size();
    DeviceArray<float4> where(at), out(n);
    gather<<<BLOCKS(n), THREADS>>>(texture, where.get(), out.get(), n);
    CHECK(cudaGetLastError());
    std::vector<float4> got = out.read();
    for (int i = 0; i < n; i++) {
        int x = (int)floorf(at[i].x - 0.5f), y = (int)floorf(at[i].y - 0.5f);
        float want[4] = {texel(image, x, y + 1, 0, 0, s), texel(image, x + 1, y + 1, 0, 0, s),
                         texel(image, x + 1, y, 0, 0, s), texel(image, x, y, 0, 0, s)};
        if (memcmp(want, &got[i], sizeof want) != 0)
            fail("gathered at %g %g: %g %g %g %g, not %g %g %g %g", at[i].x, at[i].y, got[i].x, got[i].y, got[i].z, got[i].w,
                 want[0], want[1], want[2], want[3]);
    }
    CHECK(cudaDestroyTextureObject(texture));
    CHECK(cudaFreeArray(array));
}

// The bits of floats, read as numbers through a view.
static void views(void)
{
    Image image = noisy(16, 8, 1, 11);
    cudaArray_t array = array_of(image);
    cudaResourceDesc r = {};
    r.resType = cudaResourceTypeArray;
    r.res.array.array = array;
    cudaTextureDesc t = {};
    cudaResourceViewDesc v = {}, got_view;
    v.format = cudaResViewFormatUnsignedInt1;
    v.width = 16;
    v.height = 8;
    cudaTextureObject_t texture;
    CHECK(cudaCreateTextureObject(&texture, &r, &t, &v));
    CHECK(cudaGetTextureObjectResourceViewDesc(&got_view, texture));
    REQUIRE(got_view.format == v.format && got_view.width == 16 && got_view.height == 8 && got_view.lastMipmapLevel == 0);
    std::vector<float4> at = positions(image, false, false);
    int n = (int)at.size();
    DeviceArray<float4> where(at);
    DeviceArray<unsigned> out(n);
    sample_integers<unsigned><<<BLOCKS(n), THREADS>>>(texture, where.get(), out.get(), n);
    CHECK(cudaGetLastError());
    std::vector<unsigned> got = out.read();
    for (int i = 0; i < n; i++) {
        unsigned want;
        memcpy(&want, &image.at((int)at[i].x, (int)at[i].y, 0, 0), 4);
        if (got[i] != want)
            fail("bits at %g %g are %#x, not %#x", at[i].x, at[i].y, got[i], want);
    }
    CHECK(cudaDestroyTextureObject(texture));
    v.width = 17;
    EXPECT(cudaErrorInvalidValue, cudaCreateTextureObject(&texture, &r, &t, &v));
    CHECK(cudaFreeArray(array));
}

static void getters(void)
{
    Image image = noisy(16, 8, 1, 9);
    cudaArray_t array = array_of(image);
    Sampling s = {cudaAddressModeMirror, true, true, {0, 0, 0, 0}};
    cudaTextureDesc t = description(s), got;
    t.maxAnisotropy = 4;
    cudaTextureObject_t texture = texture_of(array, t), other = texture_of(array, t);
    REQUIRE(texture != other);
    CHECK(cudaGetTextureObjectTextureDesc(&got, texture));
    REQUIRE(got.addressMode[0] == cudaAddressModeMirror && got.addressMode[1] == cudaAddressModeMirror);
    REQUIRE(got.filterMode == cudaFilterModeLinear && got.readMode == cudaReadModeElementType && got.normalizedCoords == 1);
    cudaResourceDesc r;
    CHECK(cudaGetTextureObjectResourceDesc(&r, texture));
    REQUIRE(r.resType == cudaResourceTypeArray && r.res.array.array == array);
    CHECK(cudaDestroyTextureObject(texture));
    CHECK(cudaDestroyTextureObject(other));

    // What is no object any more.
    EXPECT(cudaErrorInvalidValue, cudaGetTextureObjectTextureDesc(&got, texture));
    CHECK(cudaDestroyTextureObject(texture));

    r = {};
    r.resType = cudaResourceTypeArray;
    r.res.array.array = array;
    EXPECT(cudaErrorInvalidValue, cudaCreateTextureObject(nullptr, &r, &t, nullptr));
    EXPECT(cudaErrorInvalidValue, cudaCreateTextureObject(&texture, nullptr, &t, nullptr));
    CHECK(cudaFreeArray(array));
}

#define REQUIRE_CU(expected, call)                                                                           \
    do {                                                                                                     \
        CUresult got_ = (call);                                                                              \
        if (got_ != (expected))                                                                              \
            fail("line %d: %s returned %d, expected %d", __LINE__, #call, (int)got_, (int)(expected));       \
    } while (0)
#define CU(call) REQUIRE_CU(CUDA_SUCCESS, call)
#define INVALID(call) REQUIRE_CU(CUDA_ERROR_INVALID_VALUE, call)

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
#if defined __GNUC__
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#endif

// As nvcc wrote texture references until CUDA 11: the kernel names them.
static const char REFERENCES[] = R"(
.version 4.0
.target sm_30
.address_size 64
.global .texref picture;
.global .surfref sheet;
.visible .entry look(.param .u64 at, .param .u64 out, .param .u32 n)
{
    .reg .u64 %a, %o, %i;
    .reg .u32 %t, %n;
    .reg .f32 %x, %y, %r, %g, %b, %c;
    .reg .pred %p;
    ld.param.u64 %a, [at];
    ld.param.u64 %o, [out];
    ld.param.u32 %n, [n];
    mov.u32 %t, %tid.x;
    setp.ge.u32 %p, %t, %n;
    @%p bra DONE;
    cvta.to.global.u64 %a, %a;
    cvta.to.global.u64 %o, %o;
    mul.wide.u32 %i, %t, 16;
    add.u64 %a, %a, %i;
    ld.global.f32 %x, [%a];
    ld.global.f32 %y, [%a + 4];
    tex.2d.v4.f32.f32 {%r, %g, %b, %c}, [picture, {%x, %y}];
    mul.wide.u32 %i, %t, 4;
    add.u64 %o, %o, %i;
    st.global.f32 [%o], %r;
DONE:
    ret;
}
)";

static void reference_getters(CUtexref t)
{
    FUNCTION(cuTexRefGetAddressMode);
    FUNCTION(cuTexRefGetFilterMode);
    FUNCTION(cuTexRefGetFlags);
    FUNCTION(cuTexRefGetFormat);
    FUNCTION(cuTexRefGetMaxAnisotropy);
    FUNCTION(cuTexRefGetMipmapFilterMode);
    FUNCTION(cuTexRefGetMipmapLevelBias);
    FUNCTION(cuTexRefGetMipmapLevelClamp);
    FUNCTION(cuTexRefGetBorderColor);
    FUNCTION(cuTexRefSetMaxAnisotropy);
    FUNCTION(cuTexRefSetMipmapFilterMode);
    FUNCTION(cuTexRefSetMipmapLevelBias);
    FUNCTION(cuTexRefSetMipmapLevelClamp);
    FUNCTION(cuTexRefSetBorderColor);
    FUNCTION(cuTexRefSetAddressMode);
    FUNCTION(cuTexRefSetFlags);
    FUNCTION(cuTexRefSetFormat);
    CUaddress_mode mode;
    CUfilter_mode filter;
    CUarray_format format;
    unsigned flags;
    int channels, anisotropy;
    float bias, low, high, color[4], wanted[4] = {0.25f, 0.5f, 0, 1};
    CU(p_cuTexRefGetAddressMode(&mode, t, 0));
    CU(p_cuTexRefGetFilterMode(&filter, t));
    CU(p_cuTexRefGetFlags(&flags, t));
    CU(p_cuTexRefGetFormat(&format, &channels, t));
    REQUIRE(mode == CU_TR_ADDRESS_MODE_CLAMP && filter == CU_TR_FILTER_MODE_POINT && flags == 0);
    REQUIRE(format == CU_AD_FORMAT_FLOAT && channels == 1);
    INVALID(p_cuTexRefGetAddressMode(&mode, t, 3));
    CU(p_cuTexRefSetAddressMode(t, 1, CU_TR_ADDRESS_MODE_CLAMP));
    INVALID(p_cuTexRefSetAddressMode(t, 3, CU_TR_ADDRESS_MODE_CLAMP));
    INVALID(p_cuTexRefSetFlags(t, 0x8000));
    INVALID(p_cuTexRefSetFormat(t, CU_AD_FORMAT_FLOAT, 3));
    CU(p_cuTexRefSetFormat(t, CU_AD_FORMAT_FLOAT, 1));
    CU(p_cuTexRefSetMaxAnisotropy(t, 5));
    CU(p_cuTexRefGetMaxAnisotropy(&anisotropy, t));
    CU(p_cuTexRefSetMipmapFilterMode(t, CU_TR_FILTER_MODE_LINEAR));
    CU(p_cuTexRefGetMipmapFilterMode(&filter, t));
    CU(p_cuTexRefSetMipmapLevelBias(t, 0.5f));
    CU(p_cuTexRefGetMipmapLevelBias(&bias, t));
    CU(p_cuTexRefSetMipmapLevelClamp(t, 0.5f, 2));
    CU(p_cuTexRefGetMipmapLevelClamp(&low, &high, t));
    REQUIRE(anisotropy == 5 && filter == CU_TR_FILTER_MODE_LINEAR && bias == 0.5f && low == 0.5f && high == 2);
    INVALID(p_cuTexRefGetMipmapLevelClamp(&low, nullptr, t));
    CU(p_cuTexRefSetBorderColor(t, wanted));
    CU(p_cuTexRefGetBorderColor(color, t));
    REQUIRE(memcmp(color, wanted, sizeof color) == 0);
    INVALID(p_cuTexRefSetBorderColor(t, nullptr));
    REQUIRE_CU(CUDA_ERROR_INVALID_HANDLE, p_cuTexRefGetFlags(&flags, nullptr));
}

// What the driver refuses of objects.
static void refused(void)
{
    FUNCTION(cuTexObjectCreate);
    FUNCTION(cuTexObjectDestroy);
    FUNCTION(cuTexObjectGetResourceDesc);
    FUNCTION(cuTexObjectGetTextureDesc);
    FUNCTION(cuTexObjectGetResourceViewDesc);
    FUNCTION(cuSurfObjectCreate);
    FUNCTION(cuSurfObjectDestroy);
    FUNCTION(cuSurfObjectGetResourceDesc);
    Image image = noisy(16, 8, 1, 13);
    CUarray array = (CUarray)array_of(image, cudaArraySurfaceLoadStore);
    CUDA_RESOURCE_DESC r, got;
    CUDA_TEXTURE_DESC t;
    CUDA_RESOURCE_VIEW_DESC v;
    CUtexObject texture;
    CUsurfObject surface;
    memset(&r, 0, sizeof r);
    memset(&t, 0, sizeof t);
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    INVALID(p_cuSurfObjectCreate(&surface, &r));
    r.res.array.hArray = array;
    INVALID(p_cuTexObjectCreate(nullptr, &r, &t, nullptr));
    INVALID(p_cuTexObjectCreate(&texture, nullptr, &t, nullptr));
    INVALID(p_cuTexObjectCreate(&texture, &r, nullptr, nullptr));
    r.flags = 1;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    INVALID(p_cuSurfObjectCreate(&surface, &r));
    r.flags = 0;
    r.resType = (CUresourcetype)4;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    r.resType = CU_RESOURCE_TYPE_ARRAY;
    t.addressMode[0] = (CUaddress_mode)4;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    t.addressMode[0] = CU_TR_ADDRESS_MODE_WRAP;
    t.filterMode = (CUfilter_mode)2;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    t.filterMode = CU_TR_FILTER_MODE_POINT;
    t.flags = 0x100;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    t.flags = 0;
    t.reserved[3] = 1;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    t.reserved[3] = 0;
    CU(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    CU(p_cuSurfObjectCreate(&surface, &r));
    CU(p_cuTexObjectGetResourceDesc(&got, texture));
    REQUIRE(got.resType == CU_RESOURCE_TYPE_ARRAY && got.res.array.hArray == array && got.flags == 0);
    CU(p_cuTexObjectDestroy(texture));
    CU(p_cuSurfObjectDestroy(surface));
    INVALID(p_cuTexObjectGetResourceDesc(&got, texture));
    INVALID(p_cuTexObjectGetTextureDesc(&t, 0x7777));
    INVALID(p_cuTexObjectGetResourceViewDesc(&v, 0x7777));
    INVALID(p_cuSurfObjectGetResourceDesc(&got, surface));
    // Memory: aligned to 32 bytes for rows, to 512 for the base of linear memory.
    DeviceArray<float> memory(4096);
    memset(&r, 0, sizeof r);
    memset(&t, 0, sizeof t);
    r.resType = CU_RESOURCE_TYPE_LINEAR;
    r.res.linear.devPtr = (CUdeviceptr)memory.get();
    r.res.linear.format = CU_AD_FORMAT_FLOAT;
    r.res.linear.numChannels = 1;
    r.res.linear.sizeInBytes = 4096;
    INVALID(p_cuSurfObjectCreate(&surface, &r));
    r.res.linear.devPtr += 4;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    r.res.linear.devPtr = 0;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    r.res.linear.devPtr = (CUdeviceptr)memory.get();
    r.res.linear.numChannels = 3;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    r.res.linear.numChannels = 1;
    CU(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    CU(p_cuTexObjectGetResourceDesc(&got, texture));
    REQUIRE(got.resType == CU_RESOURCE_TYPE_LINEAR && got.res.linear.devPtr == r.res.linear.devPtr &&
            got.res.linear.format == CU_AD_FORMAT_FLOAT && got.res.linear.numChannels == 1 && got.res.linear.sizeInBytes == 4096);
    CU(p_cuTexObjectDestroy(texture));
    memset(&r, 0, sizeof r);
    r.resType = CU_RESOURCE_TYPE_PITCH2D;
    r.res.pitch2D.devPtr = (CUdeviceptr)memory.get();
    r.res.pitch2D.format = CU_AD_FORMAT_FLOAT;
    r.res.pitch2D.numChannels = 1;
    r.res.pitch2D.width = 16;
    r.res.pitch2D.height = 16;
    r.res.pitch2D.pitchInBytes = 72;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    r.res.pitch2D.pitchInBytes = 512;
    r.res.pitch2D.devPtr += 4;
    INVALID(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    r.res.pitch2D.devPtr -= 4;
    CU(p_cuTexObjectCreate(&texture, &r, &t, nullptr));
    CU(p_cuTexObjectDestroy(texture));
    CHECK(cudaFreeArray((cudaArray_t)array));
}

// Texture references of the driver API, alone and in a module.
static void references(void)
{
    FUNCTION(cuTexRefCreate);
    FUNCTION(cuTexRefDestroy);
    FUNCTION(cuTexRefSetArray);
    FUNCTION(cuTexRefGetArray);
    FUNCTION(cuTexRefSetAddress);
    FUNCTION(cuTexRefGetAddress);
    FUNCTION(cuTexRefSetAddress2D);
    FUNCTION(cuTexRefSetMipmappedArray);
    FUNCTION(cuTexRefGetMipmappedArray);
    FUNCTION(cuTexRefSetFilterMode);
    FUNCTION(cuModuleLoadData);
    FUNCTION(cuModuleUnload);
    FUNCTION(cuModuleGetFunction);
    FUNCTION(cuModuleGetTexRef);
    FUNCTION(cuModuleGetSurfRef);
    FUNCTION(cuSurfRefSetArray);
    FUNCTION(cuSurfRefGetArray);
    FUNCTION(cuLaunchKernel);
    FUNCTION(cuParamSetTexRef);
    Image image = noisy(16, 8, 1, 12);
    CUarray array = (CUarray)array_of(image), got, sheet = (CUarray)array_of(image, cudaArraySurfaceLoadStore);
    CUmipmappedArray mipmapped, got_mipmapped;
    cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
    CHECK(cudaMallocMipmappedArray((cudaMipmappedArray_t *)&mipmapped, &format, make_cudaExtent(16, 8, 0), 2));
    DeviceArray<float> memory(1024);
    CUdeviceptr address, base = (CUdeviceptr)memory.get();
    size_t offset;
    CUtexref t;
    CU(p_cuTexRefCreate(&t));
    INVALID(p_cuTexRefGetArray(&got, t));
    INVALID(p_cuTexRefGetAddress(&address, t));
    reference_getters(t);
    CU(p_cuTexRefSetArray(t, array, CU_TRSA_OVERRIDE_FORMAT));
    CU(p_cuTexRefGetArray(&got, t));
    REQUIRE(got == array);
    REQUIRE_CU(CUDA_ERROR_INVALID_HANDLE, p_cuTexRefSetArray(t, nullptr, CU_TRSA_OVERRIDE_FORMAT));
    CU(p_cuTexRefSetMipmappedArray(t, mipmapped, CU_TRSA_OVERRIDE_FORMAT));
    CU(p_cuTexRefGetMipmappedArray(&got_mipmapped, t));
    REQUIRE(got_mipmapped == mipmapped);
    INVALID(p_cuTexRefGetArray(&got, t));
    CU(p_cuTexRefSetAddress(&offset, t, base + 4, 2048));
    REQUIRE(offset == 4);
    CU(p_cuTexRefGetAddress(&address, t));
    REQUIRE(address == base);
    INVALID(p_cuTexRefSetAddress(nullptr, t, base + 4, 2048));
    CUDA_ARRAY_DESCRIPTOR two = {16, 8, CU_AD_FORMAT_FLOAT, 1};
    CU(p_cuTexRefSetAddress2D(t, &two, base, 512));
    INVALID(p_cuTexRefSetAddress2D(t, &two, base, 72));
    CU(p_cuTexRefDestroy(t));
    REQUIRE_CU(CUDA_ERROR_INVALID_HANDLE, p_cuTexRefDestroy(nullptr));

    CUmodule module;
    CUfunction look;
    CUtexref again;
    CUsurfref s;
    CU(p_cuModuleLoadData(&module, REFERENCES));
    CU(p_cuModuleGetTexRef(&t, module, "picture"));
    CU(p_cuModuleGetTexRef(&again, module, "picture"));
    REQUIRE(t == again);
    REQUIRE_CU(CUDA_ERROR_NOT_FOUND, p_cuModuleGetTexRef(&again, module, "nothing"));
    REQUIRE_CU(CUDA_ERROR_NOT_FOUND, p_cuModuleGetSurfRef(&s, module, "nothing"));
    CU(p_cuModuleGetSurfRef(&s, module, "sheet"));
    INVALID(p_cuSurfRefGetArray(&got, s));
    CU(p_cuSurfRefSetArray(s, sheet, 0));
    INVALID(p_cuSurfRefSetArray(s, sheet, 1));
    CU(p_cuSurfRefGetArray(&got, s));
    REQUIRE(got == sheet);
    CU(p_cuModuleGetFunction(&look, module, "look"));
    REQUIRE_CU(CUDA_ERROR_INVALID_HANDLE, p_cuParamSetTexRef(look, CU_PARAM_TR_DEFAULT, nullptr));
    CU(p_cuTexRefSetArray(t, array, CU_TRSA_OVERRIDE_FORMAT));
    CU(p_cuTexRefSetFilterMode(t, CU_TR_FILTER_MODE_LINEAR));
    std::vector<float4> at = positions(image, false, true);
    unsigned n = (unsigned)at.size();
    DeviceArray<float4> where(at);
    DeviceArray<float> out(n);
    CUdeviceptr p_at = (CUdeviceptr)where.get(), p_out = (CUdeviceptr)out.get();
    void *parameters[] = {&p_at, &p_out, &n};
    CU(p_cuLaunchKernel(look, 1, 1, 1, 1024, 1, 1, 0, nullptr, parameters, nullptr));
    std::vector<float> values = out.read();
    Sampling sampling = {cudaAddressModeClamp, true, false, {0, 0, 0, 0}};
    for (unsigned i = 0; i < n; i++) {
        float p[3] = {at[i].x, at[i].y, 0}, want = sampled(image, 2, p, 0, sampling);
        if (!(fabsf(values[i] - want) <= 2 / 256.0f))
            fail("texture reference: at %g %g is %g, not %g", p[0], p[1], values[i], want);
    }
    CU(p_cuModuleUnload(module));
    CHECK(cudaFreeArray((cudaArray_t)array));
    CHECK(cudaFreeArray((cudaArray_t)sheet));
    CHECK(cudaFreeMipmappedArray((cudaMipmappedArray_t)mipmapped));
}

int main()
{
    sampling();
    read_modes();
    memory();
    layers();
    surfaces();
    mipmaps();
    cubemap();
    gathers();
    views();
    getters();
    refused();
    references();
    return pass("texture and surface objects, texture references");
}
