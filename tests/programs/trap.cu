// A kernel that faults: the error is the right one and stays, only that process has it, and the next one works.
#include "check.h"

#include <cstring>
#include <sys/wait.h>

__global__ void trap_if(const int *condition)
{
    if (*condition)
        __trap();
}

__global__ void store(int *address, int value)
{
    *address = value;
}

static void expect_working()
{
    DeviceArray<int> value(1);
    store<<<1, 1>>>(value.get(), 1234);
    CHECK(cudaGetLastError());
    REQUIRE(value.read()[0] == 1234);
}

// After a fault every call that could notice it returns the same error, and asking for it doesn't clear it.
static void expect_sticky(cudaError_t error, void *earlier)
{
    int word = 0;
    void *memory = nullptr;
    EXPECT(error, cudaDeviceSynchronize());
    EXPECT(error, cudaGetLastError());
    EXPECT(error, cudaDeviceSynchronize());
    EXPECT(error, cudaMalloc(&memory, 16));
    EXPECT(error, cudaMemcpy(&word, earlier, sizeof word, cudaMemcpyDeviceToHost));
    store<<<1, 1>>>((int *)earlier, 1);
    EXPECT(error, cudaGetLastError());
    EXPECT(error, cudaStreamSynchronize(nullptr));
}

static int child_main(const char *kind)
{
    expect_working();
    int *condition, one = 1;
    CHECK(cudaMalloc(&condition, sizeof *condition));
    CHECK(cudaMemset(condition, 0, sizeof *condition));
    trap_if<<<1, 32>>>(condition);
    CHECK(cudaDeviceSynchronize());
    if (strcmp(kind, "trap") == 0) {
        CHECK(cudaMemcpy(condition, &one, sizeof one, cudaMemcpyHostToDevice));
        trap_if<<<2, 32>>>(condition);
        CHECK(cudaGetLastError()); // the launch itself is fine
        expect_sticky(cudaErrorLaunchFailure, condition);
    } else if (strcmp(kind, "address") == 0) {
        store<<<1, 1>>>((int *)0x10, 1);
        CHECK(cudaGetLastError());
        expect_sticky(cudaErrorIllegalAddress, condition);
    } else if (strcmp(kind, "misaligned") == 0) {
        store<<<1, 1>>>((int *)((char *)condition + 1), 1);
        CHECK(cudaGetLastError());
        expect_sticky(cudaErrorMisalignedAddress, condition);
    }
    printf("child %s: as expected\n", kind);
    fflush(stdout);
    return 0;
}

static void run_child(const char *kind)
{
    fflush(stdout);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        execl("/proc/self/exe", PROGRAM, "child", kind, (char *)nullptr);
        _exit(127);
    }
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail("the child '%s' ended with status %#x", kind, status);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "child") == 0)
        return child_main(argv[2]);
    expect_working();
    int kinds = 0;
    for (const char *kind : {"trap", "fresh", "address", "misaligned", "fresh"}) {
        run_child(kind);
        expect_working(); // the other process's fault is not ours
        kinds++;
    }
    return pass("%d processes, three of them with a fault of their own", kinds);
}
