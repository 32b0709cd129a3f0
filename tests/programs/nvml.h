// What programs of the management library share: its functions, found by name, and the device.
#pragma once

#include "driver.h"

// Declared here: the header of the management library comes in a package of its own.
typedef struct device *device_t;

static void *library;
static device_t device;

#define FAIL(...)                                                                                            \
    do {                                                                                                     \
        printf("FAIL " PROGRAM ": " __VA_ARGS__);                                                            \
        putchar('\n');                                                                                       \
        exit(1);                                                                                             \
    } while (0)

static void load(void)
{
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (library == NULL)
        FAIL("%s", dlerror());
}

static void *symbol(const char *name)
{
    void *address = dlsym(library, name);
    if (address == NULL)
        FAIL("%s is missing", name);
    return address;
}

// What function `name` of the management library, with these parameter types, returns.
#define CALL(name, types, ...) (((int (*) types)symbol(name))(__VA_ARGS__))

// The same must return `expected`.
#define NVML(expected, name, types, ...)                                                                     \
    do {                                                                                                     \
        int got_ = CALL(name, types, __VA_ARGS__);                                                           \
        if (got_ != (expected))                                                                              \
            FAIL("line %d: %s returned %d, expected %d", __LINE__, name, got_, (expected));                 \
    } while (0)
