// A failed device assertion: its message comes out of this process's stderr and names the thread; the error is the right one. What was
// printed before comes out of stdout.
#include "check.h"

#include <cassert>
#include <string>

static constexpr int threads = 64, failing = 37;

__global__ void check_all(const int *values)
{
    if (threadIdx.x == 0)
        printf("printed before\n");
    assert(values[threadIdx.x] < 1000 && "a value is too large");
}

// What `descriptor` got while this lives.
struct Capture {
    FILE *file = tmpfile();
    int descriptor, own;
    explicit Capture(int fd) : descriptor(fd), own(dup(fd))
    {
        REQUIRE(file != nullptr && own >= 0 && dup2(fileno(file), fd) == fd);
    }
    std::string text()
    {
        fflush(nullptr);
        REQUIRE(dup2(own, descriptor) == descriptor);
        std::string all;
        char buffer[4096];
        rewind(file);
        for (size_t got; (got = fread(buffer, 1, sizeof buffer, file)) > 0;)
            all.append(buffer, got);
        return all;
    }
};

static int count(const std::string &text, const std::string &part)
{
    int found = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
        found++;
    return found;
}

int main()
{
    std::vector<int> values(threads, 1);
    DeviceArray<int> array(values);
    check_all<<<1, threads>>>(array.get());
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    values[failing] = 1000;
    DeviceArray<int> wrong(values);

    fflush(stdout);
    Capture out(1), err(2);
    check_all<<<1, threads>>>(wrong.get());
    cudaError_t launched = cudaGetLastError();
    cudaError_t finished = cudaDeviceSynchronize();
    std::string printed = out.text(), message = err.text();

    CHECK(launched);
    EXPECT(cudaErrorAssert, finished);
    EXPECT(cudaErrorAssert, cudaDeviceSynchronize());
    if (count(message, "Assertion `values[threadIdx.x] < 1000 && \"a value is too large\"` failed.") != 1 ||
        count(message, "assertion.cu:") != 1 || count(message, "block: [0,0,0], thread: [37,0,0]") != 1)
        fail("stderr got '%s'", message.c_str());
    if (count(printed, "printed before\n") != 1 || count(printed, "Assertion") != 0)
        fail("stdout got '%s'", printed.c_str());
    pass("thread %d named on stderr", failing);
    fflush(stdout);
    _exit(0); // the context is broken: no destructors
}
