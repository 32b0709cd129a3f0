// What programs of the driver API share: checks that end the program with one line, PASS or FAIL, a context, and some device code.
#pragma once

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" // tested because they are there

#include <cuda.h>
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef PROGRAM
#error "compile with -DPROGRAM=\"name\""
#endif

static inline void fail_call(int line, const char *call, CUresult got, CUresult expected)
{
    const char *name = NULL;
    cuGetErrorName(got, &name);
    printf("FAIL " PROGRAM ": line %d: %s returned %d (%s), expected %d\n", line, call, got, name ? name : "?",
           expected);
    fflush(stdout);
    _exit(1);
}

// The call must return `expected`.
#define EXPECT(expected, call)                                                                               \
    do {                                                                                                     \
        CUresult got_ = (call);                                                                              \
        if (got_ != (expected))                                                                              \
            fail_call(__LINE__, #call, got_, (expected));                                                    \
    } while (0)

#define CHECK(call) EXPECT(CUDA_SUCCESS, call)

// The condition must hold.
#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            printf("FAIL " PROGRAM ": line %d: %s does not hold\n", __LINE__, #condition);                   \
            fflush(stdout);                                                                                  \
            _exit(1);                                                                                        \
        }                                                                                                    \
    } while (0)

#define INVALID CUDA_ERROR_INVALID_VALUE

// A function of the driver's that the header hides behind a newer form.
__attribute__((unused)) static void *driver_function(const char *name)
{
    void *found = dlsym(RTLD_DEFAULT, name);
    if (!found) {
        printf("FAIL " PROGRAM ": %s is not exported\n", name);
        _exit(1);
    }
    return found;
}

// The first device's primary context, made current.
__attribute__((unused)) static CUcontext start(void)
{
    CUcontext context;
    CHECK(cuInit(0));
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    CHECK(cuCtxSetCurrent(context));
    return context;
}

// fill(words, value): each thread writes value + its number. empty(): nothing. shared(word): writes the bytes of dynamic
// shared memory. A variable: numbers, 16 words.
__attribute__((unused)) static const char code[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .global .align 4 .u32 numbers[16];\n"
    ".visible .entry fill(.param .u64 words, .param .u32 value)\n{\n"
    ".reg .b64 %rd<4>;\n.reg .b32 %r<8>;\n"
    "ld.param.u64 %rd1, [words];\nld.param.u32 %r1, [value];\ncvta.to.global.u64 %rd1, %rd1;\n"
    "mov.u32 %r2, %ctaid.x;\nmov.u32 %r3, %ntid.x;\nmov.u32 %r4, %tid.x;\n"
    "mad.lo.u32 %r5, %r2, %r3, %r4;\nmul.wide.u32 %rd2, %r5, 4;\nadd.s64 %rd3, %rd1, %rd2;\n"
    "add.u32 %r6, %r1, %r5;\nst.global.u32 [%rd3], %r6;\nret;\n}\n"
    ".visible .entry empty()\n{\nret;\n}\n"
    ".visible .entry shared(.param .u64 word)\n{\n"
    ".reg .b64 %rd<2>;\n.reg .b32 %r<2>;\n"
    "ld.param.u64 %rd1, [word];\ncvta.to.global.u64 %rd1, %rd1;\n"
    "mov.u32 %r1, %dynamic_smem_size;\nst.global.u32 [%rd1], %r1;\nret;\n}\n";

__attribute__((unused)) static CUfunction function_of(CUmodule module, const char *name)
{
    CUfunction function;
    CHECK(cuModuleGetFunction(&function, module, name));
    return function;
}

// Whether `count` words on the device are value, value + 1, …; they are 0 afterwards.
__attribute__((unused)) static int holds(CUdeviceptr words, uint32_t count, uint32_t value)
{
    static uint32_t read[4096];
    CHECK(cuCtxSynchronize());
    CHECK(cuMemcpyDtoH(read, words, count * sizeof *read));
    CHECK(cuMemsetD32(words, 0, count));
    CHECK(cuCtxSynchronize());
    for (uint32_t i = 0; i < count; i++)
        if (read[i] != value + i)
            return 0;
    return 1;
}
