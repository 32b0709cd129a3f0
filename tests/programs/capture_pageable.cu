// Copies from and to pageable memory in graphs: captured or added, they read and write the memory as it is at each launch.
#include "check.h"

#include <cstring>

constexpr int COUNT = 5000;

__global__ void add(int *values, int count, int addend)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        values[i] += addend;
}

static int *new_array(int count)
{
    int *array = (int *)malloc(count * sizeof(int));
    REQUIRE(array != nullptr);
    memset(array, 0, count * sizeof(int));
    return array;
}

static size_t node_count(cudaGraph_t graph)
{
    size_t count = 0;
    CHECK(cudaGraphGetNodes(graph, nullptr, &count));
    return count;
}

static size_t edge_count(cudaGraph_t graph)
{
    size_t count = 0;
#if CUDART_VERSION >= 13000
    CHECK(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &count));
#else
    CHECK(cudaGraphGetEdges(graph, nullptr, nullptr, &count));
#endif
    return count;
}

static void launch(cudaGraphExec_t exec, cudaStream_t stream)
{
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
}

static void expect(const int *found, int count, int first, const char *where)
{
    for (int i = 0; i < count; i++)
        if (found[i] != first + i)
            fail("%s: element %d is %d, expected %d", where, i, found[i], first + i);
}

static void fill(int *array, int count, int first)
{
    for (int i = 0; i < count; i++)
        array[i] = first + i;
}

struct Note {
    const int *result;
    int seen;
};

static void note(void *argument)
{
    Note *n = (Note *)argument;
    n->seen = n->result[1];
}

// Host to device, kernel, device to host, and a function that sees what was copied.
static void captured(cudaStream_t stream)
{
    int *source = new_array(COUNT), *result = new_array(COUNT);
    Note seen = {result, -1};
    int *device;
    CHECK(cudaMalloc(&device, COUNT * sizeof(int)));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK(cudaMemcpyAsync(device, source, COUNT * sizeof(int), cudaMemcpyHostToDevice, stream));
    add<<<4, 128, 0, stream>>>(device, COUNT, 1000);
    CHECK(cudaMemcpyAsync(result, device, COUNT * sizeof(int), cudaMemcpyDeviceToHost, stream));
    CHECK(cudaLaunchHostFunc(stream, note, &seen));
    cudaGraph_t graph;
    CHECK(cudaStreamEndCapture(stream, &graph));
    REQUIRE(result[0] == 0);

    // The program sees a node per call.
    REQUIRE(node_count(graph) == 4 && edge_count(graph) == 3);
    std::vector<cudaGraphNode_t> nodes(4);
    size_t count = 4;
    CHECK(cudaGraphGetNodes(graph, nodes.data(), &count));
    int copies = 0, functions = 0;
    for (cudaGraphNode_t node : nodes) {
        cudaGraphNodeType type;
        CHECK(cudaGraphNodeGetType(node, &type));
        copies += type == cudaGraphNodeTypeMemcpy;
        functions += type == cudaGraphNodeTypeHost;
    }
    REQUIRE(copies == 2 && functions == 1);
    size_t roots = 0;
    CHECK(cudaGraphGetRootNodes(graph, nullptr, &roots));
    REQUIRE(roots == 1);

    cudaGraphExec_t exec, again;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 5; i++) {
        fill(source, COUNT, i);
        memset(result, 0, COUNT * sizeof(int));
        launch(exec, stream);
        expect(result, COUNT, i + 1000, "captured");
        REQUIRE(seen.seen == i + 1001);
    }

    // A clone, and the graph inside another.
    cudaGraph_t clone, outer;
    CHECK(cudaGraphClone(&clone, graph));
    CHECK(cudaGraphDestroy(graph));
    REQUIRE(node_count(clone) == 4);
    CHECK(cudaGraphCreate(&outer, 0));
    cudaGraphNode_t child, second;
    CHECK(cudaGraphAddChildGraphNode(&child, outer, nullptr, 0, clone));
    CHECK(cudaGraphAddChildGraphNode(&second, outer, &child, 1, clone));
    CHECK(cudaGraphDestroy(clone));
    CHECK(cudaGraphInstantiate(&again, outer, 0));
    CHECK(cudaGraphDestroy(outer));
    fill(source, COUNT, 77);
    memset(result, 0, COUNT * sizeof(int));
    launch(again, stream);
    expect(result, COUNT, 1077, "clone in a graph");
    fill(source, COUNT, 78);
    launch(exec, stream);
    expect(result, COUNT, 1078, "first graph");
    CHECK(cudaGraphExecDestroy(again));
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaFree(device));
    free(source);
    free(result);
}

// Rows with gaps, and bytes that lie between them and must stay.
static void rows(cudaStream_t stream)
{
    constexpr int WIDTH = 30, PITCH = 50, ROWS = 20;
    int *source = new_array(PITCH * ROWS), *result = new_array(PITCH * ROWS), *device;
    CHECK(cudaMalloc(&device, WIDTH * ROWS * sizeof(int)));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    CHECK(cudaMemcpy2DAsync(device, WIDTH * sizeof(int), source, PITCH * sizeof(int), WIDTH * sizeof(int), ROWS,
                            cudaMemcpyHostToDevice, stream));
    CHECK(cudaMemcpy2DAsync(result, PITCH * sizeof(int), device, WIDTH * sizeof(int), WIDTH * sizeof(int), ROWS,
                            cudaMemcpyDeviceToHost, stream));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (int round = 0; round < 2; round++) {
        fill(source, PITCH * ROWS, round);
        for (int i = 0; i < PITCH * ROWS; i++)
            result[i] = -1;
        launch(exec, stream);
        for (int i = 0; i < PITCH * ROWS; i++) {
            int expected = i % PITCH < WIDTH ? round + i : -1;
            if (result[i] != expected)
                fail("rows: element %d is %d, expected %d", i, result[i], expected);
        }
    }
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaFree(device));
    free(source);
    free(result);
}

// Added by hand, asked about, given other memory in the graph and in what was made of it, and switched off.
static void added(cudaStream_t stream)
{
    constexpr size_t BYTES = COUNT * sizeof(int);
    int *source = new_array(COUNT), *other = new_array(COUNT), *result = new_array(COUNT), *device;
    CHECK(cudaMalloc(&device, BYTES));
    cudaGraph_t graph;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaGraphNode_t in, out, empty;
    CHECK(cudaGraphAddMemcpyNode1D(&in, graph, nullptr, 0, device, source, BYTES, cudaMemcpyHostToDevice));
    CHECK(cudaGraphAddMemcpyNode1D(&out, graph, &in, 1, result, device, BYTES, cudaMemcpyDeviceToHost));
    CHECK(cudaGraphAddEmptyNode(&empty, graph, &out, 1));
    REQUIRE(node_count(graph) == 3 && edge_count(graph) == 2);
    cudaGraphNode_t neighbour = nullptr;
    size_t count = 1;
#if CUDART_VERSION >= 13000
    CHECK(cudaGraphNodeGetDependencies(empty, &neighbour, nullptr, &count));
    REQUIRE(count == 1 && neighbour == out);
    CHECK(cudaGraphNodeGetDependencies(out, &neighbour, nullptr, &count));
    REQUIRE(count == 1 && neighbour == in);
    CHECK(cudaGraphNodeGetDependentNodes(in, &neighbour, nullptr, &count));
    REQUIRE(count == 1 && neighbour == out);
#else
    CHECK(cudaGraphNodeGetDependencies(empty, &neighbour, &count));
    REQUIRE(count == 1 && neighbour == out);
    CHECK(cudaGraphNodeGetDependencies(out, &neighbour, &count));
    REQUIRE(count == 1 && neighbour == in);
    CHECK(cudaGraphNodeGetDependentNodes(in, &neighbour, &count));
    REQUIRE(count == 1 && neighbour == out);
#endif
    cudaMemcpy3DParms got = {};
    CHECK(cudaGraphMemcpyNodeGetParams(in, &got));
    REQUIRE(got.srcPtr.ptr == source && got.dstPtr.ptr == device && got.extent.width == BYTES);

    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    fill(source, COUNT, 5);
    fill(other, COUNT, 6);
    launch(exec, stream);
    expect(result, COUNT, 5, "added");
    CHECK(cudaGraphExecMemcpyNodeSetParams1D(exec, in, device, other, BYTES, cudaMemcpyHostToDevice));
    launch(exec, stream);
    expect(result, COUNT, 6, "changed in what was instantiated");
    for (int i = 0; i < 100; i++) {
        CHECK(cudaGraphExecMemcpyNodeSetParams1D(exec, in, device, i & 1 ? source : other, BYTES, cudaMemcpyHostToDevice));
        CHECK(cudaGraphLaunch(exec, stream));
    }
    CHECK(cudaStreamSynchronize(stream));
    expect(result, COUNT, 5, "changed often");
    CHECK(cudaGraphNodeSetEnabled(exec, out, 0));
    fill(source, COUNT, 9);
    launch(exec, stream);
    expect(result, COUNT, 5, "switched off");
    CHECK(cudaGraphNodeSetEnabled(exec, out, 1));
    launch(exec, stream);
    expect(result, COUNT, 9, "switched on");
    CHECK(cudaGraphExecDestroy(exec));

    CHECK(cudaGraphMemcpyNodeSetParams1D(in, device, other, BYTES, cudaMemcpyHostToDevice));
    CHECK(cudaGraphMemcpyNodeGetParams(in, &got));
    REQUIRE(got.srcPtr.ptr == other);
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    launch(exec, stream);
    expect(result, COUNT, 6, "changed in the graph");
    CHECK(cudaGraphExecDestroy(exec));

    CHECK(cudaGraphDestroyNode(out));
    REQUIRE(node_count(graph) == 2 && edge_count(graph) == 0);
    memset(result, 0, BYTES);
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    launch(exec, stream);
    REQUIRE(result[0] == 0);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaFree(device));
    free(source);
    free(other);
    free(result);
}

// The same shape with other memory: an update takes it over, as programs do that capture each step anew.
static void updated(cudaStream_t stream)
{
    int *source = new_array(64), *device;
    std::vector<int *> results;
    CHECK(cudaMalloc(&device, 64 * sizeof(int)));
    cudaGraphExec_t exec = nullptr;
    for (int round = 0; round < 4; round++) {
        int *result = new_array(64);
        results.push_back(result);
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
        CHECK(cudaMemcpyAsync(device, source, 64 * sizeof(int), cudaMemcpyHostToDevice, stream));
        add<<<1, 64, 0, stream>>>(device, 64, round);
        CHECK(cudaMemcpyAsync(result, device, 64 * sizeof(int), cudaMemcpyDeviceToHost, stream));
        cudaGraph_t graph;
        CHECK(cudaStreamEndCapture(stream, &graph));
        if (!exec) {
            CHECK(cudaGraphInstantiate(&exec, graph, 0));
        } else {
            cudaGraphExecUpdateResultInfo info;
            CHECK(cudaGraphExecUpdate(exec, graph, &info));
            REQUIRE(info.result == cudaGraphExecUpdateSuccess);
        }
        fill(source, 64, 10 * round);
        launch(exec, stream);
        expect(result, 64, 11 * round, "updated");
        CHECK(cudaGraphDestroy(graph));
    }
    expect(results[0], 64, 0, "the first result");
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaFree(device));
    for (int *result : results)
        free(result);
    free(source);
}

int main()
{
    CHECK(cudaFree(nullptr));
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    captured(stream);
    rows(stream);
    added(stream);
    updated(stream);
    CHECK(cudaStreamDestroy(stream));
    return pass("captured, added and updated");
}
