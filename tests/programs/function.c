/* Functions, kernels, modules and libraries: names, parameters, attributes, lists, one handle each, and bad input. */
#include "driver.h"

#define BAD_HANDLE CUDA_ERROR_INVALID_HANDLE

static void functions(CUmodule module)
{
    CUfunction fill = function_of(module, "fill"), other = NULL;
    CUmodule of = NULL;
    const char *name = NULL;
    size_t offset = 0, size = 0;
    CUfunctionLoadingState state = (CUfunctionLoadingState)9;
    int value = 0;
    CHECK(cuFuncGetName(&name, fill));
    REQUIRE(strcmp(name, "fill") == 0);
    EXPECT(INVALID, cuFuncGetName(NULL, fill));
    EXPECT(INVALID, cuFuncGetName(&name, NULL));
    CHECK(cuFuncGetModule(&of, fill));
    REQUIRE(of == module);
    EXPECT(INVALID, cuFuncGetModule(NULL, fill));
    EXPECT(INVALID, cuFuncGetModule(&of, NULL));
    CHECK(cuFuncGetParamInfo(fill, 1, &offset, &size));
    REQUIRE(offset == 8 && size == 4);
    CHECK(cuFuncGetParamInfo(fill, 0, &offset, NULL));
    EXPECT(INVALID, cuFuncGetParamInfo(fill, 2, &offset, &size));
    EXPECT(INVALID, cuFuncGetParamInfo(fill, 0, NULL, &size));
    EXPECT(INVALID, cuFuncGetParamInfo(NULL, 0, &offset, &size));
    CHECK(cuFuncLoad(fill));
    CHECK(cuFuncIsLoaded(&state, fill));
    REQUIRE(state == CU_FUNCTION_LOADING_STATE_LOADED);
    EXPECT(INVALID, cuFuncIsLoaded(NULL, fill));
    EXPECT(BAD_HANDLE, cuFuncIsLoaded(&state, NULL));
    EXPECT(BAD_HANDLE, cuFuncLoad(NULL));

    CHECK(cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100000));
    CHECK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, fill));
    REQUIRE(value == 100000);
    EXPECT(INVALID, cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 300000));
    CHECK(cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 50));
    EXPECT(INVALID, cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 101));
    EXPECT(INVALID, cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_NUM_REGS, 1));
    EXPECT(INVALID, cuFuncGetAttribute(&value, (CUfunction_attribute)99, fill));
    EXPECT(BAD_HANDLE, cuFuncSetAttribute(NULL, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 0));
    CHECK(cuFuncSetCacheConfig(fill, CU_FUNC_CACHE_PREFER_EQUAL));
    EXPECT(INVALID, cuFuncSetCacheConfig(fill, (CUfunc_cache)4));
    EXPECT(BAD_HANDLE, cuFuncSetCacheConfig(NULL, CU_FUNC_CACHE_PREFER_L1));
    CHECK(cuFuncSetSharedMemConfig(fill, CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE));
    EXPECT(INVALID, cuFuncSetSharedMemConfig(fill, (CUsharedconfig)3));
    EXPECT(BAD_HANDLE, cuFuncSetSharedMemConfig(NULL, CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE));

    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&other, module, "nothing"));
    EXPECT(INVALID, cuModuleGetFunction(&other, module, NULL));
    EXPECT(INVALID, cuModuleGetFunction(NULL, module, "fill"));
    EXPECT(BAD_HANDLE, cuModuleGetFunction(&other, NULL, "fill"));
}

static void lists(CUmodule module)
{
    CUfunction all[10], fill = function_of(module, "fill");
    unsigned count = 0, found = 0;
    CHECK(cuModuleGetFunctionCount(&count, module));
    REQUIRE(count == 3);
    EXPECT(INVALID, cuModuleGetFunctionCount(NULL, module));
    EXPECT(BAD_HANDLE, cuModuleGetFunctionCount(&count, NULL));
    memset(all, 0, sizeof all);
    CHECK(cuModuleEnumerateFunctions(all, 10, module));
    for (int i = 0; i < 3; i++) {
        REQUIRE(all[i]);
        found += all[i] == fill;
    }
    REQUIRE(found == 1 && all[3] == NULL);
    memset(all, 0, sizeof all);
    CHECK(cuModuleEnumerateFunctions(all, 1, module));
    REQUIRE(all[0] && all[1] == NULL);
    CHECK(cuModuleEnumerateFunctions(all, 0, module));
    EXPECT(INVALID, cuModuleEnumerateFunctions(NULL, 2, module));
    EXPECT(BAD_HANDLE, cuModuleEnumerateFunctions(all, 2, NULL));
}

static void globals(CUmodule module)
{
    CUdeviceptr address = 0;
    size_t size = 0;
    CHECK(cuModuleGetGlobal(&address, &size, module, "numbers"));
    REQUIRE(address && size == 64);
    CHECK(cuModuleGetGlobal(NULL, &size, module, "numbers"));
    CHECK(cuModuleGetGlobal(&address, NULL, module, "numbers"));
    EXPECT(INVALID, cuModuleGetGlobal(NULL, NULL, module, "numbers"));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetGlobal(&address, &size, module, "nothing"));
    EXPECT(INVALID, cuModuleGetGlobal(&address, &size, module, NULL));
    EXPECT(BAD_HANDLE, cuModuleGetGlobal(&address, &size, NULL, "numbers"));
}

static void loads(const char *path)
{
    CUmodule module;
    CUmoduleLoadingMode mode;
    char info[1000] = "x", errors[1000] = "x";
    CUjit_option options[] = {CU_JIT_INFO_LOG_BUFFER, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, CU_JIT_ERROR_LOG_BUFFER,
                              CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {info, (void *)sizeof info, errors, (void *)sizeof errors};
    CHECK(cuModuleLoad(&module, path));
    function_of(module, "empty");
    CHECK(cuModuleUnload(module));
    EXPECT(CUDA_ERROR_FILE_NOT_FOUND, cuModuleLoad(&module, "/no/such/file"));
    EXPECT(INVALID, cuModuleLoad(&module, NULL));
    EXPECT(INVALID, cuModuleLoad(NULL, path));
    EXPECT(INVALID, cuModuleLoadData(&module, NULL));
    EXPECT(INVALID, cuModuleLoadData(NULL, code));
    CHECK(cuModuleLoadFatBinary(&module, code)); /* takes what cuModuleLoadData takes */
    CHECK(cuModuleUnload(module));
    EXPECT(CUDA_ERROR_INVALID_IMAGE, cuModuleLoadFatBinary(&module, "nothing"));
    EXPECT(INVALID, cuModuleLoadFatBinary(&module, NULL));
    CHECK(cuModuleLoadDataEx(&module, code, 4, options, values));
    REQUIRE(values[3] == NULL && errors[0] == 0); /* the size becomes the text's */
    CHECK(cuModuleUnload(module));
    values[1] = (void *)sizeof info;
    values[3] = (void *)sizeof errors;
    static const char bad[] = ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry k( { ret; }\n";
    EXPECT(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&module, bad, 4, options, values));
    REQUIRE(errors[0] && (size_t)values[3] == strlen(errors));
    EXPECT(INVALID, cuModuleLoadDataEx(&module, code, 1, NULL, NULL));
    CHECK(cuModuleLoadDataEx(&module, code, 0, NULL, NULL));
    CHECK(cuModuleUnload(module));
    CHECK(cuModuleGetLoadingMode(&mode));
    REQUIRE(mode == CU_MODULE_EAGER_LOADING || mode == CU_MODULE_LAZY_LOADING);
}

static void kernels(CUlibrary library)
{
    CUkernel fill, all[10];
    CUlibrary of = NULL;
    CUfunction function, again, third;
    CUmodule module, of_function;
    const char *name = NULL;
    size_t offset, size;
    unsigned count = 0, found = 0;
    int value = 0;
    CHECK(cuLibraryGetKernelCount(&count, library));
    REQUIRE(count == 3);
    EXPECT(INVALID, cuLibraryGetKernelCount(NULL, library));
    EXPECT(BAD_HANDLE, cuLibraryGetKernelCount(&count, NULL));
    CHECK(cuLibraryGetKernel(&fill, library, "fill"));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuLibraryGetKernel(&all[0], library, "nothing"));
    EXPECT(INVALID, cuLibraryGetKernel(&all[0], library, NULL));
    EXPECT(INVALID, cuLibraryGetKernel(NULL, library, "fill"));
    EXPECT(BAD_HANDLE, cuLibraryGetKernel(&all[0], NULL, "fill"));
    memset(all, 0, sizeof all);
    CHECK(cuLibraryEnumerateKernels(all, 10, library));
    for (int i = 0; i < 3; i++)
        found += all[i] == fill;
    REQUIRE(found == 1 && all[2] && all[3] == NULL);
    CHECK(cuLibraryEnumerateKernels(all, 0, library));
    EXPECT(INVALID, cuLibraryEnumerateKernels(NULL, 3, library));
    EXPECT(BAD_HANDLE, cuLibraryEnumerateKernels(all, 3, NULL));

    CHECK(cuKernelGetLibrary(&of, fill));
    REQUIRE(of == library);
    EXPECT(INVALID, cuKernelGetLibrary(NULL, fill));
    EXPECT(BAD_HANDLE, cuKernelGetLibrary(&of, NULL));
    CHECK(cuKernelGetName(&name, fill));
    REQUIRE(strcmp(name, "fill") == 0);
    EXPECT(INVALID, cuKernelGetName(NULL, fill));
    EXPECT(INVALID, cuKernelGetName(&name, NULL));
    CHECK(cuKernelGetParamInfo(fill, 1, &offset, &size));
    REQUIRE(offset == 8 && size == 4);
    EXPECT(INVALID, cuKernelGetParamInfo(fill, 2, &offset, &size));
    EXPECT(INVALID, cuKernelGetParamInfo(NULL, 0, &offset, &size));
    CHECK(cuKernelGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, fill, 0));
    REQUIRE(value == 1024);
    EXPECT(INVALID, cuKernelGetAttribute(&value, (CUfunction_attribute)99, fill, 0));
    EXPECT(BAD_HANDLE, cuKernelGetAttribute(&value, CU_FUNC_ATTRIBUTE_NUM_REGS, NULL, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuKernelGetAttribute(&value, CU_FUNC_ATTRIBUTE_NUM_REGS, fill, 99));
    CHECK(cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100000, fill, 0));
    CHECK(cuKernelGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, fill, 0));
    REQUIRE(value == 100000);
    EXPECT(INVALID, cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1 << 20, fill, 0));
    EXPECT(INVALID, cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_NUM_REGS, 1, fill, 0));
    EXPECT(BAD_HANDLE, cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 0, NULL, 0));
    CHECK(cuKernelSetCacheConfig(fill, CU_FUNC_CACHE_PREFER_L1, 0));
    EXPECT(INVALID, cuKernelSetCacheConfig(fill, (CUfunc_cache)9, 0));
    EXPECT(BAD_HANDLE, cuKernelSetCacheConfig(NULL, CU_FUNC_CACHE_PREFER_L1, 0));

    /* One function, however it is found. */
    CHECK(cuKernelGetFunction(&function, fill));
    CHECK(cuKernelGetFunction(&again, fill));
    CHECK(cuLibraryGetModule(&module, library));
    CHECK(cuModuleGetFunction(&third, module, "fill"));
    REQUIRE(function == again && function == third);
    CHECK(cuFuncGetModule(&of_function, function));
    REQUIRE(of_function == module);
    EXPECT(INVALID, cuKernelGetFunction(NULL, fill));
    EXPECT(BAD_HANDLE, cuKernelGetFunction(&function, NULL));
    EXPECT(INVALID, cuLibraryGetModule(NULL, library));
    EXPECT(BAD_HANDLE, cuLibraryGetModule(&module, NULL));
    /* A kernel is no function. */
    EXPECT(BAD_HANDLE, cuFuncGetName(&name, (CUfunction)fill));
    EXPECT(BAD_HANDLE, cuFuncGetModule(&module, (CUfunction)fill));
    EXPECT(BAD_HANDLE, cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_NUM_REGS, (CUfunction)fill));
    EXPECT(BAD_HANDLE, cuFuncLoad((CUfunction)fill));
}

static void libraries(const char *path)
{
    CUlibrary library, other;
    CUdeviceptr address = 0;
    size_t size = 0;
    void *unified = NULL;
    CHECK(cuLibraryLoadFromFile(&library, path, NULL, NULL, 0, NULL, NULL, 0));
    kernels(library);
    CHECK(cuLibraryGetGlobal(&address, &size, library, "numbers"));
    REQUIRE(address && size == 64);
    EXPECT(INVALID, cuLibraryGetGlobal(NULL, NULL, library, "numbers"));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuLibraryGetGlobal(&address, &size, library, "nothing"));
    EXPECT(BAD_HANDLE, cuLibraryGetGlobal(&address, &size, NULL, "numbers"));
    EXPECT(INVALID, cuLibraryGetUnifiedFunction(&unified, library, "fill"));
    EXPECT(BAD_HANDLE, cuLibraryGetUnifiedFunction(&unified, NULL, "fill"));
    EXPECT(CUDA_ERROR_FILE_NOT_FOUND, cuLibraryLoadFromFile(&other, "/no/such/file", NULL, NULL, 0, NULL, NULL, 0));
    EXPECT(INVALID, cuLibraryLoadFromFile(&other, NULL, NULL, NULL, 0, NULL, NULL, 0));
    EXPECT(INVALID, cuLibraryLoadData(&other, NULL, NULL, NULL, 0, NULL, NULL, 0));
    EXPECT(INVALID, cuLibraryLoadData(NULL, code, NULL, NULL, 0, NULL, NULL, 0));
    EXPECT(BAD_HANDLE, cuLibraryUnload(NULL));
    CHECK(cuLibraryUnload(library));
}

int main(void)
{
    CUmodule module;
    char path[] = "/tmp/vgpu-function-XXXXXX";
    int file = mkstemp(path);
    REQUIRE(file >= 0 && write(file, code, sizeof code - 1) == sizeof code - 1);
    close(file);
    start();
    CHECK(cuModuleLoadData(&module, code));
    functions(module);
    lists(module);
    globals(module);
    loads(path);
    for (int i = 0; i < 20; i++) /* handles are used again by the driver */
        libraries(path);
    CHECK(cuModuleUnload(module));
    unlink(path);
    printf("PASS " PROGRAM " functions, kernels, modules, libraries\n");
    return 0;
}
