// The driver's functions through the runtime, so that nothing links libcuda. To be included after check.h.
#pragma once

#include <cuda.h>

#define EXPECT_CU(expected, call)                                                                            \
    do {                                                                                                     \
        CUresult got_ = (call);                                                                              \
        if (got_ != (expected))                                                                              \
            fail("line %d: %s returned %d, expected %d", __LINE__, #call, (int)got_, (int)(expected));       \
    } while (0)
#define CU(call) EXPECT_CU(CUDA_SUCCESS, call)

static void *driver_function(const char *name, unsigned version)
{
    void *function = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaError_t status = cudaGetDriverEntryPointByVersion(name, &function, version, cudaEnableDefault, &result);
    if (status != cudaSuccess || result != cudaDriverEntryPointSuccess || function == nullptr)
        fail("%s is not there (%d, %d)", name, (int)status, (int)result);
    return function;
}

// `p_cuX`, as CUDA 13.0 has it.
#define FUNCTION(name) static decltype(&name) p_##name = (decltype(&name))driver_function(#name, 13000)
