// Physical memory and pools by file descriptor: exported by one process, sent over a socket, imported by another. The exporter of the
// physical memory ends first. Also what is refused. Processes are forked before the first CUDA call.
#include "check.h"

#include <cstring>
#include <cuda.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define REQUIRE_CU(expected, call)                                                                           \
    do {                                                                                                     \
        CUresult got_ = (call);                                                                              \
        if (got_ != (expected))                                                                              \
            fail("line %d: %s returned %d, expected %d", __LINE__, #call, (int)got_, (int)(expected));       \
    } while (0)
#define CU(call) REQUIRE_CU(CUDA_SUCCESS, call)

static void *find(const char *name)
{
    void *function = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaError_t status = cudaGetDriverEntryPointByVersion(name, &function, 12010, cudaEnableDefault, &result);
    if (status != cudaSuccess || result != cudaDriverEntryPointSuccess || function == nullptr)
        fail("%s is not there (%d, %d)", name, (int)status, (int)result);
    return function;
}

#define FUNCTION(name) decltype(&name) p_##name = (decltype(&name))find(#name)

constexpr size_t PIECE = 2 << 20;
constexpr uint32_t COUNT = PIECE / 4;
constexpr CUmemAllocationHandleType DESCRIPTOR = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

__global__ static void fill(uint32_t *values, uint32_t n, uint32_t factor)
{
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        values[i] = i * factor;
}

static void fill_now(void *at, uint32_t n, uint32_t factor)
{
    cudaGetLastError(); // of what was to be refused
    fill<<<32, 128>>>((uint32_t *)at, n, factor);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
}

static void check_values(const void *at, uint32_t n, uint32_t factor)
{
    std::vector<uint32_t> values(n);
    CHECK(cudaMemcpy(values.data(), at, n * sizeof(uint32_t), cudaMemcpyDefault));
    for (uint32_t i = 0; i < n; i++)
        if (values[i] != i * factor)
            fail("value %u is %u, expected %u", i, values[i], i * factor);
}

// A socket to another process, and the process if it is a child.
struct Other {
    int socket;
    pid_t pid;
};

static void give(const Other &other, const void *bytes, size_t length, int file)
{
    iovec part{(void *)bytes, length};
    char space[CMSG_SPACE(sizeof file)] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (file >= 0) {
        message.msg_control = space;
        message.msg_controllen = sizeof space;
        cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof file);
        memcpy(CMSG_DATA(header), &file, sizeof file);
    }
    REQUIRE(sendmsg(other.socket, &message, 0) == (ssize_t)length);
}

static int take(const Other &other, void *bytes, size_t length)
{
    iovec part{bytes, length};
    int file = -1;
    char space[CMSG_SPACE(sizeof file)] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    if (recvmsg(other.socket, &message, 0) != (ssize_t)length)
        fail("the other process is gone");
    if (cmsghdr *header = CMSG_FIRSTHDR(&message))
        memcpy(&file, CMSG_DATA(header), sizeof file);
    return file;
}

static Other start(int (*run)(const Other &))
{
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    pid_t child = fork();
    REQUIRE(child >= 0);
    close(pair[child != 0]);
    Other other{pair[child == 0], child};
    if (child == 0)
        exit(run(other));
    return other;
}

static void wait_for(const Other &other)
{
    int status = 0;
    REQUIRE(waitpid(other.pid, &status, 0) == other.pid);
    REQUIRE(status == 0);
}

static CUmemAllocationProp properties(CUmemAllocationHandleType handles)
{
    CUmemAllocationProp props;
    memset(&props, 0, sizeof props);
    props.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    props.requestedHandleTypes = handles;
    return props;
}

static CUdeviceptr map(CUmemGenericAllocationHandle memory)
{
    FUNCTION(cuMemAddressReserve);
    FUNCTION(cuMemMap);
    FUNCTION(cuMemSetAccess);
    CUdeviceptr at = 0;
    CU(p_cuMemAddressReserve(&at, PIECE, 0, 0, 0));
    CU(p_cuMemMap(at, PIECE, 0, memory, 0));
    CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CU(p_cuMemSetAccess(at, PIECE, &access, 1));
    return at;
}

static void unmap(CUdeviceptr at)
{
    FUNCTION(cuMemUnmap);
    FUNCTION(cuMemAddressFree);
    CU(p_cuMemUnmap(at, PIECE));
    CU(p_cuMemAddressFree(at, PIECE));
}

static void check_refused_exports(CUmemGenericAllocationHandle memory)
{
    FUNCTION(cuMemCreate);
    FUNCTION(cuMemRelease);
    FUNCTION(cuMemExportToShareableHandle);
    CUmemAllocationProp props = properties(CU_MEM_HANDLE_TYPE_NONE);
    CUmemGenericAllocationHandle plain = 0;
    int file = -1;
    CU(p_cuMemCreate(&plain, PIECE, &props, 0));
    REQUIRE_CU(CUDA_ERROR_INVALID_VALUE, p_cuMemExportToShareableHandle(&file, plain, DESCRIPTOR, 0));
    CU(p_cuMemRelease(plain));
    props = properties(CU_MEM_HANDLE_TYPE_WIN32);
    REQUIRE_CU(CUDA_ERROR_INVALID_VALUE, p_cuMemCreate(&plain, PIECE, &props, 0));
    REQUIRE_CU(CUDA_ERROR_INVALID_VALUE, p_cuMemExportToShareableHandle(&file, memory, CU_MEM_HANDLE_TYPE_NONE, 0));
    REQUIRE_CU(CUDA_ERROR_INVALID_VALUE, p_cuMemExportToShareableHandle(&file, memory, CU_MEM_HANDLE_TYPE_FABRIC, 0));
    REQUIRE_CU(CUDA_ERROR_INVALID_VALUE, p_cuMemExportToShareableHandle(&file, memory, DESCRIPTOR, 1));
    REQUIRE_CU(CUDA_ERROR_INVALID_VALUE, p_cuMemExportToShareableHandle(nullptr, memory, DESCRIPTOR, 0));
    REQUIRE_CU(CUDA_ERROR_INVALID_VALUE, p_cuMemExportToShareableHandle(&file, 0, DESCRIPTOR, 0));
    REQUIRE(file == -1);
}

static int memory_exporter(const Other &importer)
{
    CHECK(cudaFree(nullptr));
    FUNCTION(cuMemCreate);
    FUNCTION(cuMemRelease);
    FUNCTION(cuMemExportToShareableHandle);
    FUNCTION(cuMemImportFromShareableHandle);
    CUmemAllocationProp props = properties(DESCRIPTOR);
    CUmemGenericAllocationHandle memory = 0, own = 0;
    CU(p_cuMemCreate(&memory, PIECE, &props, 0));
    CUdeviceptr at = map(memory);
    fill_now((void *)at, COUNT, 3);
    check_refused_exports(memory);
    int first = -1, second = -1;
    CU(p_cuMemExportToShareableHandle(&first, memory, DESCRIPTOR, 0));
    CU(p_cuMemExportToShareableHandle(&second, memory, DESCRIPTOR, 0));
    REQUIRE(first >= 0 && second >= 0 && first != second);
    REQUIRE(fcntl(first, F_GETFD) == FD_CLOEXEC);
    CU(p_cuMemImportFromShareableHandle(&own, (void *)(intptr_t)second, DESCRIPTOR));
    REQUIRE(own != memory);
    REQUIRE(close(second) == 0);
    CU(p_cuMemRelease(own));
    void *allocated;
    cudaIpcMemHandle_t ends;
    CHECK(cudaMalloc(&allocated, 8 << 20));
    CHECK(cudaIpcGetMemHandle(&ends, allocated));
    give(importer, &ends, sizeof ends, first);
    // The descriptor that is on its way holds the memory.
    REQUIRE(close(first) == 0);
    unmap(at);
    CU(p_cuMemRelease(memory));
    return 0;
}

static void import_memory(void)
{
    Other exporter = start(memory_exporter);
    cudaIpcMemHandle_t ended;
    int file = take(exporter, &ended, sizeof ended);
    REQUIRE(file >= 0);
    wait_for(exporter);
    CHECK(cudaFree(nullptr));
    // Memory of cudaMalloc ends with its process, or, where that is far away, soon after.
    void *opened = nullptr;
    for (int i = 0; i < 500; i++) {
        if (cudaIpcOpenMemHandle(&opened, ended, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess)
            break;
        CHECK(cudaIpcCloseMemHandle(opened));
        usleep(10000);
    }
    EXPECT(cudaErrorInvalidResourceHandle, cudaIpcOpenMemHandle(&opened, ended, cudaIpcMemLazyEnablePeerAccess));
    cudaGetLastError();
    FUNCTION(cuMemRelease);
    FUNCTION(cuMemImportFromShareableHandle);
    FUNCTION(cuMemExportToShareableHandle);
    FUNCTION(cuMemGetAllocationPropertiesFromHandle);
    CUmemGenericAllocationHandle memory = 0, second = 0, none = 0;
    CU(p_cuMemImportFromShareableHandle(&memory, (void *)(intptr_t)file, DESCRIPTOR));
    int copy = dup(file);
    REQUIRE(copy >= 0 && close(file) == 0);
    CU(p_cuMemImportFromShareableHandle(&second, (void *)(intptr_t)copy, DESCRIPTOR));
    REQUIRE_CU(CUDA_ERROR_INVALID_VALUE,
               p_cuMemImportFromShareableHandle(&none, (void *)(intptr_t)copy, CU_MEM_HANDLE_TYPE_NONE));
    REQUIRE_CU(CUDA_ERROR_NOT_SUPPORTED,
               p_cuMemImportFromShareableHandle(&none, (void *)(intptr_t)copy, CU_MEM_HANDLE_TYPE_WIN32));
    REQUIRE(close(copy) == 0);
    int null = open("/dev/null", O_RDWR);
    for (int wrong : {null, exporter.socket, copy + 100, -1})
        REQUIRE_CU(CUDA_ERROR_UNKNOWN, p_cuMemImportFromShareableHandle(&none, (void *)(intptr_t)wrong, DESCRIPTOR));
    REQUIRE(close(null) == 0);
    CUmemAllocationProp props;
    CU(p_cuMemGetAllocationPropertiesFromHandle(&props, memory));
    // The driver does not say what imported memory was made for, and does not export it.
    REQUIRE(props.type == CU_MEM_ALLOCATION_TYPE_PINNED && props.location.type == CU_MEM_LOCATION_TYPE_DEVICE);
    REQUIRE(props.location.id == 0);
    REQUIRE(props.requestedHandleTypes == CU_MEM_HANDLE_TYPE_NONE);
    int again = -1;
    REQUIRE_CU(CUDA_ERROR_INVALID_VALUE, p_cuMemExportToShareableHandle(&again, memory, DESCRIPTOR, 0));
    // Both are the same memory.
    CUdeviceptr at = map(memory), also = map(second);
    check_values((void *)at, COUNT, 3);
    fill_now((void *)at, COUNT, 5);
    check_values((void *)also, COUNT, 5);
    unmap(also);
    CU(p_cuMemRelease(second));
    CU(p_cuMemRelease(memory));
    check_values((void *)at, COUNT, 5);
    unmap(at);
}

static cudaMemPool_t new_pool(cudaMemAllocationHandleType handles)
{
    cudaMemPoolProps props;
    memset(&props, 0, sizeof props);
    props.allocType = cudaMemAllocationTypePinned;
    props.handleTypes = handles;
    props.location.type = cudaMemLocationTypeDevice;
    cudaMemPool_t pool;
    CHECK(cudaMemPoolCreate(&pool, &props));
    return pool;
}

constexpr uint32_t POOLED = 1000;

static int pool_exporter(const Other &importer)
{
    constexpr auto descriptor = cudaMemHandleTypePosixFileDescriptor;
    cudaMemPool_t pool = new_pool(descriptor), plain = new_pool(cudaMemHandleTypeNone);
    int file = -1;
    EXPECT(cudaErrorInvalidValue, cudaMemPoolExportToShareableHandle(&file, plain, descriptor, 0));
    EXPECT(cudaErrorInvalidValue, cudaMemPoolExportToShareableHandle(&file, pool, cudaMemHandleTypeNone, 0));
    EXPECT(cudaErrorInvalidValue, cudaMemPoolExportToShareableHandle(&file, pool, descriptor, 1));
    EXPECT(cudaErrorInvalidValue, cudaMemPoolExportToShareableHandle(nullptr, pool, descriptor, 0));
    CHECK(cudaMemPoolExportToShareableHandle(&file, pool, descriptor, 0));
    REQUIRE(file >= 0);
    void *memory, *unshared, *allocated;
    CHECK(cudaMallocFromPoolAsync(&memory, POOLED * 4, pool, 0));
    CHECK(cudaMallocFromPoolAsync(&unshared, POOLED * 4, plain, 0));
    CHECK(cudaMalloc(&allocated, 4096));
    fill_now(memory, POOLED, 7);
    cudaMemPoolPtrExportData data, again;
    CHECK(cudaMemPoolExportPointer(&data, memory));
    CHECK(cudaMemPoolExportPointer(&again, memory)); // need not be the same bytes
    EXPECT(cudaErrorInvalidValue, cudaMemPoolExportPointer(&again, (char *)memory + 16));
    EXPECT(cudaErrorInvalidValue, cudaMemPoolExportPointer(&again, unshared));
    EXPECT(cudaErrorInvalidValue, cudaMemPoolExportPointer(&again, allocated));
    void *imported = nullptr;
    EXPECT(cudaErrorInvalidValue, cudaMemPoolImportPointer(&imported, pool, &data));
    cudaGetLastError();
    give(importer, &data, sizeof data, file);
    REQUIRE(close(file) == 0);
    char byte = 0;
    take(importer, &byte, 1);
    check_values(memory, POOLED, 9);
    CHECK(cudaFreeAsync(memory, 0));
    CHECK(cudaFreeAsync(unshared, 0));
    CHECK(cudaFree(allocated));
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemPoolDestroy(pool));
    CHECK(cudaMemPoolDestroy(plain));
    return 0;
}

static int pool_importer(const Other &exporter)
{
    constexpr auto descriptor = cudaMemHandleTypePosixFileDescriptor;
    cudaMemPoolPtrExportData data, forged;
    int file = take(exporter, &data, sizeof data);
    REQUIRE(file >= 0);
    cudaMemPool_t pool, none;
    CHECK(cudaMemPoolImportFromShareableHandle(&pool, (void *)(intptr_t)file, descriptor, 0));
    EXPECT(cudaErrorInvalidValue,
           cudaMemPoolImportFromShareableHandle(&none, (void *)(intptr_t)file, cudaMemHandleTypeNone, 0));
    EXPECT(cudaErrorInvalidValue, cudaMemPoolImportFromShareableHandle(&none, (void *)(intptr_t)file, descriptor, 1));
    EXPECT(cudaErrorUnknown, cudaMemPoolImportFromShareableHandle(&none, (void *)(intptr_t)-1, descriptor, 0));
    cudaGetLastError();
    CHECK(cudaMemPoolImportFromShareableHandle(&none, (void *)(intptr_t)file, descriptor, 0));
    REQUIRE(none == pool);
    REQUIRE(close(file) == 0);
    CHECK(cudaFree(nullptr));
    void *memory = nullptr, *more = nullptr;
    CHECK(cudaMemPoolImportPointer(&memory, pool, &data));
    CHECK(cudaMemPoolImportPointer(&more, pool, &data));
    REQUIRE(more == memory);
    EXPECT(cudaErrorInvalidValue, cudaMallocFromPoolAsync(&more, 1024, pool, 0));
    uint64_t used;
    EXPECT(cudaErrorInvalidValue, cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used));
    EXPECT(cudaErrorInvalidValue, cudaMemPoolTrimTo(pool, 0));
    check_values(memory, POOLED, 7);
    cudaPointerAttributes attributes;
    CHECK(cudaPointerGetAttributes(&attributes, memory));
    REQUIRE(attributes.type == cudaMemoryTypeDevice);
    memset(&forged, 0, sizeof forged);
    EXPECT(cudaErrorInvalidValue, cudaMemPoolImportPointer(&more, pool, &forged));
    cudaGetLastError();
    fill_now(memory, POOLED, 9);
    CHECK(cudaFreeAsync(memory, 0));
    CHECK(cudaDeviceSynchronize());
    char byte = 'f';
    give(exporter, &byte, 1, -1);
    return 0;
}

// Between two children: this process has not called CUDA yet.
static void share_pool(void)
{
    Other exporter = start([](const Other &parent) {
        char byte;
        Other importer{take(parent, &byte, 1), 0};
        return pool_exporter(importer);
    });
    Other importer = start([](const Other &parent) {
        char byte;
        Other exporter{take(parent, &byte, 1), 0};
        return pool_importer(exporter);
    });
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    char byte = 's';
    give(exporter, &byte, 1, pair[0]);
    give(importer, &byte, 1, pair[1]);
    close(pair[0]);
    close(pair[1]);
    wait_for(exporter);
    wait_for(importer);
}

// A device that is no part of a multicast team refuses all of it; a team needs more than the one device that a test can count on.
static void check_multicast(void)
{
    FUNCTION(cuMulticastCreate);
    FUNCTION(cuMulticastAddDevice);
    FUNCTION(cuMulticastBindAddr);
    FUNCTION(cuMulticastBindMem);
    FUNCTION(cuMulticastUnbind);
    FUNCTION(cuMulticastGetGranularity);
    FUNCTION(cuDeviceGetAttribute);
    int supported = 0;
    CU(p_cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED, 0));
    CUmulticastObjectProp props;
    memset(&props, 0, sizeof props);
    props.numDevices = 2;
    props.size = PIECE;
    size_t granularity = 0;
    CUresult result = p_cuMulticastGetGranularity(&granularity, &props, CU_MULTICAST_GRANULARITY_MINIMUM);
    if (supported) {
        REQUIRE(result == CUDA_SUCCESS && granularity > 0);
        return;
    }
    REQUIRE(result == CUDA_ERROR_NOT_SUPPORTED);
    CUmemGenericAllocationHandle object = 0;
    REQUIRE_CU(CUDA_ERROR_NOT_SUPPORTED, p_cuMulticastCreate(&object, &props));
    REQUIRE_CU(CUDA_ERROR_NOT_SUPPORTED, p_cuMulticastAddDevice(object, 0));
    REQUIRE_CU(CUDA_ERROR_NOT_SUPPORTED, p_cuMulticastBindMem(object, 0, object, 0, PIECE, 0));
    REQUIRE_CU(CUDA_ERROR_NOT_SUPPORTED, p_cuMulticastBindAddr(object, 0, 0, PIECE, 0));
    REQUIRE_CU(CUDA_ERROR_NOT_SUPPORTED, p_cuMulticastUnbind(object, 0, 0, PIECE));
}

int main()
{
    share_pool();
    import_memory();
    check_multicast();
    return pass("%u values of memory and %u of a pool from other processes", COUNT, POOLED);
}
