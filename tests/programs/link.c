/* Linking at run time, as numba and CuPy do it: parts in PTX that need each other, with logs and times; and loading with logs. */
#include "driver.h"

#define HEAD ".version 8.0\n.target sm_75\n.address_size 64\n"

/* Stores twice(shared_count), both of which the other part has. */
static const char first[] = HEAD
    ".extern .func (.param .b32 r) twice(.param .b32 a);\n"
    ".extern .global .align 4 .u32 shared_count;\n"
    ".visible .entry first(.param .u64 p)\n{\n.reg .b64 %rd<3>;\n.reg .b32 %r<4>;\n"
    "ld.param.u64 %rd1, [p];\ncvta.to.global.u64 %rd2, %rd1;\nld.global.u32 %r1, [shared_count];\n"
    "{\n.param .b32 a0;\nst.param.b32 [a0], %r1;\n.param .b32 r0;\ncall.uni (r0), twice, (a0);\nld.param.b32 %r2, [r0];\n}\n"
    "st.global.u32 [%rd2], %r2;\nret;\n}\n";
static const char second[] = HEAD
    ".visible .global .align 4 .u32 shared_count = 21;\n"
    ".visible .func (.param .b32 r) twice(.param .b32 a)\n{\n.reg .b32 %r<3>;\n"
    "ld.param.b32 %r1, [a];\nadd.s32 %r2, %r1, %r1;\nst.param.b32 [r], %r2;\nret;\n}\n";
static const char whole[] = HEAD ".visible .entry k()\n{\nret;\n}\n";
static const char bad[] = HEAD "nonsense\n.visible .entry k()\n{\n ret;\n}\n";

/* Options with logs; what a call has written to them. */
#define ROOM 4096
static char info[ROOM + 1], errors[ROOM + 1];
static CUjit_option options[] = {CU_JIT_INFO_LOG_BUFFER, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, CU_JIT_ERROR_LOG_BUFFER,
                                 CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, CU_JIT_WALL_TIME, CU_JIT_LOG_VERBOSE};
static void *values[6];
#define OPTIONS 6, options, values

static void prepare(size_t error_room)
{
    memset(info, '#', ROOM);
    memset(errors, '#', ROOM);
    values[0] = info;
    values[1] = (void *)(uintptr_t)ROOM;
    values[2] = errors;
    values[3] = (void *)(uintptr_t)error_room;
    values[4] = NULL;
    values[5] = (void *)1;
}

static void expect_error(const char *text)
{
    if (strstr(errors, text) == NULL || (uintptr_t)values[3] != strlen(errors)) {
        printf("FAIL " PROGRAM ": the error log has %zu bytes and should say %s: %s\n", (size_t)values[3], text, errors);
        exit(1);
    }
}

static void run_linked(const void *image)
{
    CUmodule module;
    CUfunction function;
    CUdeviceptr out, global;
    size_t size;
    int result = 0;
    CHECK(cuModuleLoadData(&module, image));
    CHECK(cuModuleGetFunction(&function, module, "first"));
    CHECK(cuModuleGetGlobal(&global, &size, module, "shared_count"));
    REQUIRE(size == 4);
    CHECK(cuMemAlloc(&out, 4));
    void *params[] = {&out};
    CHECK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    CHECK(cuMemcpyDtoH(&result, out, 4));
    REQUIRE(result == 42);
    CHECK(cuMemFree(out));
    CHECK(cuModuleUnload(module));
}

static void link_parts(void)
{
    CUlinkState state;
    void *image = NULL;
    size_t size = 0;
    prepare(ROOM);
    CHECK(cuLinkCreate(OPTIONS, &state));
    REQUIRE(info[0] == 0 && errors[0] == 0 && values[1] == NULL && values[3] == NULL);
    CHECK(cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)first, sizeof first, "first", 0, NULL, NULL));
    /* Without its NUL, and without a name. */
    CHECK(cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)second, sizeof second - 1, NULL, 0, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkComplete(state, NULL, &size));
    CHECK(cuLinkComplete(state, &image, &size));
    REQUIRE(size > 0 && image != NULL && errors[0] == 0);
    run_linked(image);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)whole, sizeof whole, "late", 0, NULL, NULL));
    CHECK(cuLinkDestroy(state));
}

static void link_file(void)
{
    CUlinkState state;
    void *image;
    size_t size;
    char path[] = "/tmp/vgpu-link-XXXXXX";
    int file = mkstemp(path);
    REQUIRE(file >= 0 && write(file, second, sizeof second - 1) == (ssize_t)(sizeof second - 1));
    close(file);
    CHECK(cuLinkCreate(0, NULL, NULL, &state));
    EXPECT(CUDA_ERROR_FILE_NOT_FOUND, cuLinkAddFile(state, CU_JIT_INPUT_PTX, "/nonexistent.ptx", 0, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkAddFile(state, CU_JIT_INPUT_PTX, NULL, 0, NULL, NULL));
    CHECK(cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)first, sizeof first, "first", 0, NULL, NULL));
    CHECK(cuLinkAddFile(state, CU_JIT_INPUT_PTX, path, 0, NULL, NULL));
    unlink(path);
    CHECK(cuLinkComplete(state, &image, &size));
    run_linked(image);
    CHECK(cuLinkDestroy(state));
}

static void bad_input(void)
{
    CUlinkState state;
    void *image;
    size_t size;
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkCreate(0, NULL, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkCreate(1, NULL, NULL, &state));
    CUjit_option unknown[] = {(CUjit_option)1000};
    void *nothing[] = {NULL};
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkCreate(1, unknown, nothing, &state));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuLinkDestroy(NULL));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuLinkComplete(NULL, &image, &size));

    prepare(ROOM);
    CHECK(cuLinkCreate(OPTIONS, &state));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)whole, 0, "x", 0, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkAddData(state, CU_JIT_INPUT_PTX, NULL, 10, "x", 0, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkAddData(state, (CUjitInputType)99, (void *)whole, sizeof whole, "x", 0, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_IMAGE, cuLinkAddData(state, CU_JIT_INPUT_CUBIN, (void *)whole, sizeof whole, "x", 0, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)whole, sizeof whole, "x", OPTIONS));
    EXPECT(CUDA_ERROR_INVALID_PTX, cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)bad, sizeof bad, "x", 0, NULL, NULL));
    expect_error("line 4");
    /* The linker takes nothing after the CUBIN that it refused. */
    EXPECT(CUDA_ERROR_INVALID_IMAGE, cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)whole, sizeof whole, "x", 0, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_IMAGE, cuLinkComplete(state, &image, &size));
    CHECK(cuLinkDestroy(state));

    prepare(ROOM);
    CHECK(cuLinkCreate(OPTIONS, &state));
    EXPECT(CUDA_ERROR_INVALID_PTX, cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)bad, sizeof bad, "x", 0, NULL, NULL));
    CHECK(cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)whole, sizeof whole, "x", 0, NULL, NULL));
    CHECK(cuLinkComplete(state, &image, &size)); /* without the part that the compiler refused */
    CHECK(cuLinkDestroy(state));

    prepare(ROOM);
    CHECK(cuLinkCreate(OPTIONS, &state));
    CHECK(cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)first, sizeof first, "one", 0, NULL, NULL));
    EXPECT(CUDA_ERROR_UNKNOWN, cuLinkComplete(state, &image, &size));
    expect_error("Undefined reference to 'twice' in 'one'");
    CHECK(cuLinkDestroy(state));

    prepare(ROOM);
    CHECK(cuLinkCreate(OPTIONS, &state));
    CHECK(cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)second, sizeof second, "one", 0, NULL, NULL));
    EXPECT(CUDA_ERROR_UNKNOWN, cuLinkAddData(state, CU_JIT_INPUT_PTX, (void *)second, sizeof second, "two", 0, NULL, NULL));
    expect_error("Multiple definition of");
    EXPECT(CUDA_ERROR_UNKNOWN, cuLinkComplete(state, &image, &size));
    CHECK(cuLinkDestroy(state));
}

static void load_with_logs(void)
{
    CUmodule module;
    CUlibrary library;
    prepare(ROOM);
    CHECK(cuModuleLoadDataEx(&module, whole, OPTIONS));
    REQUIRE(errors[0] == 0 && values[3] == NULL);
    CHECK(cuModuleUnload(module));
    prepare(ROOM);
    EXPECT(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&module, bad, OPTIONS));
    expect_error("line 4");
    prepare(16);
    EXPECT(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&module, bad, OPTIONS));
    REQUIRE(strlen(errors) == 15 && errors[16] == '#');
    prepare(ROOM);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuModuleLoadDataEx(&module, bad, 1, options + 2, values + 2)); /* a buffer, no size */
    values[2] = NULL;
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuModuleLoadDataEx(&module, bad, 2, options + 2, values + 2)); /* a size, no buffer */
    REQUIRE((uintptr_t)values[3] == ROOM);
    CUjit_option unknown[] = {(CUjit_option)35};
    void *nothing[] = {NULL};
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuModuleLoadDataEx(&module, whole, 1, unknown, nothing));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLibraryLoadData(&library, whole, unknown, nothing, 1, NULL, NULL, 0));
    prepare(ROOM);
    CHECK(cuLibraryLoadData(&library, whole, options, values, 6, NULL, NULL, 0));
    REQUIRE(errors[0] == 0 && values[3] == NULL);
    CHECK(cuLibraryUnload(library));
}

int main(void)
{
    CUdevice device;
    CUcontext context;
    CUlinkState state;
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuLinkCreate(0, NULL, NULL, &state));
    CHECK(cuInit(0));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuLinkCreate(0, NULL, NULL, &state));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    link_parts();
    link_file();
    bad_input();
    load_with_logs();
    CHECK(cuDevicePrimaryCtxRelease(device));
    printf("PASS " PROGRAM " two parts linked to %s\n", "one image");
    return 0;
}
