/* How ollama finds a GPU, without ollama: short processes, one after the other and at once, some of them killed, that open NVIDIA's
   runtime 12.8 or 13.0 by its path, NVML and libcuda by their names, and a library of kernels with imports; under CUDA_VISIBLE_DEVICES as
   ollama sets it. What they say of the device must be the same everywhere.

   discovery                     all of it
   discovery probe MAJOR COUNT   one such process, which must see COUNT devices (0: any number but none); says the first one's UUID and address
   discovery hold MAJOR          works on the device until it is killed */
#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NO_DEVICE = 100, NOTHING = -1, SECONDS = 60, KILLS = 3 };
enum { COOPERATIVE_LAUNCH = 95, INTEGRATED = 18, MAJOR = 75, MINOR = 76 };

#define FAIL(...)                                                                                            \
    do {                                                                                                     \
        printf("FAIL " PROGRAM ": " __VA_ARGS__);                                                            \
        printf("\n");                                                                                        \
        fflush(stdout);                                                                                      \
        _exit(1);                                                                                            \
    } while (0)

struct library {
    const char *name;
    void *handle;
};

static void *symbol(const struct library *library, const char *name)
{
    void *address = dlsym(library->handle, name);
    if (address == NULL)
        FAIL("%s has no %s", library->name, name);
    return address;
}

/* What a function of these parameter types returns. */
#define CALL(from, function, types, ...) (((int (*) types)symbol(from, function))(__VA_ARGS__))

/* The same must return `expected`. */
#define EXPECT(expected, from, function, types, ...)                                                         \
    do {                                                                                                     \
        const struct library *from_ = (from);                                                                \
        int got_ = CALL(from_, function, types, __VA_ARGS__);                                                \
        if (got_ != (expected))                                                                              \
            FAIL("%s of %s returned %d, expected %d", function, from_->name, got_, (expected));              \
    } while (0)

/* As ggml opens what it needs. */
static struct library open_library(const char *name)
{
    struct library library = {name, dlopen(name, RTLD_NOW | RTLD_LOCAL)};
    if (library.handle == NULL)
        FAIL("opening %s: %s", name, dlerror());
    return library;
}

/* The folder of this program, without the last '/'. */
static const char *folder(void)
{
    static char path[4096];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 1);
    if (len < 0)
        FAIL("finding this program's folder");
    path[len] = 0;
    *strrchr(path, '/') = 0;
    return path;
}

static const char *beside(const char *name, int number)
{
    static char path[8192];
    int len = snprintf(path, sizeof path, "%s/%s", folder(), name);
    if (number != NOTHING)
        snprintf(path + len, sizeof path - (size_t)len, "%d", number);
    return strdup(path);
}

static struct library open_runtime(int major)
{
    struct library runtime = open_library(beside("../lib/cuda/libcudart.so.", major));
    int version = 0;
    EXPECT(0, &runtime, "cudaRuntimeGetVersion", (int *), &version);
    if (version != (major == 12 ? 12080 : 13000))
        FAIL("%s is of version %d", runtime.name, version);
    return runtime;
}

/* NVML as both eras look for it. */
static struct library open_nvml(void)
{
    const char *names[] = {"/usr/lib/wsl/lib/libnvidia-ml.so.1", "libnvidia-ml.so.1"};
    for (int i = 0; i < 2; i++) {
        struct library nvml = {names[i], dlopen(names[i], RTLD_NOW | RTLD_LOCAL)};
        if (nvml.handle != NULL)
            return nvml;
    }
    return open_library("libnvidia-ml.so");
}

/* What one of the libraries says of a device. */
struct device {
    char name[256], pci[32], uuid[48];
    size_t total;
};

static void uuid_text(char *text, const unsigned char *uuid)
{
    text += sprintf(text, "GPU-");
    for (int i = 0; i < 16; i++)
        text += sprintf(text, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
}

/* The address must read dddd:bb:dd.f: ollama compares it as text, in lower case. */
static void check_address(const char *who, char *address)
{
    static const char form[] = "xxxx:xx:xx.x";
    int wrong = strlen(address) != sizeof form - 1;
    for (int i = 0; !wrong && form[i]; i++) {
        wrong = form[i] == 'x' ? !isxdigit((unsigned char)address[i]) : address[i] != form[i];
        address[i] = (char)tolower((unsigned char)address[i]);
    }
    if (wrong)
        FAIL("%s has the address '%s', which does not read dddd:bb:dd.f", who, address);
}

static void check_same(const char *who, const struct device *device, const struct device *runtime)
{
    if (strcmp(device->name, runtime->name) != 0)
        FAIL("%s calls the device '%s', the runtime '%s'", who, device->name, runtime->name);
    if (strcmp(device->uuid, runtime->uuid) != 0)
        FAIL("%s has the UUID %s, the runtime %s", who, device->uuid, runtime->uuid);
    if (strcmp(device->pci, runtime->pci) != 0)
        FAIL("%s has the address %s, the runtime %s", who, device->pci, runtime->pci);
}

static struct device of_runtime(const struct library *runtime, int ordinal)
{
    struct device device;
    /* cudaDeviceProp begins with name, UUID, LUID, a mask, and the size of memory; the rest differs between versions. */
    static unsigned char properties[16384];
    int value = NOTHING;
    const char *get = "cudaGetDeviceProperties_v2";
    if (dlsym(runtime->handle, get) == NULL)
        get = "cudaGetDeviceProperties";
    EXPECT(0, runtime, get, (void *, int), properties, ordinal);
    EXPECT(0, runtime, "cudaDeviceGetAttribute", (int *, int, int), &value, COOPERATIVE_LAUNCH, ordinal);
    if (value != 0 && value != 1)
        FAIL("attribute %d of the runtime is %d", COOPERATIVE_LAUNCH, value);
    EXPECT(0, runtime, "cudaDeviceGetPCIBusId", (char *, int, int), device.pci, sizeof device.pci, ordinal);
    check_address("the runtime", device.pci);
    memcpy(device.name, properties, 256);
    device.name[255] = 0;
    uuid_text(device.uuid, properties + 256);
    memcpy(&device.total, properties + 288, sizeof device.total);
    return device;
}

static void check_driver(const struct library *driver, int ordinal, const struct device *runtime)
{
    struct device device;
    unsigned char uuid[16];
    int handle = NOTHING, major = 0, minor = 0, integrated = NOTHING;
    EXPECT(0, driver, "cuDeviceGet", (int *, int), &handle, ordinal);
    EXPECT(0, driver, "cuDeviceGetName", (char *, int, int), device.name, sizeof device.name, handle);
    EXPECT(0, driver, "cuDeviceTotalMem_v2", (size_t *, int), &device.total, handle);
    EXPECT(0, driver, "cuDeviceGetPCIBusId", (char *, int, int), device.pci, sizeof device.pci, handle);
    EXPECT(0, driver, "cuDeviceGetUuid_v2", (void *, int), uuid, handle);
    EXPECT(0, driver, "cuDeviceGetAttribute", (int *, int, int), &major, MAJOR, handle);
    EXPECT(0, driver, "cuDeviceGetAttribute", (int *, int, int), &minor, MINOR, handle);
    EXPECT(0, driver, "cuDeviceGetAttribute", (int *, int, int), &integrated, INTEGRATED, handle);
    check_address("the driver", device.pci);
    uuid_text(device.uuid, uuid);
    check_same("the driver", &device, runtime);
    if (device.total == 0 || device.total != runtime->total)
        FAIL("the driver shows %zu bytes of memory, the runtime %zu", device.total, runtime->total);
    if (major < 5 || minor < 0 || integrated != 0)
        FAIL("compute capability %d.%d, integrated %d", major, minor, integrated);
}

static void check_nvml(const struct device *runtime)
{
    struct library nvml = open_nvml();
    struct device device;
    struct {
        char legacy[16];
        unsigned domain, bus, device, ids[2];
        char bus_id[32];
    } pci;
    struct {
        unsigned long long total, free, used;
    } memory = {0, 0, 0};
    char version[96] = "";
    void *handle = NULL;
    EXPECT(0, &nvml, "nvmlInit_v2", (void));
    EXPECT(0, &nvml, "nvmlSystemGetDriverVersion", (char *, unsigned), version, sizeof version);
    if (atoi(version) < 550)
        FAIL("NVML says driver '%s', ollama wants 550 or later", version);
    if (runtime != NULL) {
        EXPECT(0, &nvml, "nvmlDeviceGetHandleByUUID", (const char *, void **), runtime->uuid, &handle);
        EXPECT(0, &nvml, "nvmlDeviceGetName", (void *, char *, unsigned), handle, device.name, 96);
        EXPECT(0, &nvml, "nvmlDeviceGetMemoryInfo", (void *, void *), handle, &memory);
        EXPECT(0, &nvml, "nvmlDeviceGetPciInfo_v3", (void *, void *), handle, &pci);
        EXPECT(0, &nvml, "nvmlDeviceGetUUID", (void *, char *, unsigned), handle, device.uuid, sizeof device.uuid);
        snprintf(device.pci, sizeof device.pci, "%s", pci.legacy);
        check_address("NVML", device.pci);
        check_same("NVML", &device, runtime);
        if (memory.free == 0 || memory.free > memory.total || memory.used > memory.total)
            FAIL("NVML: %llu bytes of memory, %llu free, %llu used", memory.total, memory.free, memory.used);
    }
    const char *text = ((const char *(*)(int))symbol(&nvml, "nvmlErrorString"))(2);
    if (text == NULL || text[0] == 0)
        FAIL("nvmlErrorString has no text");
    EXPECT(0, &nvml, "nvmlShutdown", (void));
}

/* The pool in address space that a backend makes of libcuda's functions, used by way of the runtime. */
static void check_backend(const struct library *runtime)
{
    struct library backend = open_library(beside(PROGRAM ".backend.so", NOTHING));
    const char *(*failure)(void) = (const char *(*)(void))symbol(&backend, "backend_failure");
    unsigned long long bytes = 0;
    unsigned long long (*pool)(int, unsigned long long *) =
        (unsigned long long (*)(int, unsigned long long *))symbol(&backend, "backend_pool");
    unsigned long long place = pool(0, &bytes);
    if (place == 0)
        FAIL("the backend's pool: %s", failure());
    unsigned char last = 0;
    EXPECT(0, runtime, "cudaMemset", (unsigned long long, int, size_t), place, 0x5a, bytes);
    EXPECT(0, runtime, "cudaMemcpy", (void *, unsigned long long, size_t, int), &last, place + bytes - 1, 1, 2);
    if (last != 0x5a)
        FAIL("memory of the pool has %#x, expected 0x5a", last);
    if (!CALL(&backend, "backend_end", (void)))
        FAIL("ending the backend's pool: %s", failure());
}

static int probe(int major, int want)
{
    struct library runtime = open_runtime(major), driver = open_library("libcuda.so.1");
    int count = NOTHING, driver_count = NOTHING, version = 0;
    size_t free_memory = 0, total = 0;
    if (want == 0) {
        EXPECT(NO_DEVICE, &runtime, "cudaGetDeviceCount", (int *), &count);
        EXPECT(NO_DEVICE, &driver, "cuInit", (unsigned), 0);
        check_nvml(NULL);
        return 0;
    }
    EXPECT(0, &runtime, "cudaGetDeviceCount", (int *), &count);
    if (want != NOTHING && count != want)
        FAIL("%d devices, expected %d", count, want);
    EXPECT(0, &driver, "cuInit", (unsigned), 0);
    EXPECT(0, &driver, "cuDriverGetVersion", (int *), &version);
    EXPECT(0, &driver, "cuDeviceGetCount", (int *), &driver_count);
    if (count < 1 || driver_count != count || version < major * 1000)
        FAIL("the runtime has %d devices, the driver %d, of version %d", count, driver_count, version);
    for (int ordinal = count - 1; ordinal >= 0; ordinal--) {
        struct device device = of_runtime(&runtime, ordinal);
        check_driver(&driver, ordinal, &device);
        check_nvml(&device);
        if (ordinal == 0)
            printf("%s %s\n", device.uuid, device.pci);
    }
    EXPECT(0, &runtime, "cudaSetDevice", (int), 0);
    EXPECT(0, &runtime, "cudaMemGetInfo", (size_t *, size_t *), &free_memory, &total);
    if (free_memory == 0 || free_memory > total)
        FAIL("%zu bytes of %zu are free", free_memory, total);
    check_backend(&runtime);
    return 0;
}

static int hold(int major)
{
    enum { BYTES = 4 << 20 };
    struct library runtime = open_runtime(major);
    unsigned long long place = 0;
    void *data = malloc(BYTES);
    EXPECT(0, &runtime, "cudaSetDevice", (int), 0);
    EXPECT(0, &runtime, "cudaMalloc", (void *, size_t), &place, BYTES);
    memset(data, 1, BYTES);
    for (int round = 0;; round++) {
        EXPECT(0, &runtime, "cudaMemcpy", (unsigned long long, void *, size_t, int), place, data, BYTES, 1);
        EXPECT(0, &runtime, "cudaMemcpy", (void *, unsigned long long, size_t, int), data, place, BYTES, 2);
        if (round == 0) {
            printf("works\n");
            fflush(stdout);
        }
    }
}

/* A process of this program, and what it says. */
struct child {
    pid_t pid;
    int output;
};

static struct child start(const char *visible, const char *role, int major, int count)
{
    int ends[2];
    char numbers[2][16], path[16384];
    struct child child;
    if (pipe(ends) != 0)
        FAIL("making a pipe");
    sprintf(numbers[0], "%d", major);
    sprintf(numbers[1], "%d", count);
    const char *inherited = getenv("LD_LIBRARY_PATH");
    snprintf(path, sizeof path, "%s:%s/../lib/cuda%s%s", folder(), folder(), inherited ? ":" : "", inherited ? inherited : "");
    fflush(stdout);
    child.pid = fork();
    if (child.pid < 0)
        FAIL("starting a process");
    if (child.pid == 0) {
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        alarm(SECONDS);
        setenv("LD_LIBRARY_PATH", path, 1);
        if (visible)
            setenv("CUDA_VISIBLE_DEVICES", visible, 1);
        else
            unsetenv("CUDA_VISIBLE_DEVICES");
        execl("/proc/self/exe", PROGRAM, role, numbers[0], numbers[1], (char *)NULL);
        FAIL("executing this program again");
    }
    close(ends[1]);
    child.output = ends[0];
    return child;
}

/* Waits for the end of a probe, which must have passed. What it said is in `said`. */
static void finish(struct child child, const char *visible, int major, char *said, size_t room)
{
    size_t len = 0;
    ssize_t got;
    int status = 0;
    while (len + 1 < room && (got = read(child.output, said + len, room - 1 - len)) > 0)
        len += (size_t)got;
    said[len] = 0;
    close(child.output);
    waitpid(child.pid, &status, 0);
    if (status != 0)
        FAIL("CUDA_VISIBLE_DEVICES=%s, runtime %d: %s %d: %s", visible ? visible : "(not set)", major,
             WIFSIGNALED(status) ? "signal" : "exit code", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), said);
}

/* Runs a probe with each runtime at once; all that see a device must see the one that `first` names, if it names one. */
static void probe_both(const char *visible, int count, char *first, size_t room)
{
    struct child children[2] = {start(visible, "probe", 12, count), start(visible, "probe", 13, count)};
    for (int i = 0; i < 2; i++) {
        char said[512];
        finish(children[i], visible, 12 + i, said, sizeof said);
        if (count == 0 && said[0] != 0)
            FAIL("CUDA_VISIBLE_DEVICES=%s: there is %s", visible, said);
        if (count == 0)
            continue;
        if (first[0] == 0)
            snprintf(first, room, "%s", said);
        if (strcmp(said, first) != 0)
            FAIL("CUDA_VISIBLE_DEVICES=%s, runtime %d: there is %s instead of %s", visible ? visible : "(not set)", 12 + i, said, first);
    }
}

/* Kills a process in the middle of its calls, as ollama does. */
static void kill_one(int major, int milliseconds)
{
    char word[6] = "";
    int status = 0;
    struct child child = start("0", "hold", major, 1);
    if (read(child.output, word, sizeof word) != sizeof word || memcmp(word, "works\n", sizeof word) != 0)
        FAIL("a process that works with runtime %d says '%.6s'", major, word);
    usleep((useconds_t)milliseconds * 1000);
    kill(child.pid, SIGKILL);
    waitpid(child.pid, &status, 0);
    close(child.output);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        FAIL("a process that works with runtime %d ended before it was killed: %#x", major, status);
}

int main(int argc, char **argv)
{
    char first[512] = "", uuid[48] = "";
    int any = NOTHING;
    if (argc == 4 && strcmp(argv[1], "probe") == 0)
        return probe(atoi(argv[2]), atoi(argv[3]));
    if (argc == 4 && strcmp(argv[1], "hold") == 0)
        return hold(atoi(argv[2]));
    probe_both(NULL, any, first, sizeof first);
    snprintf(uuid, sizeof uuid, "%.40s", first);
    probe_both("0", 1, first, sizeof first);
    probe_both(uuid, 1, first, sizeof first);
    for (int i = 0; i < 3; i++)
        probe_both((const char *[]){"-1", "", "GPU-ffffffff-ffff-ffff-ffff-ffffffffffff"}[i], 0, first, sizeof first);
    for (int i = 0; i < KILLS; i++)
        for (int major = 12; major <= 13; major++) {
            kill_one(major, 3 * i);
            probe_both("0", 1, first, sizeof first);
        }
    first[strcspn(first, "\n")] = 0;
    printf("PASS " PROGRAM " %s: runtimes 12.8 and 13.0, %d killed\n", first, 2 * KILLS);
    return 0;
}
