// Sum, maximum and a dot product through warp shuffles, shared memory and one atomic per block.
#include "check.h"

#include <algorithm>

constexpr int BLOCK = 256;
constexpr unsigned ALL = 0xffffffffu;

struct Result {
    unsigned long long sum;
    int maximum;
    float dot;
};

template <typename T, typename Operation> __device__ T reduce_warp(T value, Operation operation)
{
    for (int distance = 16; distance > 0; distance /= 2)
        value = operation(value, __shfl_down_sync(ALL, value, distance));
    return value;
}

// The result is in thread 0.
template <typename T, typename Operation> __device__ T reduce_block(T value, T neutral, Operation operation)
{
    __shared__ T partial[BLOCK / 32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = reduce_warp(value, operation);
    if (lane == 0)
        partial[warp] = value;
    __syncthreads();
    if (warp == 0)
        value = reduce_warp(lane < BLOCK / 32 ? partial[lane] : neutral, operation);
    return value;
}

__global__ void reduce(const int *values, int count, Result *result)
{
    unsigned long long sum = 0;
    int maximum = INT32_MIN;
    float dot = 0;
    for (int i = blockIdx.x * BLOCK + threadIdx.x; i < count; i += gridDim.x * BLOCK) {
        int value = values[i];
        sum += (unsigned)(value & 0xffff);
        maximum = max(maximum, value);
        dot += (float)(value & 1) * (float)(value >> 1 & 1);
    }
    sum = reduce_block(sum, 0ull, [](unsigned long long a, unsigned long long b) { return a + b; });
    maximum = reduce_block(maximum, INT32_MIN, [](int a, int b) { return max(a, b); });
    dot = reduce_block(dot, 0.0f, [](float a, float b) { return a + b; });
    if (threadIdx.x == 0) {
        atomicAdd(&result->sum, sum);
        atomicMax(&result->maximum, maximum);
        atomicAdd(&result->dot, dot);
    }
}

int main(int argc, char **argv)
{
    int count = number_argument(argc, argv, 1, 100001);
    std::vector<int> values(count);
    Result expected = {0, INT32_MIN, 0};
    uint64_t dot = 0;
    for (int i = 0; i < count; i++) {
        values[i] = (int)noise(i);
        expected.sum += (unsigned)(values[i] & 0xffff);
        expected.maximum = std::max(expected.maximum, values[i]);
        dot += values[i] & (values[i] >> 1) & 1;
    }
    REQUIRE(dot < 1 << 24); // beyond that a float could not count exactly
    expected.dot = (float)dot;
    DeviceArray<int> device_values(values);
    DeviceArray<Result> device_result(std::vector<Result>{{0, INT32_MIN, 0}});
    reduce<<<std::min(64, (count + BLOCK - 1) / BLOCK), BLOCK>>>(device_values.get(), count, device_result.get());
    CHECK(cudaGetLastError());
    Result result = device_result.read()[0];
    if (result.sum != expected.sum)
        fail("the sum is %llu, expected %llu", result.sum, expected.sum);
    if (result.maximum != expected.maximum)
        fail("the maximum is %d, expected %d", result.maximum, expected.maximum);
    if (result.dot != expected.dot)
        fail("the dot product is %g, expected %g", result.dot, expected.dot);
    return pass("%d values, sum %llu", count, result.sum);
}
