// Several processes at once: some started by fork and exec, some by fork alone before the first CUDA call.
#include "check.h"

#include <cstring>
#include <string>
#include <sys/wait.h>

constexpr int COUNT = 4096;

__global__ void mix(uint32_t *values, uint32_t seed, int rounds)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t x = seed + i;
    for (int round = 0; round < rounds; round++)
        x = noise(x + round);
    values[i] = x;
}

static uint32_t checksum(const std::vector<uint32_t> &values)
{
    uint32_t sum = 0;
    for (uint32_t value : values)
        sum = sum * 31 + value;
    return sum;
}

static uint32_t compute(uint32_t seed, int rounds)
{
    DeviceArray<uint32_t> device(COUNT);
    mix<<<COUNT / 128, 128>>>(device.get(), seed, rounds);
    CHECK(cudaGetLastError());
    return checksum(device.read());
}

static uint32_t compute_on_host(uint32_t seed, int rounds)
{
    std::vector<uint32_t> values(COUNT);
    for (int i = 0; i < COUNT; i++) {
        uint32_t x = seed + i;
        for (int round = 0; round < rounds; round++)
            x = noise(x + round);
        values[i] = x;
    }
    return checksum(values);
}

struct Child {
    pid_t pid;
    int output;
    uint32_t seed;
};

static int child_main(uint32_t seed, int rounds, int output)
{
    uint32_t sum = compute(seed, rounds);
    return write(output, &sum, sizeof sum) == sizeof sum ? 0 : 1;
}

static Child start(uint32_t seed, int rounds, bool exec)
{
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    fflush(stdout);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        if (!exec)
            _exit(child_main(seed, rounds, ends[1]));
        std::string arguments[3] = {std::to_string(seed), std::to_string(rounds), std::to_string(ends[1])};
        execl("/proc/self/exe", PROGRAM, "child", arguments[0].c_str(), arguments[1].c_str(), arguments[2].c_str(),
              (char *)nullptr);
        _exit(127);
    }
    close(ends[1]);
    return {pid, ends[0], seed};
}

static void collect(const Child &child, int rounds, const char *kind)
{
    uint32_t sum = 0;
    ssize_t got = read(child.output, &sum, sizeof sum);
    close(child.output);
    int status = 0;
    REQUIRE(waitpid(child.pid, &status, 0) == child.pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail("the %s child with seed %u ended with status %#x", kind, child.seed, status);
    uint32_t expected = compute_on_host(child.seed, rounds);
    if (got != sizeof sum || sum != expected)
        fail("the %s child with seed %u computed %#x, expected %#x", kind, child.seed, sum, expected);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "child") == 0)
        return child_main((uint32_t)strtoul(argv[2], nullptr, 10), atoi(argv[3]), atoi(argv[4]));
    int count = number_argument(argc, argv, 1, 3);
    int rounds = number_argument(argc, argv, 2, 20);
    std::vector<Child> forked, executed;
    for (int i = 0; i < 2; i++)
        forked.push_back(start(1000 + i, rounds, false));
    for (int i = 0; i < count; i++)
        executed.push_back(start(2000 + i, rounds, true));
    uint32_t own = compute(1, rounds);
    // Some more while this process has a context of its own.
    executed.push_back(start(3000, rounds, true));
    for (const Child &child : forked)
        collect(child, rounds, "forked");
    for (const Child &child : executed)
        collect(child, rounds, "executed");
    REQUIRE(own == compute_on_host(1, rounds));
    REQUIRE(compute(7, rounds) == compute_on_host(7, rounds));
    return pass("%d processes and their parent", count + 3);
}
