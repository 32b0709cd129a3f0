/* The driver's log, as callbacks, text and files, and the settings of core dumps. */
#include "driver.h"

#include <stdbool.h>

static int calls;
static char last[256];

static void called(void *argument, CUlogLevel level, char *message, size_t length)
{
    REQUIRE(argument == &calls && level == CU_LOG_LEVEL_ERROR && strlen(message) == length);
    calls++;
    snprintf(last, sizeof last, "%s", message);
}

static void nothing(void *argument, CUlogLevel level, char *message, size_t length)
{
    (void)argument, (void)level, (void)message, (void)length;
}

static void callbacks(void)
{
    CUlogsCallbackHandle first = NULL, second = NULL;
    CHECK(cuLogsRegisterCallback(called, &calls, &first));
    CHECK(cuLogsRegisterCallback(nothing, NULL, &second));
    CHECK(cuLogsRegisterCallback(nothing, NULL, NULL));
    REQUIRE(first && second && first != second);
    EXPECT(INVALID, cuMemFree(12345));
    REQUIRE(calls >= 1);
    REQUIRE(strcmp(last, "Returning 1 (CUDA_ERROR_INVALID_VALUE) from cuMemFree_v2") == 0);
    EXPECT(INVALID, cuLogsRegisterCallback(NULL, NULL, &second));
    CHECK(cuLogsUnregisterCallback(first));
    int before = calls;
    EXPECT(INVALID, cuMemFree(12345));
    REQUIRE(calls == before);
    EXPECT(INVALID, cuLogsUnregisterCallback(NULL));
}

static void text(void)
{
    static char buffer[30000], file_text[30000];
    CUlogIterator start, end, iterator;
    size_t size = sizeof buffer;
    CHECK(cuLogsCurrent(&start, 0));
    EXPECT(INVALID, cuLogsCurrent(NULL, 0));
    EXPECT(INVALID, cuMemFree(12345));
    EXPECT(INVALID, cuStreamCreate(NULL, 0));
    CHECK(cuLogsCurrent(&end, 0));
    REQUIRE(end > start);
    iterator = start;
    CHECK(cuLogsDumpToMemory(&iterator, buffer, &size, 0));
    REQUIRE(iterator == end && size == strlen(buffer));
    REQUIRE(strstr(buffer, "][CUDA][E] Returning 1 (CUDA_ERROR_INVALID_VALUE) from cuMemFree_v2\n"));
    REQUIRE(strstr(buffer, "][CUDA][E] Returning 1 (CUDA_ERROR_INVALID_VALUE) from cuStreamCreate\n"));
    REQUIRE(buffer[0] == '[' && buffer[size - 1] == '\n');

    size = sizeof buffer;
    CHECK(cuLogsDumpToMemory(&iterator, buffer, &size, 0)); /* nothing new */
    REQUIRE(size == 0);
    size = 260; /* not all of them: what is left is the newest */
    iterator = start;
    CHECK(cuLogsDumpToMemory(&iterator, buffer, &size, 0));
    REQUIRE(strncmp(buffer, "The provided buffer is not large enough", 39) == 0 && iterator == end);
    REQUIRE(strstr(buffer, "cuStreamCreate\n"));
    size = 10;
    iterator = start;
    EXPECT(INVALID, cuLogsDumpToMemory(&iterator, buffer, &size, 0));
    REQUIRE(size == 0 && iterator == start);
    size = sizeof buffer;
    EXPECT(INVALID, cuLogsDumpToMemory(NULL, NULL, &size, 0));
    EXPECT(INVALID, cuLogsDumpToMemory(NULL, buffer, NULL, 0));
    iterator = 1000000;
    size = sizeof buffer;
    EXPECT(INVALID, cuLogsDumpToMemory(&iterator, buffer, &size, 0));

    char path[] = "/tmp/vgpu-logs-XXXXXX";
    int file = mkstemp(path);
    REQUIRE(file >= 0);
    CHECK(cuLogsCurrent(&start, 0));
    EXPECT(INVALID, cuMemFree(54321));
    iterator = start;
    CHECK(cuLogsDumpToFile(&iterator, path, 0));
    REQUIRE(iterator > start);
    ssize_t got = read(file, file_text, sizeof file_text - 1);
    REQUIRE(got > 0);
    REQUIRE(strstr(file_text, "from cuMemFree_v2\n"));
    close(file);
    unlink(path);
    EXPECT(INVALID, cuLogsDumpToFile(NULL, NULL, 0));
    EXPECT(INVALID, cuLogsDumpToFile(NULL, "/no/such/folder/file", 0));
}

/* A place with a size. */
static size_t *size_of(size_t size)
{
    static size_t place;
    place = size;
    return &place;
}

static bool flag(CUcoredumpSettings setting)
{
    bool value = false;
    size_t size = sizeof value;
    CHECK(cuCoredumpGetAttributeGlobal(setting, &value, &size));
    return value;
}

static void set_flag(CUcoredumpSettings setting, bool value)
{
    size_t size = sizeof value;
    CHECK(cuCoredumpSetAttributeGlobal(setting, &value, &size));
}

static void core_dumps(void)
{
    size_t size = 0;
    char name[1025];
    unsigned flags = 77;
    bool value = true;
    REQUIRE(!flag(CU_COREDUMP_ENABLE_ON_EXCEPTION) && flag(CU_COREDUMP_TRIGGER_HOST));
    REQUIRE(!flag(CU_COREDUMP_LIGHTWEIGHT) && !flag(CU_COREDUMP_ENABLE_USER_TRIGGER));
    CHECK(cuCoredumpGetAttribute(CU_COREDUMP_FILE, NULL, &size));
    REQUIRE(size == 1024);
    CHECK(cuCoredumpGetAttribute(CU_COREDUMP_ENABLE_ON_EXCEPTION, NULL, &size));
    REQUIRE(size == 1);
    CHECK(cuCoredumpGetAttributeGlobal(CU_COREDUMP_GENERATION_FLAGS, NULL, &size));
    REQUIRE(size == 4);

    /* A context has settings of its own. */
    strcpy(name, "of the context");
    CHECK(cuCoredumpSetAttribute(CU_COREDUMP_FILE, name, size_of(15)));
    memset(name, 0, sizeof name);
    size = sizeof name;
    CHECK(cuCoredumpGetAttribute(CU_COREDUMP_FILE, name, &size));
    REQUIRE(strcmp(name, "of the context") == 0);
    CHECK(cuCoredumpGetAttributeGlobal(CU_COREDUMP_FILE, name, &size));
    REQUIRE(strcmp(name, "") == 0);
    size = 4;
    flags = CU_COREDUMP_SKIP_SHARED_MEMORY;
    CHECK(cuCoredumpSetAttribute(CU_COREDUMP_GENERATION_FLAGS, &flags, &size));
    flags = 0;
    CHECK(cuCoredumpGetAttribute(CU_COREDUMP_GENERATION_FLAGS, &flags, &size));
    REQUIRE(flags == CU_COREDUMP_SKIP_SHARED_MEMORY);
    size = 1;
    CHECK(cuCoredumpSetAttribute(CU_COREDUMP_ENABLE_ON_EXCEPTION, &value, &size));
    CHECK(cuCoredumpGetAttribute(CU_COREDUMP_ENABLE_ON_EXCEPTION, &value, &size));
    REQUIRE(value && !flag(CU_COREDUMP_ENABLE_ON_EXCEPTION));
    value = false;
    CHECK(cuCoredumpSetAttribute(CU_COREDUMP_ENABLE_ON_EXCEPTION, &value, &size));

    /* The process's. */
    set_flag(CU_COREDUMP_LIGHTWEIGHT, true);
    REQUIRE(flag(CU_COREDUMP_LIGHTWEIGHT));
    set_flag(CU_COREDUMP_LIGHTWEIGHT, false);
    set_flag(CU_COREDUMP_ENABLE_USER_TRIGGER, true);
    REQUIRE(flag(CU_COREDUMP_ENABLE_USER_TRIGGER));
    set_flag(CU_COREDUMP_ENABLE_USER_TRIGGER, false);
    strcpy(name, "pipe");
    CHECK(cuCoredumpSetAttributeGlobal(CU_COREDUMP_PIPE, name, size_of(5)));
    memset(name, 0, sizeof name);
    size = sizeof name;
    CHECK(cuCoredumpGetAttributeGlobal(CU_COREDUMP_PIPE, name, &size));
    REQUIRE(strcmp(name, "pipe") == 0);

    /* What only the process has, wrong sizes, what there is not. */
    size = 1;
    EXPECT(INVALID, cuCoredumpGetAttribute(CU_COREDUMP_ENABLE_USER_TRIGGER, &value, &size));
    EXPECT(INVALID, cuCoredumpSetAttribute(CU_COREDUMP_ENABLE_USER_TRIGGER, &value, &size));
    EXPECT(INVALID, cuCoredumpSetAttribute(CU_COREDUMP_PIPE, name, &size));
    EXPECT(INVALID, cuCoredumpGetAttribute((CUcoredumpSettings)8, &value, &size));
    EXPECT(INVALID, cuCoredumpSetAttributeGlobal((CUcoredumpSettings)0, &value, &size));
    size = 4;
    EXPECT(INVALID, cuCoredumpGetAttribute(CU_COREDUMP_LIGHTWEIGHT, &flags, &size));
    EXPECT(INVALID, cuCoredumpSetAttribute(CU_COREDUMP_LIGHTWEIGHT, &flags, &size));
    EXPECT(INVALID, cuCoredumpSetAttributeGlobal(CU_COREDUMP_FILE, name, size_of(1025)));
    EXPECT(INVALID, cuCoredumpGetAttribute(CU_COREDUMP_LIGHTWEIGHT, &value, NULL));
}

int main(void)
{
    CUlogIterator iterator = 77;
    bool value;
    size_t size = 1;
    CHECK(cuLogsCurrent(&iterator, 0)); /* before cuInit too */
    REQUIRE(iterator == 0);
    CHECK(cuCoredumpGetAttributeGlobal(CU_COREDUMP_ENABLE_ON_EXCEPTION, &value, &size));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuCoredumpGetAttribute(CU_COREDUMP_ENABLE_ON_EXCEPTION, &value, &size));
    CHECK(cuInit(0));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCoredumpGetAttribute(CU_COREDUMP_ENABLE_ON_EXCEPTION, &value, &size));
    start();
    callbacks();
    text();
    core_dumps();
    printf("PASS " PROGRAM " callbacks, text, file, core dump settings\n");
    return 0;
}
