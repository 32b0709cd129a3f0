/* The management library's live side: memory and processes that follow what this process does, figures of the moment, event sets, and
   the codes for small buffers and old structures. */
#include "nvml.h"

#include <time.h>

/* Declared here, as device_t is. */
typedef struct event_set *event_set_t;
struct memory {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};
struct utilization {
    unsigned gpu, memory;
};
struct temperature {
    unsigned version, sensor;
    int degrees;
};
struct event {
    device_t device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
};
#define VERSION(type, number) ((unsigned)sizeof(type) | (number) << 24)
#define MIB (1ull << 20)

enum { INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, FUNCTION_NOT_FOUND = 13, OLD_VERSION = 25 };

static struct memory memory_now(void)
{
    struct memory memory = {VERSION(struct memory, 2), 0, 0, 0, 0};
    usleep(300000); /* what is told may be a moment old */
    NVML(0, "nvmlDeviceGetMemoryInfo_v2", (device_t, struct memory *), device, &memory);
    if (memory.used + memory.free + memory.reserved != memory.total)
        FAIL("memory: %llu used, %llu free, %llu reserved of %llu", memory.used, memory.free, memory.reserved, memory.total);
    return memory;
}

/* Figures that some devices lack: nothing else than "not supported" may be wrong with them, and a value is within bounds. NULL is not
   tried: driver 580 crashes on it. */
static void figure(const char *name, unsigned low, unsigned high)
{
    unsigned value = 0;
    int code = CALL(name, (device_t, unsigned *), device, &value);
    if (code != NOT_SUPPORTED && (code != 0 || value < low || value > high))
        FAIL("%s returned %d, value %u", name, code, value);
}

static void figures(void)
{
    unsigned value = 0;
    struct utilization utilization = {999, 999};
    struct temperature temperature = {VERSION(struct temperature, 1), 0, -1};
    figure("nvmlDeviceGetPowerUsage", 1, 2000000);
    figure("nvmlDeviceGetEnforcedPowerLimit", 1, 2000000);
    figure("nvmlDeviceGetPerformanceState", 0, 32);
    NVML(0, "nvmlDeviceGetTemperature", (device_t, int, unsigned *), device, 0, &value);
    NVML(INVALID_ARGUMENT, "nvmlDeviceGetTemperature", (device_t, int, unsigned *), device, 99, &value);
    NVML(0, "nvmlDeviceGetTemperatureV", (device_t, struct temperature *), device, &temperature);
    if (abs(temperature.degrees - (int)value) > 5)
        FAIL("two temperatures: %u and %d", value, temperature.degrees);
    temperature.version = 1;
    NVML(OLD_VERSION, "nvmlDeviceGetTemperatureV", (device_t, struct temperature *), device, &temperature);
    for (int clock = 0; clock < 3; clock++)
        NVML(0, "nvmlDeviceGetClockInfo", (device_t, int, unsigned *), device, clock, &value);
    NVML(NOT_SUPPORTED, "nvmlDeviceGetClockInfo", (device_t, int, unsigned *), device, 77, &value);
    NVML(0, "nvmlDeviceGetUtilizationRates", (device_t, struct utilization *), device, &utilization);
    if (utilization.gpu > 100 || utilization.memory > 100)
        FAIL("utilization: %u and %u %%", utilization.gpu, utilization.memory);
}

/* Memory that this process takes shows as used, and the process as one that uses it. */
static void memory_and_processes(int whole)
{
    struct memory before = memory_now(), after;
    struct process processes[64];
    unsigned count = 0;
    CUdeviceptr place;
    CHECK(cuMemAlloc(&place, 64 * MIB));
    after = memory_now();
    if (after.used < before.used + 63 * MIB || after.free > before.free - 63 * MIB)
        FAIL("64 MiB more: used from %llu to %llu, free from %llu to %llu", before.used, after.used, before.free, after.free);
    after.version = 1;
    NVML(FUNCTION_NOT_FOUND, "nvmlDeviceGetMemoryInfo_v2", (device_t, struct memory *), device, &after);

    const char *list = "nvmlDeviceGetComputeRunningProcesses_v3";
    int code = CALL(list, (device_t, unsigned *, struct process *), device, &count, NULL);
    if (code != (count == 0 ? 0 : INSUFFICIENT_SIZE))
        FAIL("%s without room returned %d for %u processes", list, code, count);
    count = 64;
    NVML(0, list, (device_t, unsigned *, struct process *), device, &count, processes);
    int found = 0;
    for (unsigned i = 0; i < count; i++)
        if (processes[i].pid == (unsigned)getpid()) {
            found = 1;
            if (processes[i].used < 64 * MIB)
                FAIL("this process uses %llu bytes", processes[i].used);
        }
    /* In a container with process numbers of its own the native library may list none of them. */
    if (whole && !found)
        FAIL("this process is not among %u", count);
    CHECK(cuMemFree(place));
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* A wait in which nothing happens takes its time, and no longer. */
static void quiet_wait(const char *name, event_set_t set, unsigned milliseconds)
{
    struct event event;
    double began = seconds();
    NVML(TIMEOUT, name, (event_set_t, struct event *, unsigned), set, &event, milliseconds);
    double took = (seconds() - began) * 1000;
    if (took < milliseconds || took > milliseconds + 5000)
        FAIL("%s of %u ms took %.1f", name, milliseconds, took);
}

/* What a device supports can be registered for, and nothing else. In a VM that is nothing. */
static void event_sets(void)
{
    event_set_t set = NULL;
    unsigned long long types = ~0ull;
    NVML(0, "nvmlEventSetCreate", (event_set_t *), &set);
    NVML(0, "nvmlDeviceGetSupportedEventTypes", (device_t, unsigned long long *), device, &types);
    NVML(0, "nvmlDeviceRegisterEvents", (device_t, unsigned long long, event_set_t), device, types, set);
    int code = CALL("nvmlDeviceRegisterEvents", (device_t, unsigned long long, event_set_t), device, ~types, set);
    if (code != NOT_SUPPORTED && code != INVALID_ARGUMENT)
        FAIL("registering for what is not supported returned %d", code);
    quiet_wait("nvmlEventSetWait_v2", set, 20);
    quiet_wait("nvmlEventSetWait", set, 20);
    quiet_wait("nvmlEventSetWait_v2", set, 0);
    NVML(0, "nvmlEventSetFree", (event_set_t), set);
    NVML(INVALID_ARGUMENT, "nvmlEventSetCreate", (event_set_t *), NULL);
}

int main(void)
{
    char name[96] = "";
    load();
    start();
    NVML(0, "nvmlInit_v2", (void));
    NVML(0, "nvmlDeviceGetHandleByIndex_v2", (unsigned, device_t *), 0, &device);
    NVML(0, "nvmlDeviceGetName", (device_t, char *, unsigned), device, name, sizeof name);
    figures();
    memory_and_processes(strncmp(name, "vgpu softgpu", 12) == 0);
    event_sets();
    NVML(0, "nvmlShutdown", (void));
    printf("PASS " PROGRAM " %s\n", name);
    return 0;
}
