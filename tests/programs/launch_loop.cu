// Launches an empty kernel N times (argument, default 10000) and prints what a launch costs.
#include "check.h"

__global__ void empty()
{
}

int main(int argc, char **argv)
{
    int count = number_argument(argc, argv, 1, 10000);
    empty<<<1, 1>>>();
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    double start = seconds_now();
    for (int i = 0; i < count; i++)
        empty<<<1, 1>>>();
    double launched = seconds_now();
    CHECK(cudaDeviceSynchronize());
    double finished = seconds_now();
    CHECK(cudaGetLastError());
    return pass("%d launches: %.0f ns/launch, %.0f ns with the final synchronisation", count,
                1e9 * (launched - start) / count, 1e9 * (finished - start) / count);
}
