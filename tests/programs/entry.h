// Functions of the driver API for programs that are linked with the runtime only.
#pragma once

#include "check.h"

#include <cuda.h>

// The driver must return `expected`.
#define DRIVER_EXPECT(expected, call)                                                                        \
    do {                                                                                                     \
        CUresult want_ = (expected), got_ = (call);                                                          \
        if (got_ != want_)                                                                                   \
            fail("line %d: %s returned %d, expected %d", __LINE__, #call, (int)got_, (int)want_);            \
    } while (0)

#define DRIVER(call) DRIVER_EXPECT(CUDA_SUCCESS, call)

// Sets `function` to what the runtime finds under a name.
template <typename F> static inline void find_entry(F *&function, const char *name, unsigned version = 13000)
{
    void *found = nullptr;
    cudaDriverEntryPointQueryResult result;
    CHECK(cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &result));
    if (result != cudaDriverEntryPointSuccess || !found)
        fail("the driver has no %s", name);
    function = (F *)found;
}

// A variable with the function's own name and type: `ENTRY(cuGraphClone);`.
#define ENTRY(name)                                                                                          \
    decltype(::name) *name = nullptr;                                                                        \
    find_entry(name, #name)
