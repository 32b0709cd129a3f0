// The other translation unit of linked.cu.
#include "check.h"

__device__ uint32_t calls;
__constant__ uint32_t factors[4];

__device__ uint32_t mixed(uint32_t x, uint32_t factor)
{
    return noise(x) ^ x * factor;
}

__global__ static void clear(void)
{
    calls = 0;
}

__global__ static void twice(uint32_t *value)
{
    *value *= 2;
}

void clear_calls(void)
{
    clear<<<1, 1>>>();
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
}

uint32_t doubled(uint32_t x)
{
    uint32_t *value = nullptr;
    CHECK(cudaMalloc(&value, sizeof x));
    CHECK(cudaMemcpy(value, &x, sizeof x, cudaMemcpyHostToDevice));
    twice<<<1, 1>>>(value);
    CHECK(cudaMemcpy(&x, value, sizeof x, cudaMemcpyDeviceToHost));
    CHECK(cudaFree(value));
    return x;
}
