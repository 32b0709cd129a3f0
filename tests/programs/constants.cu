// Constant memory and device variables, by symbol: copies both ways, addresses, sizes and initial values.
#include "check.h"

constexpr int COUNT = 200;

__constant__ float coefficients[4] = {1, 2, 3, 4};
__constant__ struct {
    int scale;
    double offset;
} settings;
__device__ int table[COUNT];
__device__ int initialised[3] = {7, -8, 9};
__device__ unsigned long long counter = 1ull << 40;
__constant__ char text[] = "constant";

__global__ void evaluate(double *results)
{
    int i = threadIdx.x;
    float x = (float)(i % 100);
    float polynomial = coefficients[0] + x * (coefficients[1] + x * (coefficients[2] + x * coefficients[3]));
    results[i] = (double)polynomial * settings.scale + settings.offset + table[i];
    table[i] = table[i] * 2 + text[i % 8] + initialised[i % 3];
    atomicAdd(&counter, 1ull);
}

static double expected_result(int i, const float *c, int scale, double offset, int entry)
{
    float x = (float)(i % 100);
    // Whole numbers below 2^24: exact with or without fused multiply-add.
    float polynomial = c[0] + x * (c[1] + x * (c[2] + x * c[3]));
    return (double)polynomial * scale + offset + entry;
}

static void compare(const std::vector<double> &results, const float *c, int scale, double offset, const int *entries)
{
    for (int i = 0; i < COUNT; i++) {
        double expected = expected_result(i, c, scale, offset, entries[i]);
        if (results[i] != expected)
            fail("result %d is %.17g, expected %.17g", i, results[i], expected);
    }
}

int main()
{
    size_t size = 0;
    CHECK(cudaGetSymbolSize(&size, table));
    REQUIRE(size == sizeof table);
    CHECK(cudaGetSymbolSize(&size, coefficients));
    REQUIRE(size == sizeof coefficients);

    int entries[COUNT];
    for (int i = 0; i < COUNT; i++)
        entries[i] = i * 11 - 300;
    struct {
        int scale;
        double offset;
    } host_settings = {3, 0.125};
    CHECK(cudaMemcpyToSymbol(table, entries, sizeof entries));
    CHECK(cudaMemcpyToSymbol(settings, &host_settings, sizeof host_settings));
    DeviceArray<double> device_results(COUNT);
    float first[4] = {1, 2, 3, 4};
    evaluate<<<1, COUNT>>>(device_results.get());
    CHECK(cudaGetLastError());
    compare(device_results.read(), first, 3, 0.125, entries);

    int updated[COUNT];
    CHECK(cudaMemcpyFromSymbol(updated, table, sizeof updated));
    const int initial[3] = {7, -8, 9};
    for (int i = 0; i < COUNT; i++) {
        int expected = entries[i] * 2 + "constant"[i % 8] + initial[i % 3];
        if (updated[i] != expected)
            fail("table entry %d is %d, expected %d", i, updated[i], expected);
    }

    // Part of a symbol, asynchronously, between two launches in one stream: the second sees the new values.
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    float *pinned;
    CHECK(cudaMallocHost(&pinned, 2 * sizeof(float)));
    pinned[0] = 5;
    pinned[1] = 6;
    CHECK(cudaMemcpyToSymbolAsync(coefficients, pinned, 2 * sizeof(float), 2 * sizeof(float), cudaMemcpyHostToDevice,
                                  stream));
    evaluate<<<1, COUNT, 0, stream>>>(device_results.get());
    CHECK(cudaGetLastError());
    unsigned long long total = 0;
    CHECK(cudaMemcpyFromSymbolAsync(&total, counter, sizeof total, 0, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(total == (1ull << 40) + 2 * COUNT);
    float second[4] = {1, 2, 5, 6};
    compare(device_results.read(), second, 3, 0.125, updated);

    // A symbol's address is ordinary device memory.
    void *address = nullptr;
    CHECK(cudaGetSymbolAddress(&address, initialised));
    int middle = 0;
    CHECK(cudaMemcpy(&middle, (char *)address + sizeof(int), sizeof middle, cudaMemcpyDeviceToHost));
    REQUIRE(middle == -8);
    EXPECT(cudaErrorInvalidValue, cudaMemcpyToSymbol(coefficients, entries, sizeof coefficients + 4));
    cudaGetLastError();
    CHECK(cudaFreeHost(pinned));
    CHECK(cudaStreamDestroy(stream));
    return pass("%d results, constants and device variables both ways", 2 * COUNT);
}
