/* The driver API without a runtime above it: modules and libraries from fatbin and PTX, every way to pass parameters. */
#include <cuda.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT 1000

/* The build step puts the images beside the object: IMAGE ".fatbin" and IMAGE ".ptx". */
#define EMBED(symbol, file)                                                                                  \
    __asm__(".section .rodata\n.balign 16\n.global " #symbol "\n" #symbol ":\n.incbin \"" file                \
            "\"\n.byte 0\n.previous\n");                                                                     \
    extern const char symbol[];

EMBED(fatbin_image, IMAGE ".fatbin")
EMBED(ptx_image, IMAGE ".ptx")

static void fail_call(int line, const char *call, CUresult got, CUresult expected)
{
    const char *name = "unknown";
    cuGetErrorName(got, &name);
    printf("FAIL " PROGRAM ": line %d: %s returned %d (%s), expected %d\n", line, call, got, name, expected);
    exit(1);
}

#define EXPECT(expected, call)                                                                               \
    do {                                                                                                     \
        CUresult got_ = (call);                                                                              \
        if (got_ != (expected))                                                                              \
            fail_call(__LINE__, #call, got_, (expected));                                                    \
    } while (0)
#define CHECK(call) EXPECT(CUDA_SUCCESS, call)
#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            printf("FAIL " PROGRAM ": line %d: %s does not hold\n", __LINE__, #condition);                    \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

struct pair {
    int32_t factor;
    double addend;
};

static CUdeviceptr in, out;

static void check_transform(struct pair pair, int32_t bias)
{
    static double results[COUNT];
    CHECK(cuCtxSynchronize());
    CHECK(cuMemcpyDtoH(results, out, sizeof results));
    for (int32_t i = 0; i < COUNT; i++) {
        double expected = (double)((i - 500) * pair.factor) + pair.addend + bias;
        if (results[i] != expected) {
            printf("FAIL " PROGRAM ": result %d is %.17g, expected %.17g\n", i, results[i], expected);
            exit(1);
        }
    }
    CHECK(cuMemsetD8(out, 0xff, sizeof results));
}

/* The same launch by kernelParams, by the packed buffer, and by cuLaunchKernelEx. */
static void launch_every_way(CUfunction function, int32_t bias)
{
    struct pair pair = {3, 0.25};
    int32_t count = COUNT;
    void *params[] = {&in, &out, &pair, &count};
    CHECK(cuLaunchKernel(function, 8, 1, 1, 128, 1, 1, 0, NULL, params, NULL));
    check_transform(pair, bias);

    struct packed {
        CUdeviceptr in, out;
        struct pair pair;
        int32_t count;
    } packed = {in, out, {-7, 1e6}, COUNT};
    size_t size = offsetof(struct packed, count) + sizeof packed.count; /* without the padding at the end */
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
    CHECK(cuLaunchKernel(function, 8, 1, 1, 128, 1, 1, 0, NULL, NULL, extra));
    check_transform(packed.pair, bias);

    CUlaunchConfig config;
    memset(&config, 0, sizeof config);
    config.gridDimX = 4;
    config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
    config.blockDimX = 256;
    pair.factor = 11;
    CHECK(cuLaunchKernelEx(&config, function, params, NULL));
    check_transform(pair, bias);
}

static void use_module(const char *image)
{
    CUmodule module;
    CUfunction function, reverse;
    CUdeviceptr global;
    size_t size;
    int32_t bias = 0, values[64];
    CHECK(cuModuleLoadData(&module, image));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&function, module, "no_such_kernel"));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetGlobal(&global, &size, module, "no_such_variable"));
    CHECK(cuModuleGetFunction(&function, module, "transform"));
    CHECK(cuModuleGetFunction(&reverse, module, "reverse_shared"));
    CHECK(cuModuleGetGlobal(&global, &size, module, "bias"));
    REQUIRE(size == sizeof bias);
    CHECK(cuMemcpyDtoH(&bias, global, sizeof bias));
    REQUIRE(bias == 10);
    launch_every_way(function, 10);
    bias = -4;
    CHECK(cuMemcpyHtoD(global, &bias, sizeof bias));
    launch_every_way(function, -4);

    /* Dynamic shared memory. */
    CUdeviceptr array;
    for (int32_t i = 0; i < 64; i++)
        values[i] = i * i;
    CHECK(cuMemAlloc(&array, sizeof values));
    CHECK(cuMemcpyHtoD(array, values, sizeof values));
    void *params[] = {&array};
    CHECK(cuLaunchKernel(reverse, 1, 1, 1, 64, 1, 1, sizeof values, NULL, params, NULL));
    CHECK(cuMemcpyDtoH(values, array, sizeof values));
    for (int32_t i = 0; i < 64; i++)
        REQUIRE(values[i] == (63 - i) * (63 - i));
    CHECK(cuMemFree(array));

    int attribute = -1;
    CHECK(cuFuncGetAttribute(&attribute, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function));
    REQUIRE(attribute >= 256);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(reverse, 1, 1, 1, 4096, 1, 1, 0, NULL, params, NULL));
    CHECK(cuModuleUnload(module));
}

static void use_library(void)
{
    CUlibrary library;
    CUkernel kernel;
    CUfunction function;
    unsigned count = 0;
    size_t offset = 0, size = 0;
    CHECK(cuLibraryLoadData(&library, fatbin_image, NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cuLibraryGetKernelCount(&count, library));
    REQUIRE(count == 2);
    CHECK(cuLibraryGetKernel(&kernel, library, "transform"));
    CHECK(cuKernelGetParamInfo(kernel, 2, &offset, &size));
    REQUIRE(offset == 16 && size == sizeof(struct pair));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuKernelGetParamInfo(kernel, 4, &offset, &size));
    launch_every_way((CUfunction)kernel, 10); /* allowed in place of a CUfunction */
    CHECK(cuKernelGetFunction(&function, kernel));
    launch_every_way(function, 10);
    CHECK(cuLibraryUnload(library));
}

static void streams_and_events(void)
{
    CUstream stream;
    CUevent start, stop;
    uint32_t words[256];
    float milliseconds = -1;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&start, CU_EVENT_DEFAULT));
    CHECK(cuEventCreate(&stop, CU_EVENT_DEFAULT));
    CHECK(cuEventRecord(start, stream));
    CHECK(cuMemsetD32Async(out, 0x12345678, 256, stream));
    CHECK(cuMemsetD16Async(out + 512, 0xbeef, 10, stream));
    CHECK(cuEventRecord(stop, stream));
    CHECK(cuMemcpyDtoHAsync(words, out, sizeof words, stream));
    CHECK(cuStreamSynchronize(stream));
    for (int i = 0; i < 256; i++)
        REQUIRE(words[i] == (i >= 128 && i < 133 ? 0xbeefbeef : 0x12345678));
    CHECK(cuEventElapsedTime(&milliseconds, start, stop));
    REQUIRE(milliseconds >= 0);
    CHECK(cuEventDestroy(start));
    CHECK(cuEventDestroy(stop));
    CHECK(cuStreamDestroy(stream));
}

static void context_stack(CUcontext context, CUdevice device)
{
    CUcontext current = NULL, primary = NULL;
    CUdevice asked = -1;
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == context);
    CHECK(cuDevicePrimaryCtxRetain(&primary, device));
    REQUIRE(primary != context);
    CHECK(cuCtxPushCurrent(primary));
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == primary);
    CHECK(cuCtxGetDevice(&asked));
    REQUIRE(asked == device);
    CHECK(cuCtxPopCurrent(&current));
    REQUIRE(current == primary);
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == context);
    CHECK(cuDevicePrimaryCtxRelease(device));
}

int main(void)
{
    int version = 0, count = 0;
    char name[128] = "";
    size_t total = 0;
    CUdevice device;
    CUcontext context;
    CUmodule module;
    const char *text = NULL;
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&count));
    CHECK(cuInit(0));
    CHECK(cuDriverGetVersion(&version));
    CHECK(cuDeviceGetCount(&count));
    REQUIRE(count >= 1);
    CHECK(cuDeviceGet(&device, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, count));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDeviceGetName(name, sizeof name, device));
    CHECK(cuDeviceTotalMem(&total, device));
    REQUIRE(total > 0 && name[0] != 0);
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&in, 16));
    CHECK(cuCtxCreate(&context, NULL, 0, device));
    CHECK(cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &text));
    REQUIRE(strcmp(text, "CUDA_ERROR_OUT_OF_MEMORY") == 0);

    static int32_t numbers[COUNT];
    for (int32_t i = 0; i < COUNT; i++)
        numbers[i] = i - 500;
    CHECK(cuMemAlloc(&in, sizeof numbers));
    CHECK(cuMemAlloc(&out, COUNT * sizeof(double)));
    CHECK(cuMemcpyHtoD(in, numbers, sizeof numbers));

    use_module(fatbin_image);
    use_module(ptx_image);
    use_library();
    streams_and_events();
    context_stack(context, device);
    EXPECT(CUDA_ERROR_INVALID_IMAGE, cuModuleLoadData(&module, "no image at all"));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuModuleLoadData(&module, NULL));
    CHECK(cuMemFree(in));
    CHECK(cuMemFree(out));
    CHECK(cuCtxDestroy(context));
    printf("PASS " PROGRAM " %s, driver %d, fatbin, PTX and library\n", name, version);
    return 0;
}
