// Kernel parameters of 0, 1, 40 and 4000 bytes, and mixed ones whose alignment leaves gaps.
#include "check.h"

#include <cstring>

struct Bytes40 {
    char a;
    double b;
    short c;
    float d;
    int64_t e;
    unsigned char f[8];
};
static_assert(sizeof(Bytes40) == 40, "40 bytes");

struct Bytes4000 {
    unsigned words[1000];
};

struct Bytes3 {
    unsigned char x, y, z;
};

__device__ int calls;

__global__ void parameters_0()
{
    atomicAdd(&calls, 1);
}

__global__ void parameters_1(char byte)
{
    atomicAdd(&calls, byte);
}

__global__ void parameters_40(Bytes40 p)
{
    double sum = p.a + p.b + p.c + p.d + (double)p.e;
    for (int i = 0; i < 8; i++)
        sum += p.f[i];
    atomicAdd(&calls, (int)sum);
}

__global__ void parameters_4000(const __grid_constant__ Bytes4000 p)
{
    // One thread a word; the index is not known at compile time.
    for (int i = threadIdx.x; i < 1000; i += blockDim.x)
        if (p.words[i] == noise(i))
            atomicAdd(&calls, 1);
}

__global__ void parameters_mixed(char a, double *out, short b, Bytes3 c, double d, Bytes3 e, int f, bool g, uint64_t h)
{
    out[0] = a;
    out[1] = b;
    out[2] = c.x * 10000 + c.y * 100 + c.z;
    out[3] = d;
    out[4] = e.x * 10000 + e.y * 100 + e.z;
    out[5] = f;
    out[6] = g;
    out[7] = (double)h;
}

// A copy that the kernel changes for itself: the caller's stays as it was, also in the next launch.
__global__ void parameters_changed(Bytes4000 p, int index, unsigned *out)
{
    p.words[index] += 5;
    p.words[(index + 1) % 1000] = 6;
    *out = p.words[index] + p.words[(index + 1) % 1000];
}

static void expect_calls(int expected, const char *what)
{
    int seen = 0, zero = 0;
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpyFromSymbol(&seen, calls, sizeof seen));
    CHECK(cudaMemcpyToSymbol(calls, &zero, sizeof zero));
    if (seen != expected)
        fail("%s: the kernel counted %d, expected %d", what, seen, expected);
}

int main()
{
    parameters_0<<<3, 2>>>();
    expect_calls(6, "no parameters");
    parameters_1<<<1, 1>>>(-77);
    expect_calls(-77, "1 byte");
    Bytes40 p40 = {-5, 1000.5, -300, 0.5f, 1 << 20, {1, 2, 3, 4, 5, 6, 7, 250}};
    parameters_40<<<1, 1>>>(p40);
    expect_calls(-5 + 1000 - 300 + 1 + (1 << 20) + 28 + 250, "40 bytes");
    Bytes4000 p4000;
    for (int i = 0; i < 1000; i++)
        p4000.words[i] = noise(i);
    parameters_4000<<<1, 100>>>(p4000);
    expect_calls(1000, "4000 bytes");

    // The parameters are read when the launch returns: changing them afterwards has no effect.
    for (int i = 0; i < 20; i++) {
        Bytes4000 temporary = p4000;
        parameters_4000<<<1, 100>>>(temporary);
        memset(&temporary, 0, sizeof temporary);
        asm volatile("" : : "r"(&temporary) : "memory");
    }
    expect_calls(20 * 1000, "4000 bytes, changed after the launch");

    DeviceArray<double> out(8);
    parameters_mixed<<<1, 1>>>(-3, out.get(), -1234, {1, 2, 3}, 2.5, {9, 8, 7}, -100000, true, 1ull << 50);
    CHECK(cudaGetLastError());
    const double expected[8] = {-3, -1234, 10203, 2.5, 90807, -100000, 1, 1125899906842624.0};
    std::vector<double> results = out.read();
    for (int i = 0; i < 8; i++)
        if (results[i] != expected[i])
            fail("mixed parameters: number %d is %.17g, expected %.17g", i, results[i], expected[i]);

    DeviceArray<unsigned> changed(1);
    for (int i = 0; i < 3; i++) {
        parameters_changed<<<1, 1>>>(p4000, 999, changed.get());
        CHECK(cudaGetLastError());
        if (changed.read()[0] != noise(999) + 11)
            fail("parameter changed by the kernel: %#x, expected %#x", changed.read()[0], noise(999) + 11);
    }
    return pass("0, 1, 40, 4000 and mixed bytes of parameters");
}
