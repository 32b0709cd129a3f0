// Streams, events and asynchronous copies from pinned memory: what must be ordered is, and time runs forward.
#include "check.h"

#include <algorithm>

constexpr int STREAMS = 4;
constexpr int BLOCK = 128;

__global__ void scale_and_add(int *values, int count, int factor, int addend)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        values[i] = values[i] * factor + addend;
}

// Long enough that whatever overtakes it is seen.
__global__ void slow_store(int *value, int rounds, int stored)
{
    unsigned x = (unsigned)rounds;
    for (int i = 0; i < rounds; i++)
        x = x * 1664525u + 1013904223u;
    *value = x == 0 ? -1 : stored;
}

__global__ void copy_value(const int *from, int *to)
{
    *to = *from;
}

// Copy in, compute, copy out, chunk by chunk over several streams.
static void pipeline(int count)
{
    int *host, *device;
    cudaStream_t streams[STREAMS];
    CHECK(cudaMallocHost(&host, count * sizeof(int)));
    CHECK(cudaMalloc(&device, count * sizeof(int)));
    for (cudaStream_t &stream : streams)
        CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (int i = 0; i < count; i++)
        host[i] = i;
    int chunk = count / (2 * STREAMS);
    for (int part = 0; part < 2 * STREAMS; part++) {
        cudaStream_t stream = streams[part % STREAMS];
        int start = part * chunk, length = part == 2 * STREAMS - 1 ? count - start : chunk;
        CHECK(cudaMemcpyAsync(device + start, host + start, length * sizeof(int), cudaMemcpyHostToDevice, stream));
        scale_and_add<<<8, BLOCK, 0, stream>>>(device + start, length, 3, part);
        CHECK(cudaMemcpyAsync(host + start, device + start, length * sizeof(int), cudaMemcpyDeviceToHost, stream));
    }
    for (cudaStream_t stream : streams)
        CHECK(cudaStreamSynchronize(stream));
    for (int i = 0; i < count; i++) {
        int part = std::min(i / chunk, 2 * STREAMS - 1);
        if (host[i] != 3 * i + part)
            fail("pipeline: element %d is %d, expected %d", i, host[i], 3 * i + part);
    }
    for (cudaStream_t stream : streams) {
        CHECK(cudaStreamQuery(stream));
        CHECK(cudaStreamDestroy(stream));
    }
    CHECK(cudaFree(device));
    CHECK(cudaFreeHost(host));
}

// Every link of the chain runs in another stream and depends on the one before through an event alone.
static void event_chain(int slow_rounds)
{
    constexpr int links = 24;
    cudaStream_t streams[STREAMS];
    cudaEvent_t events[links];
    for (cudaStream_t &stream : streams)
        CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    DeviceArray<int> value(1);
    value.zero();
    int expected = 0;
    for (int link = 0; link < links; link++) {
        cudaStream_t stream = streams[link % STREAMS];
        if (link > 0)
            CHECK(cudaStreamWaitEvent(stream, events[link - 1], 0));
        if (link % 5 == 0) {
            slow_store<<<1, 1, 0, stream>>>(value.get(), slow_rounds, link + 1);
            expected = link + 1;
        } else {
            scale_and_add<<<1, 1, 0, stream>>>(value.get(), 1, 3, link);
            expected = expected * 3 + link;
        }
        CHECK(cudaEventCreateWithFlags(&events[link], cudaEventDisableTiming));
        CHECK(cudaEventRecord(events[link], stream));
    }
    CHECK(cudaEventSynchronize(events[links - 1]));
    CHECK(cudaEventQuery(events[0]));
    int result = value.read()[0];
    if (result != expected)
        fail("event chain: the result is %d, expected %d", result, expected);
    for (cudaEvent_t event : events)
        CHECK(cudaEventDestroy(event));
    for (cudaStream_t stream : streams)
        CHECK(cudaStreamDestroy(stream));
}

// The default stream waits for every blocking stream, and they wait for it.
static void default_stream(int slow_rounds)
{
    cudaStream_t first, second;
    CHECK(cudaStreamCreate(&first));
    CHECK(cudaStreamCreate(&second));
    DeviceArray<int> values(3);
    values.zero();
    slow_store<<<1, 1, 0, first>>>(values.get(), slow_rounds, 41);
    copy_value<<<1, 1>>>(values.get(), values.get() + 1);
    copy_value<<<1, 1, 0, second>>>(values.get() + 1, values.get() + 2);
    std::vector<int> result = values.read();
    if (result[0] != 41 || result[1] != 41 || result[2] != 41)
        fail("default stream: the values are %d, %d, %d, expected 41 three times", result[0], result[1], result[2]);
    CHECK(cudaStreamDestroy(first));
    CHECK(cudaStreamDestroy(second));
}

// Fills and copies of every kind, in one stream.
static void fills_and_copies()
{
    constexpr int width = 33, height = 17;
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    unsigned char *host;
    CHECK(cudaHostAlloc(&host, width * height, cudaHostAllocDefault));
    unsigned char *device, *other;
    size_t pitch;
    CHECK(cudaMallocPitch(&device, &pitch, width, height));
    REQUIRE(pitch >= width);
    CHECK(cudaMalloc(&other, width * height));
    CHECK(cudaMemset2DAsync(device, pitch, 0x5a, width, height, stream));
    CHECK(cudaMemset2DAsync(device + 2 * pitch + 3, pitch, 0x11, 5, 4, stream));
    CHECK(cudaMemsetAsync(other, 0xee, width * height, stream));
    CHECK(cudaMemcpy2DAsync(other, width, device, pitch, width, height - 1, cudaMemcpyDeviceToDevice, stream));
    CHECK(cudaMemcpyAsync(host, other, width * height, cudaMemcpyDefault, stream));
    CHECK(cudaStreamSynchronize(stream));
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            bool inside = x >= 3 && x < 8 && y >= 2 && y < 6;
            int expected = y == height - 1 ? 0xee : inside ? 0x11 : 0x5a;
            if (host[y * width + x] != expected)
                fail("fills: byte (%d, %d) is %#x, expected %#x", x, y, host[y * width + x], expected);
        }
    CHECK(cudaFree(device));
    CHECK(cudaFree(other));
    CHECK(cudaFreeHost(host));
    CHECK(cudaStreamDestroy(stream));
}

static float event_timing(int slow_rounds)
{
    cudaEvent_t start, middle, stop;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&middle));
    CHECK(cudaEventCreate(&stop));
    DeviceArray<int> value(1);
    double before = seconds_now();
    CHECK(cudaEventRecord(start));
    slow_store<<<1, 1>>>(value.get(), slow_rounds, 1);
    CHECK(cudaEventRecord(middle));
    slow_store<<<1, 1>>>(value.get(), slow_rounds, 2);
    CHECK(cudaEventRecord(stop));
    cudaError_t state = cudaEventQuery(stop);
    REQUIRE(state == cudaSuccess || state == cudaErrorNotReady);
    CHECK(cudaEventSynchronize(stop));
    double wall = 1e3 * (seconds_now() - before);
    CHECK(cudaEventQuery(stop));
    float first = -1, whole = -1;
    CHECK(cudaEventElapsedTime(&first, start, middle));
    CHECK(cudaEventElapsedTime(&whole, start, stop));
    if (!(first > 0 && whole > first && whole <= wall + 1))
        fail("event timing: %g ms, then %g ms in all, %g ms on the wall clock", first, whole, wall);
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(middle));
    CHECK(cudaEventDestroy(stop));
    return whole;
}

int main(int argc, char **argv)
{
    int count = number_argument(argc, argv, 1, 60001);
    int slow_rounds = number_argument(argc, argv, 2, 50000);
    pipeline(count);
    event_chain(slow_rounds);
    default_stream(slow_rounds);
    fills_and_copies();
    float milliseconds = event_timing(slow_rounds);
    return pass("%d elements in %d streams, timed kernels took %.3f ms", count, STREAMS, milliseconds);
}
