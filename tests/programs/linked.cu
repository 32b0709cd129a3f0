// Two translation units whose device code is linked (-rdc=true): a kernel calls a function of the other, and both
// use one variable. The other unit is linked.part.cu.
#include "check.h"

constexpr int COUNT = 1000;

extern __device__ uint32_t calls;
extern __constant__ uint32_t factors[4];
extern __device__ uint32_t mixed(uint32_t x, uint32_t factor);
extern void clear_calls(void);
extern uint32_t doubled(uint32_t x);

__global__ static void mix(uint32_t *values, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    atomicAdd(&calls, 1u);
    values[i] = mixed(i, factors[i & 3]);
}

int main()
{
    uint32_t *values = nullptr, read[COUNT], count = 0;
    const uint32_t numbers[4] = {3, 5, 7, 11};
    CHECK(cudaMalloc(&values, sizeof read));
    CHECK(cudaMemcpyToSymbol(factors, numbers, sizeof numbers));
    for (unsigned round = 1; round <= 3; round++) {
        mix<<<(COUNT + 127) / 128, 128>>>(values, COUNT);
        CHECK(cudaGetLastError());
        CHECK(cudaMemcpy(read, values, sizeof read, cudaMemcpyDeviceToHost));
        for (uint32_t i = 0; i < COUNT; i++)
            REQUIRE(read[i] == (noise(i) ^ i * numbers[i & 3]));
        CHECK(cudaMemcpyFromSymbol(&count, calls, sizeof count));
        REQUIRE(count == round * COUNT);
    }
    clear_calls();
    CHECK(cudaMemcpyFromSymbol(&count, calls, sizeof count));
    REQUIRE(count == 0);
    REQUIRE(doubled(21) == 42);
    CHECK(cudaFree(values));
    return pass("%d calls of another unit's function", 3 * COUNT);
}
