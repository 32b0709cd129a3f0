// Order across threads: when thread A's asynchronous call has returned before thread B's call begins, the device
// must run A's work before B's, although nothing but a host variable tells B about it. A program relies on that.
#include "check.h"

#include <atomic>
#include <functional>
#include <thread>

// The steps don't commute, so any other order gives another value.
__global__ void step(unsigned *value, unsigned factor, unsigned addend)
{
    *value = *value * factor + addend;
}

static unsigned step_on_host(unsigned value, unsigned factor, unsigned addend)
{
    return value * factor + addend;
}

// Two threads take turns; `turn` runs in thread (number % 2).
static void take_turns(int turns, const std::function<void(int)> &turn)
{
    std::atomic<int> next{0};
    auto thread = [&](int parity) {
        for (int number = parity; number < turns; number += 2) {
            while (next.load(std::memory_order_acquire) != number)
                std::this_thread::yield();
            turn(number);
            next.store(number + 1, std::memory_order_release);
        }
    };
    std::thread other(thread, 1);
    thread(0);
    other.join();
}

// How many launches turn `number` makes: sometimes a burst, so that the thread's own queue is long when the other goes on.
static int burst(int number)
{
    return noise(number) % 4 == 0 ? 12 : 1 + (int)(noise(number) % 3);
}

struct Chain {
    DeviceArray<unsigned> device{std::vector<unsigned>{1}};
    unsigned expected = 1;

    void launch(int number, cudaStream_t stream)
    {
        for (int i = 0; i < burst(number); i++) {
            unsigned factor = 2 * noise(number) + 1, addend = noise(number + i);
            step<<<1, 1, 0, stream>>>(device.get(), factor, addend);
            CHECK(cudaGetLastError());
            expected = step_on_host(expected, factor, addend);
        }
    }
    void compare(const char *what, int number)
    {
        unsigned value = device.read()[0];
        if (value != expected)
            fail("%s: after %d turns the value is %#x, expected %#x", what, number, value, expected);
    }
};

static void one_stream(int turns)
{
    Chain chain;
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    take_turns(turns, [&](int number) { chain.launch(number, stream); });
    CHECK(cudaStreamSynchronize(stream));
    chain.compare("one stream", turns);
    CHECK(cudaStreamDestroy(stream));
}

// Each thread has a stream of its own and waits for the other's event, recorded by the other thread.
static void streams_and_events(int turns)
{
    Chain chain;
    cudaStream_t streams[2];
    cudaEvent_t events[2];
    for (int i = 0; i < 2; i++) {
        CHECK(cudaStreamCreateWithFlags(&streams[i], cudaStreamNonBlocking));
        CHECK(cudaEventCreateWithFlags(&events[i], cudaEventDisableTiming));
    }
    take_turns(turns, [&](int number) {
        cudaStream_t stream = streams[number % 2];
        if (number > 0)
            CHECK(cudaStreamWaitEvent(stream, events[(number + 1) % 2], 0));
        chain.launch(number, stream);
        CHECK(cudaEventRecord(events[number % 2], stream));
    });
    CHECK(cudaDeviceSynchronize());
    chain.compare("streams and events", turns);
    for (int i = 0; i < 2; i++) {
        CHECK(cudaStreamDestroy(streams[i]));
        CHECK(cudaEventDestroy(events[i]));
    }
}

// One thread launches and the other waits and looks: through a stream, an event, or the whole device.
static void wait_in_the_other_thread(int turns)
{
    Chain chain;
    cudaStream_t stream;
    cudaEvent_t event;
    unsigned *seen;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaEventCreate(&event));
    CHECK(cudaMallocHost(&seen, sizeof *seen));
    take_turns(turns, [&](int number) {
        if (number % 2 == 0) {
            *seen = ~chain.expected;
            chain.launch(number, stream);
            CHECK(cudaMemcpyAsync(seen, chain.device.get(), sizeof *seen, cudaMemcpyDeviceToHost, stream));
            CHECK(cudaEventRecord(event, stream));
            return;
        }
        switch (number / 2 % 3) {
        case 0:
            CHECK(cudaStreamSynchronize(stream));
            break;
        case 1:
            CHECK(cudaEventSynchronize(event));
            break;
        default:
            CHECK(cudaDeviceSynchronize());
        }
        if (*seen != chain.expected)
            fail("wait in the other thread: turn %d sees %#x, expected %#x", number, *seen, chain.expected);
    });
    CHECK(cudaFreeHost(seen));
    CHECK(cudaEventDestroy(event));
    CHECK(cudaStreamDestroy(stream));
}

// Streams, events and memory that one thread makes, the other uses, and the first destroys while work is under way.
static void handles_change_hands(int turns)
{
    Chain chain;
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;
    unsigned *scratch = nullptr;
    take_turns(turns / 3 * 3, [&](int number) {
        switch (number % 3) {
        case 0:
            CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
            CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
            CHECK(cudaMalloc(&scratch, 256));
            break;
        case 1:
            chain.launch(number, stream);
            CHECK(cudaMemsetAsync(scratch, number, 256, stream));
            CHECK(cudaEventRecord(event, stream));
            break;
        default:
            CHECK(cudaStreamWaitEvent(nullptr, event, 0));
            chain.launch(number, nullptr);
            CHECK(cudaStreamDestroy(stream));
            CHECK(cudaEventDestroy(event));
            CHECK(cudaStreamSynchronize(nullptr));
            CHECK(cudaFree(scratch));
        }
    });
    chain.compare("handles change hands", turns);
}

// Threads that have nothing to do with each other, all at once.
static void independent_threads(int threads, int turns)
{
    std::vector<std::thread> running;
    for (int thread = 0; thread < threads; thread++)
        running.emplace_back([=] {
            Chain chain;
            cudaStream_t stream;
            CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
            for (int number = 0; number < turns; number++) {
                chain.launch(thread * 1000 + number, stream);
                if (number % 10 == 9) {
                    CHECK(cudaStreamSynchronize(stream));
                    chain.compare("independent threads", number + 1);
                }
            }
            CHECK(cudaStreamDestroy(stream));
        });
    for (std::thread &thread : running)
        thread.join();
}

int main(int argc, char **argv)
{
    int turns = number_argument(argc, argv, 1, 200);
    one_stream(turns);
    streams_and_events(turns);
    wait_in_the_other_thread(turns);
    handles_change_hands(turns);
    independent_threads(8, turns / 4);
    return pass("%d turns between two threads, then 8 threads at once", 4 * turns);
}
