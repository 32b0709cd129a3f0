// The device code of driver_api.c.
#include <cstdint>

struct Pair {
    int32_t factor;
    double addend;
};

extern "C" __device__ int32_t bias = 10;

extern "C" __global__ void transform(const int32_t *in, double *out, Pair pair, int32_t count)
{
    int32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        out[i] = (double)(in[i] * pair.factor) + pair.addend + bias;
}

extern "C" __global__ void reverse_shared(int32_t *values)
{
    extern __shared__ int32_t shared[];
    shared[threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    values[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}
