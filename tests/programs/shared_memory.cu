// Memory that two processes share (MAP_SHARED) and both register: kernels of one write it, kernels and the processor of the other read
// it, and back. A file of /dev/shm as it is, one that was unlinked, and memory without a name; a part of it from an offset.
// Processes are forked before the first CUDA call.
#include "check.h"

#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

constexpr size_t COUNT = 100000;
constexpr size_t PAGE = 4096;
constexpr size_t BYTES = COUNT * sizeof(uint32_t); // ends within a page, as the file does
constexpr size_t OFFSET = 3 * PAGE;

static int other;

// Waits until the other process has come as far.
static void meet(void)
{
    char byte = 1;
    REQUIRE(write(other, &byte, 1) == 1);
    if (read(other, &byte, 1) != 1)
        fail("the other process is gone");
}

__global__ static void add(uint32_t *values, size_t n, uint32_t what)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        values[i] += what;
}

static void run(uint32_t *values, uint32_t what)
{
    add<<<32, 128>>>(values, COUNT, what);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
}

static void require_all(const uint32_t *values, uint32_t what)
{
    for (size_t i = 0; i < COUNT; i++)
        if (values[i] != i + what)
            fail("value %zu is %u, expected %zu", i, values[i], i + what);
}

// What both do with memory that they share: `first` is the one that begins.
static void use(uint32_t *values, bool first)
{
    if (first)
        for (size_t i = 0; i < COUNT; i++)
            values[i] = (uint32_t)i;
    meet();
    uint32_t *device = nullptr;
    CHECK(cudaHostRegister(values, BYTES, cudaHostRegisterPortable | cudaHostRegisterMapped));
    CHECK(cudaHostGetDevicePointer(&device, values, 0));
    require_all(values, 0);
    meet();
    if (first)
        run(device, 1);
    meet();
    require_all(values, 1);
    meet();
    if (!first)
        run(device, 10);
    meet();
    require_all(values, 11);
    std::vector<uint32_t> copy(COUNT);
    uint32_t *memory = nullptr;
    CHECK(cudaMalloc(&memory, BYTES));
    CHECK(cudaMemcpyAsync(memory, values, COUNT * 4, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(copy.data(), memory, COUNT * 4, cudaMemcpyDeviceToHost));
    require_all(copy.data(), 11);
    CHECK(cudaFree(memory));
    meet();
    // Without a registration the memory is still the same for both.
    CHECK(cudaHostUnregister(values));
    meet();
    if (first)
        values[7] = 77;
    meet();
    REQUIRE(values[7] == 77);
    meet();
}

static uint32_t *map(int file, size_t offset, int flags)
{
    void *at = mmap(nullptr, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | flags, file, offset);
    REQUIRE(at != MAP_FAILED);
    return (uint32_t *)at;
}

// A file of the name that both know: each opens and maps it on its own.
static void named(const char *name, bool first, bool keep_name)
{
    int file = -1;
    if (first) {
        file = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
        REQUIRE(file >= 0 && ftruncate(file, OFFSET + COUNT * 4) == 0);
    }
    meet();
    if (!first)
        file = open(name, O_RDWR);
    REQUIRE(file >= 0);
    uint32_t *values = map(file, OFFSET, 0);
    meet();
    if (first && !keep_name)
        unlink(name);
    // With its name the file needs no descriptor.
    if (keep_name)
        close(file);
    meet();
    use(values, first);
    if (first && keep_name)
        unlink(name);
    if (!keep_name)
        close(file);
    munmap(values, BYTES);
}

// Many registrations one after another leave nothing behind.
static void again(uint32_t *values)
{
    for (int round = 0; round < 200; round++) {
        CHECK(cudaHostRegister(values, PAGE, cudaHostRegisterDefault));
        add<<<1, 32>>>(values, 32, 1);
        CHECK(cudaDeviceSynchronize());
        CHECK(cudaHostUnregister(values));
    }
}

int main()
{
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    std::string name = "/dev/shm/vgpu-shared-memory-" + std::to_string(getpid());
    uint32_t *nameless = map(-1, 0, MAP_ANONYMOUS);
    pid_t child = fork();
    REQUIRE(child >= 0);
    bool first = child != 0;
    other = ends[first ? 0 : 1];
    close(ends[first ? 1 : 0]);
    named(name.c_str(), first, true);
    named(name.c_str(), first, false);
    if (geteuid() == 0) // who may not open what has no name is refused by vgpu; the driver itself asks nobody
        use(nameless, first);
    if (!first)
        _exit(0);
    uint32_t before = nameless[0];
    if (geteuid() == 0) {
        again(nameless);
        REQUIRE(nameless[0] == before + 200);
    }
    int status = 1;
    REQUIRE(waitpid(child, &status, 0) == child && status == 0);
    return pass("two processes and the GPU see the same pages");
}
