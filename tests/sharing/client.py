#!/usr/bin/env python3
"""One process that uses a GPU, for suite.py: the driver API by ctypes, so that it runs wherever Python does.

Each role says "ready" when it has a context and its kernel, waits for a line, does its work, and prints one line of JSON.
"""

import array
import ctypes
import json
import os
import sys
import time

MIB = 1 << 20
OUT_OF_MEMORY = 2
PTX = b"""
.version 8.0
.target sm_70
.address_size 64

// out[i] = i * seed, then `rounds` steps that depend on each other.
.visible .entry work(.param .u64 out, .param .u32 n, .param .u32 seed, .param .u32 rounds)
{
    .reg .pred %p<3>;
    .reg .b32 %r<9>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [n];
    ld.param.u32 %r2, [seed];
    ld.param.u32 %r3, [rounds];
    mov.u32 %r4, %ctaid.x;
    mov.u32 %r5, %ntid.x;
    mov.u32 %r6, %tid.x;
    mad.lo.u32 %r6, %r4, %r5, %r6;
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra done;
    mul.lo.u32 %r7, %r6, %r2;
again:
    setp.eq.u32 %p2, %r3, 0;
    @%p2 bra store;
    mad.lo.u32 %r7, %r7, 1664525, 1013904223;
    sub.u32 %r3, %r3, 1;
    bra again;
store:
    mul.wide.u32 %rd2, %r6, 4;
    add.u64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r7;
done:
    ret;
}

// Runs until the number at `flag` is not 0.
.visible .entry spin(.param .u64 flag)
{
    .reg .pred %p<2>;
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [flag];
again:
    ld.volatile.global.u32 %r1, [%rd1];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra again;
    ret;
}

.visible .entry stop()
{
    trap;
    ret;
}
\0"""


class CudaError(Exception):
    def __init__(self, function, code):
        super().__init__(f"{function}: {code}")
        self.code = code


class Driver:
    """The driver, with a context on device 0."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.call("cuCtxSetCurrent", context)
        self.module = ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(self.module), PTX)

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code:
            raise CudaError(name, code)

    def function(self, name):
        function = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(function), self.module, name.encode())
        return function

    def allocate(self, size):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address

    def event(self):
        event = ctypes.c_void_p()
        self.call("cuEventCreate", ctypes.byref(event), 2)
        return event

    def memory(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def synchronize(self):
        self.call("cuCtxSynchronize")


class Work:
    """Launches of the kernel `work`."""

    def __init__(self, driver, blocks, rounds, seed=7):
        self.driver, self.n, self.rounds = driver, blocks * 256, rounds
        self.blocks = blocks
        self.out = driver.allocate(4 * self.n)
        self.seed = ctypes.c_uint32(seed)
        self.values = [self.out, ctypes.c_uint32(self.n), self.seed, ctypes.c_uint32(rounds)]
        self.parameters = (ctypes.c_void_p * 4)(*(ctypes.addressof(v) for v in self.values))
        self.function = driver.function("work")
        self.launch_function = driver.library.cuLaunchKernel
        self.launch()
        driver.synchronize()

    def launch(self):
        code = self.launch_function(self.function, self.blocks, 1, 1, 256, 1, 1, 0, None, self.parameters, None)
        if code:
            raise CudaError("cuLaunchKernel", code)

    def result(self):
        numbers = array.array("I", bytes(4 * self.n))
        address, _ = numbers.buffer_info()
        self.driver.call("cuMemcpyDtoH_v2", ctypes.c_void_p(address), self.out, ctypes.c_size_t(4 * self.n))
        return numbers

    def expected(self, i):
        value = i * self.seed.value
        for _ in range(self.rounds):
            value = value * 1664525 + 1013904223 & 0xFFFFFFFF
        return value & 0xFFFFFFFF

    def check(self):
        numbers = self.result()
        for i in range(0, self.n, max(1, self.n // 16)):
            if numbers[i] != self.expected(i):
                return False
        return True


def ready():
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit(1)


def say(**values):
    print(json.dumps(values), flush=True)


def calibrate(driver, options):
    """How many rounds a kernel of the wanted time has."""
    rounds = 64
    while True:
        work = Work(driver, options["blocks"], rounds)
        count = 20
        start = time.perf_counter()
        for _ in range(count):
            work.launch()
        driver.synchronize()
        each = (time.perf_counter() - start) / count
        if each * 1e6 >= options["microseconds"] * 0.9 or rounds > 1 << 20:
            break
        rounds = min(rounds * 4, int(rounds * max(1.2, options["microseconds"] / max(each * 1e6, 1))))
    ready()
    say(rounds=rounds, microseconds=each * 1e6)


def busy(driver, options):
    """Launches for a while, with two batches under way."""
    work = Work(driver, options["blocks"], options["rounds"])
    events = [driver.event(), driver.event()]
    record, wait = driver.library.cuEventRecord, driver.library.cuEventSynchronize
    batch = options.get("batch", 16)
    ready()
    end, launches, turn = time.perf_counter() + options["seconds"], 0, 0
    start = time.perf_counter()
    while time.perf_counter() < end:
        for _ in range(batch):
            work.launch()
        launches += batch
        record(events[turn % 2], None)
        if turn:
            wait(events[(turn + 1) % 2])
        turn += 1
    driver.synchronize()
    seconds = time.perf_counter() - start
    say(launches=launches, seconds=seconds, right=work.check())


def small(driver, options):
    """A small inference, as it were: a few short kernels and a wait, every two milliseconds."""
    work = Work(driver, options["blocks"], options["small"])
    ready()
    end, times = time.perf_counter() + options["seconds"], []
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(4):
            work.launch()
        driver.synchronize()
        took = time.perf_counter() - start
        times.append(took * 1e3)
        time.sleep(max(0.0, 0.002 - took))
    times.sort()
    at = lambda part: times[min(len(times) - 1, int(len(times) * part))]
    say(count=len(times), p50=at(0.5), p99=at(0.99), longest=times[-1], right=work.check())


def idle(driver, options):
    ready()
    sys.stdin.readline()
    say()


def fill(driver, options):
    """Allocates in steps until there is no more."""
    size, kind = options["step"] * MIB, options["kind"]
    place = ctypes.c_uint64()
    properties = (ctypes.c_uint32 * 8)(1, 0, 1, 0, 0, 0, 0, 0)
    # Rows of 1024 elements of 4 bytes.
    description = (ctypes.c_uint64 * 5)(1024, 256 * options["step"], 0, 3 | 1 << 32, 0)
    bytes_, at = ctypes.c_size_t(size), ctypes.byref(place)
    calls = {
        "plain": ("cuMemAlloc_v2", at, bytes_),
        "physical": ("cuMemCreate", at, bytes_, properties, ctypes.c_uint64(0)),
        "pool": ("cuMemAllocAsync", at, bytes_, None),
        "array": ("cuArray3DCreate_v2", at, description),
        "mipmapped": ("cuMipmappedArrayCreate", at, description, 1),
    }
    ready()
    before, total = driver.memory()
    count = 0
    try:
        while True:
            driver.call(*calls[kind])
            count += 1
    except CudaError as error:
        code = error.code
    driver.call("cuCtxSynchronize")
    free, total = driver.memory()
    say(got=count * size, code=code, before=before, free=free, total=total)
    sys.stdin.readline()


def checked(driver, options):
    """Computes and checks, over and over."""
    work = Work(driver, options["blocks"], options["rounds"])
    right = [None, None]
    for i in range(2):
        work.seed.value = 7 + i
        work.launch()
        if not work.check():
            say(wrong=1, rounds=0, longest=0)
            return
        right[i] = work.result()
    ready()
    end, rounds, wrong, longest = time.perf_counter() + options["seconds"], 0, 0, 0.0
    while time.perf_counter() < end:
        start = time.perf_counter()
        work.seed.value = 7 + rounds % 2
        work.launch()
        wrong += work.result() != right[rounds % 2]
        rounds += 1
        longest = max(longest, time.perf_counter() - start)
    say(rounds=rounds, wrong=wrong, longest=longest * 1e3)


class Pattern:
    """Memory in chunks, each full of a number of its own."""

    def __init__(self, driver, size, seed):
        self.driver, self.seed, self.chunk = driver, seed, min(size, 256 * MIB)
        self.chunks = [driver.allocate(self.chunk) for _ in range(size // self.chunk)]
        for i, chunk in enumerate(self.chunks):
            driver.call("cuMemsetD32_v2", chunk, self.value(i), ctypes.c_size_t(self.chunk // 4))
        driver.synchronize()

    def value(self, i):
        return (self.seed * 2654435761 + i) & 0xFFFFFFFF

    def check(self, size=None):
        """Whether the first `size` bytes of each chunk, or all, are as they were."""
        size = size or self.chunk
        read = ctypes.create_string_buffer(size)
        right = True
        for i, chunk in enumerate(self.chunks):
            self.driver.call("cuMemcpyDtoH_v2", read, chunk, ctypes.c_size_t(size))
            expected = self.value(i).to_bytes(4, "little") * (size // 4)
            right &= read.raw == expected
        return right


def kept(driver, options):
    """Fills memory, says so, and each time that it is asked, how long a call took and whether all is there still."""
    ready()
    pattern = Pattern(driver, options["bytes"], 1)
    say(filled=len(pattern.chunks) * pattern.chunk)
    while sys.stdin.readline():
        start = time.perf_counter()
        driver.synchronize()
        waited = time.perf_counter() - start
        say(waited=waited, right=pattern.check())


def crowded(driver, options):
    """Fills memory, and works with it now and then: work, a look at all of the memory, a pause."""
    work = Work(driver, options["blocks"], options["rounds"])
    ready()
    start = time.perf_counter()
    pattern = Pattern(driver, options["bytes"], options["seed"])
    got, waits, right = time.perf_counter() - start, [], True
    for _ in range(options["times"]):
        begin = time.perf_counter()
        driver.synchronize()
        waits.append(time.perf_counter() - begin)
        while time.perf_counter() - begin < waits[-1] + options["seconds"]:
            work.launch()
            driver.synchronize()
        right &= work.check() and pattern.check(64 << 10)
        time.sleep(options["pause"])
    right &= pattern.check()
    say(seconds=time.perf_counter() - start, got=got, waits=waits, right=right)


def ballast(driver, options):
    """Takes all of the device's memory but so much."""
    free = driver.memory()[0]
    driver.allocate(max(0, free - options["leave"]))
    ready()
    say(taken=max(0, free - options["leave"]))
    sys.stdin.readline()


def once(driver, options):
    """From the start to a right result."""
    work = Work(driver, options["blocks"], options["rounds"])
    right = work.check()
    ready()
    say(right=right)


def misbehave(driver, options):
    kind = options["kind"]
    work = Work(driver, options["blocks"], options["rounds"])
    ready()
    if kind == "illegal address":
        work.out.value = 0x10
        work.launch()
    elif kind == "trap":
        driver.call("cuLaunchKernel", driver.function("stop"), 1, 1, 1, 1, 1, 1, 0, None, None, None)
    elif kind == "infinite kernel":
        flag = driver.allocate(4)
        driver.call("cuMemsetD8_v2", flag, ctypes.c_ubyte(0), ctypes.c_size_t(4))
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(flag))
        driver.call("cuLaunchKernel", driver.function("spin"), 1, 1, 1, 1, 1, 1, 0, None, parameters, None)
    elif kind == "killed":
        for _ in range(200):
            work.launch()
        os.kill(os.getpid(), 9)
    elif kind == "memory exhausted":
        try:
            while True:
                driver.allocate(64 * MIB)
        except CudaError as error:
            say(code=error.code)
            return
    try:
        driver.synchronize()
        say(code=0)
    except CudaError as error:
        say(code=error.code)


ROLES = {
    f.__name__: f for f in (calibrate, busy, small, idle, fill, checked, kept, crowded, ballast, once, misbehave)
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](Driver(), json.loads(sys.argv[2]))
