// What every program shares: checks that end the program with one line, PASS or FAIL, and a matching exit code.
#pragma once

#include <cuda_runtime.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>
#include <vector>

#ifndef PROGRAM
#error "compile with -DPROGRAM=\"name\""
#endif

// Ends the program without destructors or exit handlers: after a fault these could hang or hide the message.
[[noreturn]] __attribute__((format(printf, 1, 2))) static inline void fail(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("FAIL %s: %s\n", PROGRAM, text);
    fflush(stdout);
    _exit(1);
}

__attribute__((format(printf, 1, 2))) static inline int pass(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("PASS %s %s\n", PROGRAM, text);
    fflush(stdout);
    return 0;
}

// The call must return `expected`.
#define EXPECT(expected, call)                                                                               \
    do {                                                                                                     \
        cudaError_t want_ = (expected), got_ = (call);                                                       \
        if (got_ != want_)                                                                                   \
            fail("line %d: %s returned %d (%s), expected %d", __LINE__, #call, (int)got_,                    \
                 cudaGetErrorName(got_), (int)want_);                                                        \
    } while (0)

#define CHECK(call) EXPECT(cudaSuccess, call)

// The condition must hold.
#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            fail("line %d: %s does not hold", __LINE__, #condition);                                         \
    } while (0)

// Argument `index` as a number of at least 1, or `otherwise` if it is absent.
static inline int number_argument(int argc, char **argv, int index, int otherwise)
{
    if (argc <= index)
        return otherwise;
    int value = atoi(argv[index]);
    if (value < 1)
        fail("argument %d is '%s', expected a number of at least 1", index, argv[index]);
    return value;
}

// Reproducible noise, the same on both sides.
__host__ __device__ static inline uint32_t noise(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

// Device memory that is freed with the scope. It is filled before the call returns, for every stream: cudaMemcpy from
// pageable memory and cudaMemset may return earlier, and a non-blocking stream does not wait for them.
template <typename T> class DeviceArray
{
  public:
    explicit DeviceArray(size_t count) : count_(count)
    {
        CHECK(cudaMalloc(&data_, count * sizeof(T)));
    }
    explicit DeviceArray(const std::vector<T> &from) : DeviceArray(from.size())
    {
        CHECK(cudaMemcpy(data_, from.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
        CHECK(cudaDeviceSynchronize());
    }
    DeviceArray(const DeviceArray &) = delete;
    DeviceArray &operator=(const DeviceArray &) = delete;
    ~DeviceArray()
    {
        CHECK(cudaFree(data_));
    }
    T *get() const
    {
        return data_;
    }
    void zero() const
    {
        CHECK(cudaMemset(data_, 0, count_ * sizeof(T)));
        CHECK(cudaDeviceSynchronize());
    }
    std::vector<T> read() const
    {
        std::vector<T> to(count_);
        CHECK(cudaMemcpy(to.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
        return to;
    }

  private:
    T *data_ = nullptr;
    size_t count_;
};

// Seconds on a clock that only runs forward.
static inline double seconds_now()
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
