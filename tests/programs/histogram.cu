// A histogram through shared and global atomics, then every other atomic operation once.
#include "check.h"

#include <algorithm>

constexpr int BINS = 64;

__global__ void count_bins(const uint32_t *values, int count, unsigned *bins)
{
    __shared__ unsigned local[BINS];
    for (int i = threadIdx.x; i < BINS; i += blockDim.x)
        local[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        atomicAdd(&local[values[i] % BINS], 1);
    __syncthreads();
    for (int i = threadIdx.x; i < BINS; i += blockDim.x)
        atomicAdd(&bins[i], local[i]);
}

struct Atomics {
    int add, subtract, minimum, maximum;
    unsigned bits_and, bits_or, bits_xor, wrapping_up, wrapping_down;
    unsigned exchanged, exchange_last;
    unsigned swapped; // counted up by a loop of compare-and-swap
    float real;
    double real_double;
    unsigned long long wide, wide_maximum;
};

__global__ void use_atomics(Atomics *atomics, unsigned *seen)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&atomics->add, i);
    atomicSub(&atomics->subtract, i);
    atomicMin(&atomics->minimum, 500 - i);
    atomicMax(&atomics->maximum, i - 500);
    atomicAnd(&atomics->bits_and, ~(1u << i % 16));
    atomicOr(&atomics->bits_or, 1u << i % 32);
    atomicXor(&atomics->bits_xor, noise(i));
    atomicInc(&atomics->wrapping_up, 99);
    atomicDec(&atomics->wrapping_down, 99);
    // Each value is taken out once, by whoever comes next, except the one that is left.
    unsigned before = atomicExch(&atomics->exchange_last, i + 1);
    atomicAdd(&atomics->exchanged, before);
    unsigned old = atomics->swapped, assumed;
    do {
        assumed = old;
        old = atomicCAS(&atomics->swapped, assumed, assumed + 3);
    } while (old != assumed);
    atomicAdd(&atomics->real, 0.5f);
    atomicAdd(&atomics->real_double, 0.25);
    atomicAdd(&atomics->wide, 0x100000001ull);
    atomicMax(&atomics->wide_maximum, (unsigned long long)i << 33);
    // The old values that an atomic addition returns are each handed out once.
    atomicAdd(&seen[atomicAdd(&seen[0], 1) + 1], 1);
}

int main(int argc, char **argv)
{
    int count = number_argument(argc, argv, 1, 60001);
    std::vector<uint32_t> values(count);
    std::vector<unsigned> expected(BINS);
    for (int i = 0; i < count; i++) {
        values[i] = noise(i) >> (i % 7);
        expected[values[i] % BINS]++;
    }
    DeviceArray<uint32_t> device_values(values);
    DeviceArray<unsigned> device_bins(BINS);
    device_bins.zero();
    count_bins<<<16, 128>>>(device_values.get(), count, device_bins.get());
    CHECK(cudaGetLastError());
    std::vector<unsigned> bins = device_bins.read();
    for (int i = 0; i < BINS; i++)
        if (bins[i] != expected[i])
            fail("bin %d has %u, expected %u", i, bins[i], expected[i]);

    constexpr int threads = 8 * 96;
    Atomics start = {};
    start.bits_and = 0xffffffff;
    DeviceArray<Atomics> device_atomics(std::vector<Atomics>{start});
    DeviceArray<unsigned> device_seen(threads + 1);
    device_seen.zero();
    use_atomics<<<8, 96>>>(device_atomics.get(), device_seen.get());
    CHECK(cudaGetLastError());
    Atomics atomics = device_atomics.read()[0];
    unsigned bits_xor = 0;
    for (int i = 0; i < threads; i++)
        bits_xor ^= noise(i);
    int sum = threads * (threads - 1) / 2;
    REQUIRE(atomics.add == sum);
    REQUIRE(atomics.subtract == -sum);
    REQUIRE(atomics.minimum == 500 - (threads - 1));
    REQUIRE(atomics.maximum == threads - 1 - 500);
    REQUIRE(atomics.bits_and == 0xffff0000);
    REQUIRE(atomics.bits_or == 0xffffffff);
    REQUIRE(atomics.bits_xor == bits_xor);
    REQUIRE(atomics.wrapping_up == threads % 100);
    REQUIRE(atomics.wrapping_down == (100 - threads % 100) % 100);
    REQUIRE(atomics.exchanged + atomics.exchange_last == (unsigned)(sum + threads));
    REQUIRE(atomics.swapped == 3 * threads);
    REQUIRE(atomics.real == 0.5f * threads);
    REQUIRE(atomics.real_double == 0.25 * threads);
    REQUIRE(atomics.wide == 0x100000001ull * threads);
    REQUIRE(atomics.wide_maximum == (unsigned long long)(threads - 1) << 33);
    std::vector<unsigned> seen = device_seen.read();
    REQUIRE(seen[0] == threads);
    for (int i = 1; i <= threads; i++)
        if (seen[i] != 1)
            fail("atomicAdd returned %d %u times, expected once", i - 1, seen[i]);
    return pass("%d values in %d bins, %d threads with 15 atomic operations", count, BINS, threads);
}
