// Warps: votes, matches, shuffles of every kind, and control flow that takes threads apart and brings them together.
#include "check.h"

constexpr int BLOCK = 96, BLOCKS = 4, THREADS = BLOCK * BLOCKS;
constexpr unsigned ALL = 0xffffffffu;

struct Votes {
    unsigned ballot, match, odd_ballot;
    int any, all, all_true, match_all, match_all_result;
    int up, down, across, from, narrow;
    double wide;
};

__device__ __host__ static unsigned key(int i)
{
    return noise(i) % 5;
}

__global__ void vote(Votes *out)
{
    int i = blockIdx.x * BLOCK + threadIdx.x, lane = threadIdx.x % 32;
    unsigned mine = key(i);
    Votes v;
    v.ballot = __ballot_sync(ALL, mine > 2);
    v.any = __any_sync(ALL, lane == (int)mine + 40);
    v.all = __all_sync(ALL, mine < 4);
    v.all_true = __all_sync(ALL, mine < 5);
    v.match = __match_any_sync(ALL, mine);
    int agree = -1;
    v.match_all = (int)__match_all_sync(ALL, blockIdx.x * 7, &agree);
    v.match_all_result = agree;
    v.up = __shfl_up_sync(ALL, i, 3);
    v.down = __shfl_down_sync(ALL, i, 5);
    v.across = __shfl_xor_sync(ALL, i, 9);
    v.from = __shfl_sync(ALL, i, (int)mine * 6);
    v.narrow = __shfl_sync(ALL, i, 3, 8);
    v.wide = __shfl_sync(ALL, i + 0.25, 31 - lane);
    v.odd_ballot = 0;
    if (lane % 2) // half a warp votes among itself
        v.odd_ballot = __ballot_sync(0xaaaaaaaau, mine == 1);
    __syncwarp();
    out[i] = v;
}

__device__ __noinline__ unsigned depth(unsigned x, int level)
{
    if (level == 0 || x % 7 == 0)
        return x + level;
    return x % 2 ? depth(noise(x), level - 1) * 3 : depth(x / 2 + 1, level - 1) + 1;
}

static unsigned depth_on_host(unsigned x, int level)
{
    if (level == 0 || x % 7 == 0)
        return x + level;
    return x % 2 ? depth_on_host(noise(x), level - 1) * 3 : depth_on_host(x / 2 + 1, level - 1) + 1;
}

// The same text for both sides: nested conditions, loops of different lengths, break, continue, switch, early return.
template <typename Depth> __host__ __device__ static unsigned torture(unsigned x, Depth depth_of)
{
    unsigned result = 0;
    unsigned local[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (unsigned i = 0; i < 5 + x % 23; i++) {
        unsigned y = noise(x + i);
        if (y % 11 == 0)
            continue;
        if (y % 97 == 1)
            break;
        switch (y % 9) {
        case 0:
            result += y;
            break;
        case 1:
            result ^= y >> 3;
            [[fallthrough]];
        case 2:
            result = result * 3 + 1;
            break;
        case 3:
            while (y % 5)
                result += y--;
            break;
        case 4:
            if (result % 3 == 0) {
                if (y & 16)
                    result -= 7;
                else
                    result += local[y % 8];
            } else {
                local[result % 8] += y;
            }
            break;
        case 5:
            result += depth_of(y % 1000, 4);
            break;
        case 6:
            if (y % 1000 == 6)
                return result;
            result = (result << 5) | (result >> 27);
            break;
        default:
            for (int k = 0; k < (int)(y % 4); k++)
                for (int j = k; j < 3; j++)
                    result += local[(k + j) % 8] * (unsigned)(j + 1);
        }
    }
    for (unsigned value : local)
        result = result * 31 + value;
    return result;
}

__global__ void diverge(unsigned *out, unsigned seed)
{
    int i = blockIdx.x * BLOCK + threadIdx.x;
    unsigned x = noise(seed + i);
    unsigned result = torture(x, [](unsigned y, int level) { return depth(y, level); });
    // The warp is whole again: a shuffle after the divergence sees every lane.
    __syncwarp();
    unsigned sum = result;
    for (int distance = 16; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(ALL, sum, distance);
    out[2 * i] = result;
    out[2 * i + 1] = sum;
}

// Threads that leave early, and a barrier that the rest reaches.
__global__ void leave_early(int *out)
{
    __shared__ int values[BLOCK];
    int i = threadIdx.x;
    values[i] = i;
    __syncthreads();
    int odd = __syncthreads_count(i % 3 == 0);
    int both = (__syncthreads_and(i < BLOCK) != 0) + 2 * (__syncthreads_or(i == 77) != 0);
    if (i >= 64)
        return;
    values[i] += values[95 - i % 32];
    __syncwarp();
    out[blockIdx.x * BLOCK + i] = values[i ^ 1] * 1000 + odd * 10 + both;
}

static void check_votes()
{
    DeviceArray<Votes> device(THREADS);
    vote<<<BLOCKS, BLOCK>>>(device.get());
    CHECK(cudaGetLastError());
    std::vector<Votes> votes = device.read();
    for (int i = 0; i < THREADS; i++) {
        int lane = i % BLOCK % 32, first = i - lane;
        unsigned ballot = 0, match = 0, odd = 0, all = 1;
        for (int k = 0; k < 32; k++) {
            ballot |= (unsigned)(key(first + k) > 2) << k;
            match |= (unsigned)(key(first + k) == key(i)) << k;
            odd |= (unsigned)(k % 2 && key(first + k) == 1) << k;
            all &= key(first + k) < 4;
        }
        const Votes &v = votes[i];
        REQUIRE(v.ballot == ballot);
        REQUIRE(v.match == match);
        REQUIRE(v.odd_ballot == (lane % 2 ? odd : 0));
        REQUIRE(v.any == 0);
        REQUIRE((v.all != 0) == (all != 0));
        REQUIRE(v.all_true != 0);
        REQUIRE((unsigned)v.match_all == ALL && v.match_all_result != 0);
        REQUIRE(v.up == (lane < 3 ? i : i - 3));
        REQUIRE(v.down == (lane > 26 ? i : i + 5));
        REQUIRE(v.across == first + (lane ^ 9));
        REQUIRE(v.from == first + (int)key(i) * 6);
        REQUIRE(v.narrow == first + lane / 8 * 8 + 3);
        REQUIRE(v.wide == first + 31 - lane + 0.25);
    }
}

static void check_divergence(unsigned seed)
{
    DeviceArray<unsigned> device(2 * THREADS);
    diverge<<<BLOCKS, BLOCK>>>(device.get(), seed);
    CHECK(cudaGetLastError());
    std::vector<unsigned> results = device.read();
    for (int first = 0; first < THREADS; first += 32) {
        unsigned sum = 0, expected[32];
        for (int k = 0; k < 32; k++)
            sum += expected[k] = torture(noise(seed + first + k), depth_on_host);
        for (int k = 0; k < 32; k++) {
            unsigned result = results[2 * (first + k)], warp_sum = results[2 * (first + k) + 1];
            if (result != expected[k] || warp_sum != sum)
                fail("seed %u, thread %d: %#x and %#x in the warp, expected %#x and %#x", seed, first + k, result,
                     warp_sum, expected[k], sum);
        }
    }
}

static void check_early_leave()
{
    DeviceArray<int> device(THREADS);
    device.zero();
    leave_early<<<BLOCKS, BLOCK>>>(device.get());
    CHECK(cudaGetLastError());
    std::vector<int> results = device.read();
    for (int i = 0; i < THREADS; i++) {
        int thread = i % BLOCK, other = thread ^ 1;
        int expected = thread >= 64 ? 0 : (other + 95 - other % 32) * 1000 + BLOCK / 3 * 10 + 3;
        if (results[i] != expected)
            fail("early leave: thread %d has %d, expected %d", thread, results[i], expected);
    }
}

int main(int argc, char **argv)
{
    int seeds = number_argument(argc, argv, 1, 4);
    check_votes();
    for (int seed = 0; seed < seeds; seed++)
        check_divergence((unsigned)seed * 7919);
    check_early_leave();
    return pass("votes, matches, shuffles and %d divergent runs of %d threads", seeds, THREADS);
}
