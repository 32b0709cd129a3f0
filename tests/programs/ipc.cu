// Memory and events of another process: one process fills memory and records an event, the other waits for the event, computes in that
// memory and records an event of its own. Also what is refused. Processes are forked before the first CUDA call.
#include "check.h"

#include <cstring>
#include <cuda.h>
#include <sys/socket.h>
#include <sys/wait.h>

constexpr int COUNT = 1 << 16;
constexpr int ROUNDS = 40;

__global__ static void fill(uint32_t *values, int n, int rounds)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    uint32_t x = i;
    for (int round = 0; round < rounds; round++)
        x = noise(x + round);
    values[i] = x;
}

__global__ static void change(uint32_t *values, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        values[i] = values[i] * 2 + 1;
}

static uint32_t filled(uint32_t i)
{
    uint32_t x = i;
    for (int round = 0; round < ROUNDS; round++)
        x = noise(x + round);
    return x;
}

struct Exported {
    cudaIpcMemHandle_t large, small[2], freed;
    cudaIpcEventHandle_t filled, never;
};

struct Answer {
    cudaIpcEventHandle_t changed;
};

static int other;

template <typename T> static void give(const T &value)
{
    REQUIRE(write(other, &value, sizeof value) == (ssize_t)sizeof value);
}

template <typename T> static T take(void)
{
    T value;
    size_t done = 0;
    while (done < sizeof value) {
        ssize_t got = read(other, (char *)&value + done, sizeof value - done);
        if (got <= 0)
            fail("the other process is gone");
        done += got;
    }
    return value;
}

static cudaEvent_t new_event(void)
{
    cudaEvent_t event;
    CHECK(cudaEventCreateWithFlags(&event, cudaEventInterprocess | cudaEventDisableTiming));
    return event;
}

static uint32_t first_value(const void *device)
{
    uint32_t value = 0;
    CHECK(cudaMemcpy(&value, device, sizeof value, cudaMemcpyDefault));
    return value;
}

// What only the process that owns the memory can be refused.
static void check_exporting(uint32_t *large, const Exported &exported)
{
    cudaIpcMemHandle_t again;
    CHECK(cudaIpcGetMemHandle(&again, large));
    REQUIRE(memcmp(&again, &exported.large, sizeof again) == 0);
    CHECK(cudaIpcGetMemHandle(&again, large + 1000));
    REQUIRE(memcmp(&again, &exported.large, sizeof again) == 0);
    void *host = nullptr, *pooled = nullptr, *opened = nullptr;
    CHECK(cudaMallocHost(&host, 4096));
    EXPECT(cudaErrorInvalidValue, cudaIpcGetMemHandle(&again, host));
    CHECK(cudaFreeHost(host));
    CHECK(cudaMallocAsync(&pooled, 4096, 0));
    EXPECT(cudaErrorInvalidValue, cudaIpcGetMemHandle(&again, pooled));
    CHECK(cudaFreeAsync(pooled, 0));
    EXPECT(cudaErrorInvalidValue, cudaIpcGetMemHandle(&again, nullptr));
    EXPECT(cudaErrorDeviceUninitialized, cudaIpcOpenMemHandle(&opened, exported.large, cudaIpcMemLazyEnablePeerAccess));
    EXPECT(cudaErrorInvalidValue, cudaIpcCloseMemHandle(large));

    cudaEvent_t event;
    EXPECT(cudaErrorInvalidValue, cudaEventCreateWithFlags(&event, cudaEventInterprocess));
    CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    cudaIpcEventHandle_t handle;
    EXPECT(cudaErrorInvalidResourceHandle, cudaIpcGetEventHandle(&handle, event));
    CHECK(cudaEventDestroy(event));
    EXPECT(cudaErrorDeviceUninitialized, cudaIpcOpenEventHandle(&event, exported.filled));
    cudaGetLastError();
}

static int exporter(pid_t importer)
{
    Exported exported;
    uint32_t *large, *small[2], *freed;
    CHECK(cudaMalloc(&large, COUNT * sizeof *large));
    CHECK(cudaMalloc(&freed, 8 << 20));
    CHECK(cudaIpcGetMemHandle(&exported.large, large));
    CHECK(cudaIpcGetMemHandle(&exported.freed, freed));
    CHECK(cudaFree(freed));
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t value = 11 * (i + 1);
        CHECK(cudaMalloc(&small[i], 512));
        CHECK(cudaMemcpy(small[i], &value, sizeof value, cudaMemcpyHostToDevice));
        CHECK(cudaIpcGetMemHandle(&exported.small[i], small[i]));
    }
    CHECK(cudaDeviceSynchronize());
    cudaEvent_t done = new_event(), never = new_event();
    CHECK(cudaIpcGetEventHandle(&exported.filled, done));
    CHECK(cudaIpcGetEventHandle(&exported.never, never));
    check_exporting(large, exported);

    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    fill<<<COUNT / 128, 128, 0, stream>>>(large, COUNT, ROUNDS);
    CHECK(cudaGetLastError());
    CHECK(cudaEventRecord(done, stream));
    // The importer orders itself behind the event; nothing here waits.
    give(exported);

    Answer answer = take<Answer>();
    cudaEvent_t changed;
    CHECK(cudaIpcOpenEventHandle(&changed, answer.changed));
    CHECK(cudaStreamWaitEvent(stream, changed, 0));
    std::vector<uint32_t> values(COUNT);
    CHECK(cudaMemcpyAsync(values.data(), large, COUNT * sizeof *large, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    for (uint32_t i = 0; i < COUNT; i++)
        if (values[i] != filled(i) * 2 + 1)
            fail("value %u is %u", i, values[i]);
    CHECK(cudaEventQuery(changed));
    CHECK(cudaEventDestroy(changed));
    // The importer has closed the memory before it ends.
    give('e');
    int status = 0;
    REQUIRE(waitpid(importer, &status, 0) == importer);
    REQUIRE(status == 0);
    CHECK(cudaFree(large));
    return pass("%d values changed by another process", COUNT);
}

static void check_opened(uint32_t *large, const Exported &exported)
{
    cudaPointerAttributes attributes;
    CHECK(cudaPointerGetAttributes(&attributes, large + 5));
    REQUIRE(attributes.type == cudaMemoryTypeDevice && attributes.devicePointer == large + 5);
    void *function = nullptr;
    cudaDriverEntryPointQueryResult result;
    CHECK(cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &function, 12000, cudaEnableDefault, &result));
    CUdeviceptr base = 0;
    size_t size = 0;
    REQUIRE(((decltype(&cuMemGetAddressRange))function)(&base, &size, (CUdeviceptr)(large + 9)) == CUDA_SUCCESS);
    REQUIRE(base == (CUdeviceptr)large && size == COUNT * sizeof *large);
    cudaIpcMemHandle_t again;
    EXPECT(cudaErrorInvalidValue, cudaIpcGetMemHandle(&again, large));
    EXPECT(cudaErrorInvalidValue, cudaFree(large));
    EXPECT(cudaErrorInvalidValue, cudaIpcCloseMemHandle(large + 4));
    void *second = nullptr;
    CHECK(cudaIpcOpenMemHandle(&second, exported.large, cudaIpcMemLazyEnablePeerAccess));
    REQUIRE(second == large);
    CHECK(cudaIpcCloseMemHandle(second));
    cudaGetLastError();
}

static void check_bad_handles(const Exported &exported)
{
    void *opened = nullptr;
    EXPECT(cudaErrorInvalidValue, cudaIpcOpenMemHandle(&opened, exported.large, 0));
    EXPECT(cudaErrorInvalidValue, cudaIpcOpenMemHandle(&opened, exported.large, 2));
    EXPECT(cudaErrorNotPermitted, cudaIpcOpenMemHandle(&opened, exported.freed, cudaIpcMemLazyEnablePeerAccess));
    cudaIpcMemHandle_t forged;
    for (int byte : {0, 255}) {
        memset(&forged, byte, sizeof forged);
        EXPECT(cudaErrorInvalidValue, cudaIpcOpenMemHandle(&opened, forged, cudaIpcMemLazyEnablePeerAccess));
    }
    cudaEvent_t event;
    cudaIpcEventHandle_t wrong;
    for (int byte : {0, 255}) {
        memset(&wrong, byte, sizeof wrong);
        EXPECT(cudaErrorMapBufferObjectFailed, cudaIpcOpenEventHandle(&event, wrong));
    }
    memcpy(&wrong, &exported.large, sizeof wrong);
    EXPECT(cudaErrorMapBufferObjectFailed, cudaIpcOpenEventHandle(&event, wrong));
    memcpy(&forged, &exported.filled, sizeof forged);
    EXPECT(cudaErrorInvalidValue, cudaIpcOpenMemHandle(&opened, forged, cudaIpcMemLazyEnablePeerAccess));
    EXPECT(cudaErrorInvalidValue, cudaIpcCloseMemHandle(nullptr));
    cudaGetLastError();
}

static int importer(void)
{
    CHECK(cudaFree(nullptr));
    Exported exported = take<Exported>();
    uint32_t *large, *small[2];
    cudaEvent_t done, never;
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaIpcOpenEventHandle(&done, exported.filled));
    CHECK(cudaStreamWaitEvent(stream, done, 0));
    CHECK(cudaIpcOpenMemHandle((void **)&large, exported.large, cudaIpcMemLazyEnablePeerAccess));
    change<<<COUNT / 128, 128, 0, stream>>>(large, COUNT);
    CHECK(cudaGetLastError());
    cudaEvent_t changed = new_event();
    CHECK(cudaEventRecord(changed, stream));
    Answer answer;
    CHECK(cudaIpcGetEventHandle(&answer.changed, changed));
    give(answer);

    for (int i = 0; i < 2; i++) {
        CHECK(cudaIpcOpenMemHandle((void **)&small[i], exported.small[i], cudaIpcMemLazyEnablePeerAccess));
        REQUIRE(first_value(small[i]) == 11u * (i + 1));
    }
    CHECK(cudaIpcOpenEventHandle(&never, exported.never));
    CHECK(cudaEventQuery(never));
    CHECK(cudaEventSynchronize(never));
    cudaIpcEventHandle_t handle;
    EXPECT(cudaErrorInvalidResourceHandle, cudaIpcGetEventHandle(&handle, never));
    float time;
    EXPECT(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&time, done, done));
    CHECK(cudaEventSynchronize(changed));
    check_opened(large, exported);
    check_bad_handles(exported);
    REQUIRE(take<char>() == 'e');
    REQUIRE(first_value(large) == filled(0) * 2 + 1);
    CHECK(cudaIpcCloseMemHandle(large));
    EXPECT(cudaErrorInvalidValue, cudaIpcCloseMemHandle(large));
    for (int i = 0; i < 2; i++)
        CHECK(cudaIpcCloseMemHandle(small[i]));
    CHECK(cudaEventDestroy(done));
    CHECK(cudaEventDestroy(never));
    return 0;
}

int main()
{
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pid_t child = fork();
    REQUIRE(child >= 0);
    other = pair[child == 0];
    close(pair[child != 0]);
    return child == 0 ? importer() : exporter(child);
}
