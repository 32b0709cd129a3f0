// CUDA graphs: captured and built node by node, launched often, changed between launches, with host functions in order;
// every result is compared with the same steps on the CPU.
#include "check.h"

#include <cstring>
#include <string>

constexpr int BLOCK = 128;

__global__ void scale_and_add(int *values, int count, int factor, int addend)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        values[i] = values[i] * factor + addend;
}

__global__ void add_arrays(const int *a, const int *b, int *sum, int count)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        sum[i] = a[i] + b[i];
}

static cudaStream_t new_stream()
{
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

static cudaStreamCaptureStatus status_of(cudaStream_t stream)
{
    cudaStreamCaptureStatus status;
    CHECK(cudaStreamIsCapturing(stream, &status));
    return status;
}

// Two branches that join: pinned memory is read at each launch, not at the capture.
static void capture(int count, int launches)
{
    int *host, *result, *a, *b;
    CHECK(cudaMallocHost(&host, count * sizeof(int)));
    CHECK(cudaMallocHost(&result, count * sizeof(int)));
    CHECK(cudaMalloc(&a, count * sizeof(int)));
    CHECK(cudaMalloc(&b, count * sizeof(int)));
    cudaStream_t stream = new_stream(), other = new_stream();
    cudaEvent_t fork, join;
    CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    CHECK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    memset(result, 0, count * sizeof(int));

    REQUIRE(status_of(stream) == cudaStreamCaptureStatusNone);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    REQUIRE(status_of(stream) == cudaStreamCaptureStatusActive);
    REQUIRE(status_of(other) == cudaStreamCaptureStatusNone);
    CHECK(cudaMemcpyAsync(a, host, count * sizeof(int), cudaMemcpyHostToDevice, stream));
    CHECK(cudaEventRecord(fork, stream));
    CHECK(cudaStreamWaitEvent(other, fork));
    REQUIRE(status_of(other) == cudaStreamCaptureStatusActive);
    CHECK(cudaMemsetAsync(b, 1, count * sizeof(int), other));
    scale_and_add<<<4, BLOCK, 0, other>>>(b, count, 3, 1);
    scale_and_add<<<4, BLOCK, 0, stream>>>(a, count, 5, 7);
    CHECK(cudaEventRecord(join, other));
    CHECK(cudaStreamWaitEvent(stream, join));
    add_arrays<<<4, BLOCK, 0, stream>>>(a, b, a, count);
    CHECK(cudaMemcpyAsync(result, a, count * sizeof(int), cudaMemcpyDeviceToHost, stream));
    cudaGraph_t graph;
    CHECK(cudaStreamEndCapture(stream, &graph));
    REQUIRE(status_of(stream) == cudaStreamCaptureStatusNone);
    REQUIRE(status_of(other) == cudaStreamCaptureStatusNone);
    CHECK(cudaGetLastError());
    REQUIRE(result[0] == 0); // nothing has run

    size_t nodes = 0, roots = 0;
    CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
    REQUIRE(nodes == 6);
    CHECK(cudaGraphGetRootNodes(graph, nullptr, &roots));
    REQUIRE(roots == 1);
    std::vector<cudaGraphNode_t> list(nodes), again(nodes);
    CHECK(cudaGraphGetNodes(graph, list.data(), &nodes));
    CHECK(cudaGraphGetNodes(graph, again.data(), &nodes));
    REQUIRE(list == again); // a node is always the same handle
    int kernels = 0, copies = 0, sets = 0;
    for (cudaGraphNode_t node : list) {
        cudaGraphNodeType type;
        CHECK(cudaGraphNodeGetType(node, &type));
        kernels += type == cudaGraphNodeTypeKernel;
        copies += type == cudaGraphNodeTypeMemcpy;
        sets += type == cudaGraphNodeTypeMemset;
    }
    REQUIRE(kernels == 3 && copies == 2 && sets == 1);

    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(cudaGraphDestroy(graph)); // what was made of it lives on
    for (int launch = 0; launch < launches; launch++) {
        for (int i = 0; i < count; i++)
            host[i] = i + launch;
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaStreamSynchronize(stream));
        for (int i = 0; i < count; i++)
            if (result[i] != (i + launch) * 5 + 7 + 0x01010101 * 3 + 1)
                fail("captured graph, launch %d: element %d is %d", launch, i, result[i]);
    }
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaEventDestroy(fork));
    CHECK(cudaEventDestroy(join));
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaStreamDestroy(other));
    CHECK(cudaFree(a));
    CHECK(cudaFree(b));
    CHECK(cudaFreeHost(host));
    CHECK(cudaFreeHost(result));
}

// A synchronous call breaks a capture, and the stream is usable afterwards.
static void broken_capture()
{
    cudaStream_t stream = new_stream();
    DeviceArray<int> values(16);
    values.zero();
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    scale_and_add<<<1, 16, 0, stream>>>(values.get(), 16, 2, 1);
    EXPECT(cudaErrorStreamCaptureUnsupported, cudaStreamSynchronize(stream));
    cudaGraph_t graph = nullptr;
    EXPECT(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &graph));
    REQUIRE(graph == nullptr);
    cudaGetLastError();
    REQUIRE(status_of(stream) == cudaStreamCaptureStatusNone);
    scale_and_add<<<1, 16, 0, stream>>>(values.get(), 16, 2, 1);
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(values.read()[3] == 1);
    CHECK(cudaStreamDestroy(stream));
}

struct Log {
    std::string text;
};

static void note_a(void *log)
{
    ((Log *)log)->text += 'a';
}

static void note_b(void *log)
{
    ((Log *)log)->text += 'b';
}

static void callback(cudaStream_t, cudaError_t status, void *log)
{
    ((Log *)log)->text += status == cudaSuccess ? 'c' : '!';
}

static cudaGraphNode_t add_kernel(cudaGraph_t graph, const cudaGraphNode_t *after, size_t count, int *values, int n,
                                  int factor, int addend)
{
    void *arguments[] = {&values, &n, &factor, &addend};
    cudaKernelNodeParams params = {};
    params.func = (void *)scale_and_add;
    params.gridDim = dim3(4);
    params.blockDim = dim3(BLOCK);
    params.kernelParams = arguments;
    cudaGraphNode_t node;
    CHECK(cudaGraphAddKernelNode(&node, graph, after, count, &params));
    return node;
}

// set, kernel, host function, kernel, host function: built by hand, then changed.
static void built_by_hand(int count)
{
    cudaStream_t stream = new_stream();
    DeviceArray<int> values(count);
    int *pinned;
    CHECK(cudaMallocHost(&pinned, count * sizeof(int)));
    Log log;
    cudaGraph_t graph;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaMemsetParams set = {};
    set.dst = values.get();
    set.value = 2;
    set.elementSize = 4;
    set.width = count;
    set.height = 1;
    cudaGraphNode_t set_node, host_a, host_b, copy_node, empty;
    CHECK(cudaGraphAddMemsetNode(&set_node, graph, nullptr, 0, &set));
    cudaGraphNode_t first = add_kernel(graph, &set_node, 1, values.get(), count, 3, 4);
    cudaHostNodeParams host = {note_a, &log};
    CHECK(cudaGraphAddHostNode(&host_a, graph, &first, 1, &host));
    cudaGraphNode_t second = add_kernel(graph, &host_a, 1, values.get(), count, 10, 1);
    host.fn = note_b;
    CHECK(cudaGraphAddHostNode(&host_b, graph, &second, 1, &host));
    CHECK(cudaGraphAddMemcpyNode1D(&copy_node, graph, &second, 1, pinned, values.get(), count * sizeof(int),
                                   cudaMemcpyDeviceToHost));
    cudaGraphNode_t ends[] = {host_b, copy_node};
    CHECK(cudaGraphAddEmptyNode(&empty, graph, ends, 2));

    cudaHostNodeParams got_host;
    CHECK(cudaGraphHostNodeGetParams(host_b, &got_host));
    REQUIRE(got_host.fn == note_b && got_host.userData == &log);

    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (int launch = 0; launch < 3; launch++)
        CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(log.text == "ababab");
    for (int i = 0; i < count; i++)
        if (pinned[i] != (2 * 3 + 4) * 10 + 1)
            fail("built graph: element %d is %d", i, pinned[i]);

    // Get, change one argument in place, set: as llama.cpp does.
    cudaKernelNodeParams got;
    CHECK(cudaGraphKernelNodeGetParams(second, &got));
    REQUIRE(got.func == (void *)scale_and_add && got.gridDim.x == 4 && got.blockDim.x == BLOCK);
    REQUIRE(*(int **)got.kernelParams[0] == values.get() && *(int *)got.kernelParams[2] == 10);
    int factor = 100;
    got.kernelParams[2] = &factor;
    CHECK(cudaGraphKernelNodeSetParams(second, &got)); // what was got is not the node's any more
    cudaGraphExecUpdateResultInfo info;
    CHECK(cudaGraphExecUpdate(exec, graph, &info));
    REQUIRE(info.result == cudaGraphExecUpdateSuccess);
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(pinned[count - 1] == (2 * 3 + 4) * 100 + 1);

    // The instantiated graph alone.
    CHECK(cudaGraphKernelNodeGetParams(second, &got));
    REQUIRE(*(int *)got.kernelParams[2] == 100);
    int *array = values.get(), addend = 1;
    factor = 7;
    void *arguments[] = {&array, &count, &factor, &addend};
    got.kernelParams = arguments;
    CHECK(cudaGraphExecKernelNodeSetParams(exec, second, &got));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(pinned[0] == (2 * 3 + 4) * 7 + 1);

    // A graph of another form is refused, and the old one still runs.
    add_kernel(graph, &empty, 1, values.get(), count, 1, 1);
    EXPECT(cudaErrorGraphExecUpdateFailure, cudaGraphExecUpdate(exec, graph, &info));
    REQUIRE(info.result == cudaGraphExecUpdateErrorTopologyChanged);
    cudaGetLastError();
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));

    size_t edges = 0;
#if CUDART_VERSION >= 13000
    CHECK(cudaGraphNodeGetDependencies(empty, nullptr, nullptr, &edges));
#else
    CHECK(cudaGraphNodeGetDependencies(empty, nullptr, &edges));
#endif
    REQUIRE(edges == 2);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaFreeHost(pinned));
    CHECK(cudaStreamDestroy(stream));
}

// Host functions and callbacks without a graph, and a captured one.
static void host_functions()
{
    cudaStream_t stream = new_stream();
    Log log;
    for (int i = 0; i < 20; i++) {
        CHECK(cudaLaunchHostFunc(stream, note_a, &log));
        CHECK(cudaLaunchHostFunc(stream, note_b, &log));
    }
    CHECK(cudaStreamAddCallback(stream, callback, &log, 0));
    CHECK(cudaStreamSynchronize(stream));
    std::string expected;
    for (int i = 0; i < 20; i++)
        expected += "ab";
    REQUIRE(log.text == expected + "c");

    log.text.clear();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CHECK(cudaLaunchHostFunc(stream, note_a, &log));
    CHECK(cudaLaunchHostFunc(stream, note_b, &log));
    CHECK(cudaStreamEndCapture(stream, &graph));
    REQUIRE(log.text.empty());
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(log.text == "abab");
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
}

int main(int argc, char **argv)
{
    int count = number_argument(argc, argv, 1, 1000);
    int launches = number_argument(argc, argv, 2, 20);
    capture(count, launches);
    broken_capture();
    built_by_hand(count);
    host_functions();
    return pass("%d elements, %d launches of a captured graph", count, launches);
}
