// Conditional nodes of graphs: kernels decide what runs (IF, IF with ELSE, WHILE, SWITCH), also one inside another.
#include "check.h"

#include <cstring>

__global__ void count_down(cudaGraphConditionalHandle handle, int *left)
{
    cudaGraphSetConditional(handle, --*left > 0);
}

__global__ void choose(cudaGraphConditionalHandle handle, const int *value)
{
    cudaGraphSetConditional(handle, *value);
}

__global__ void add(int *value, int addend)
{
    *value += addend;
}

static void add_kernel(cudaGraphNode_t *node, cudaGraph_t graph, const cudaGraphNode_t *after, void *function,
                       void **arguments)
{
    cudaKernelNodeParams params = {};
    params.func = function;
    params.gridDim = params.blockDim = dim3(1);
    params.kernelParams = arguments;
    CHECK(cudaGraphAddKernelNode(node, graph, after, after ? 1 : 0, &params));
}

static cudaGraphNode_t add_add(cudaGraph_t graph, const cudaGraphNode_t *after, int *value, int addend)
{
    void *arguments[] = {&value, &addend};
    cudaGraphNode_t node;
    add_kernel(&node, graph, after, (void *)add, arguments);
    return node;
}

static cudaGraphNode_t add_set(cudaGraph_t graph, const cudaGraphNode_t *after, void *function,
                               cudaGraphConditionalHandle handle, int *value)
{
    void *arguments[] = {&handle, &value};
    cudaGraphNode_t node;
    add_kernel(&node, graph, after, function, arguments);
    return node;
}

// Adds a conditional node; its bodies.
static std::vector<cudaGraph_t> add_conditional(cudaGraphNode_t *node, cudaGraph_t graph, const cudaGraphNode_t *after,
                                                cudaGraphConditionalHandle handle, cudaGraphConditionalNodeType type,
                                                unsigned size)
{
    cudaGraphNodeParams params = {};
    params.type = cudaGraphNodeTypeConditional;
    params.conditional.handle = handle;
    params.conditional.type = type;
    params.conditional.size = size;
    CHECK(cudaGraphAddNode(node, graph, after, nullptr, after ? 1 : 0, &params));
    REQUIRE(params.conditional.phGraph_out != nullptr);
    std::vector<cudaGraph_t> bodies(params.conditional.phGraph_out, params.conditional.phGraph_out + size);
    for (cudaGraph_t body : bodies)
        REQUIRE(body != nullptr && body != graph);
    cudaGraphNodeType found;
    CHECK(cudaGraphNodeGetType(*node, &found));
    REQUIRE(found == cudaGraphNodeTypeConditional);
    return bodies;
}

static cudaGraphConditionalHandle new_handle(cudaGraph_t graph, unsigned value, unsigned flags)
{
    cudaGraphConditionalHandle handle = 0;
    CHECK(cudaGraphConditionalHandleCreate(&handle, graph, value, flags));
    return handle;
}

struct Values {
    int *memory;
    Values()
    {
        CHECK(cudaMalloc(&memory, 64 * sizeof(int)));
        CHECK(cudaMemset(memory, 0, 64 * sizeof(int)));
        CHECK(cudaDeviceSynchronize());
    }
    ~Values()
    {
        CHECK(cudaFree(memory));
    }
    void set(int index, int value)
    {
        CHECK(cudaMemcpy(memory + index, &value, sizeof value, cudaMemcpyHostToDevice));
        CHECK(cudaDeviceSynchronize());
    }
    int get(int index)
    {
        int value;
        CHECK(cudaMemcpy(&value, memory + index, sizeof value, cudaMemcpyDeviceToHost));
        return value;
    }
};

static void launch(cudaGraphExec_t exec, cudaStream_t stream)
{
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
}

// A loop that runs as often as a kernel says, again with each launch.
static void loops(cudaStream_t stream)
{
    Values values;
    cudaGraph_t graph;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaGraphConditionalHandle handle = new_handle(graph, 1, cudaGraphCondAssignDefault);
    cudaGraphNode_t node;
    cudaGraph_t body = add_conditional(&node, graph, nullptr, handle, cudaGraphCondTypeWhile, 1)[0];
    cudaGraphNode_t first = add_add(body, nullptr, values.memory + 1, 10);
    add_set(body, &first, (void *)count_down, handle, values.memory);
    cudaGraphNode_t after = add_add(graph, &node, values.memory + 1, 1);
    (void)after;
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    values.set(0, 5);
    launch(exec, stream);
    REQUIRE(values.get(0) == 0 && values.get(1) == 51);
    values.set(0, 1);
    launch(exec, stream);
    REQUIRE(values.get(1) == 62);
    CHECK(cudaGraphDestroy(graph));
    values.set(0, 3);
    launch(exec, stream); // what was made of the graph lives on
    REQUIRE(values.get(1) == 93);
    CHECK(cudaGraphExecDestroy(exec));
}

// IF with and without ELSE. Without a default the condition is what a kernel has set in this launch.
static void branches(cudaStream_t stream)
{
    Values values;
    cudaGraph_t graph;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaGraphConditionalHandle alone = new_handle(graph, 0, cudaGraphCondAssignDefault), both = new_handle(graph, 0, 0);
    cudaGraphNode_t set = add_set(graph, nullptr, (void *)choose, alone, values.memory);
    set = add_set(graph, &set, (void *)choose, both, values.memory + 1);
    cudaGraphNode_t node;
    cudaGraph_t body = add_conditional(&node, graph, &set, alone, cudaGraphCondTypeIf, 1)[0];
    add_add(body, nullptr, values.memory + 2, 1);
    std::vector<cudaGraph_t> bodies = add_conditional(&node, graph, &node, both, cudaGraphCondTypeIf, 2);
    add_add(bodies[0], nullptr, values.memory + 3, 1);
    add_add(bodies[1], nullptr, values.memory + 4, 1);
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 4; i++) {
        values.set(0, i & 1);
        values.set(1, i & 2);
        launch(exec, stream);
    }
    REQUIRE(values.get(2) == 2 && values.get(3) == 2 && values.get(4) == 2);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
}

// One body of several, or none; the bodies are captured.
static void choices(cudaStream_t stream)
{
    Values values;
    cudaGraph_t graph;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaGraphConditionalHandle handle = new_handle(graph, 0, 0);
    cudaGraphNode_t set = add_set(graph, nullptr, (void *)choose, handle, values.memory), node;
    std::vector<cudaGraph_t> bodies = add_conditional(&node, graph, &set, handle, cudaGraphCondTypeSwitch, 3);
    for (int i = 0; i < 3; i++) {
        CHECK(cudaStreamBeginCaptureToGraph(stream, bodies[i], nullptr, nullptr, 0, cudaStreamCaptureModeRelaxed));
        add<<<1, 1, 0, stream>>>(values.memory + 8 + i, i + 1);
        add<<<1, 1, 0, stream>>>(values.memory + 12, 1);
        cudaGraph_t same;
        CHECK(cudaStreamEndCapture(stream, &same));
        REQUIRE(same == bodies[i]);
    }
    size_t count = 0;
    CHECK(cudaGraphGetNodes(bodies[1], nullptr, &count));
    REQUIRE(count == 2);
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i : {0, 1, 2, 2, 3, 100}) {
        values.set(0, i);
        launch(exec, stream);
    }
    REQUIRE(values.get(8) == 1 && values.get(9) == 2 && values.get(10) == 6 && values.get(12) == 4);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
}

// A loop in a branch.
static void nested(cudaStream_t stream)
{
    Values values;
    cudaGraph_t graph;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaGraphConditionalHandle outer = new_handle(graph, 0, 0);
    cudaGraphNode_t set = add_set(graph, nullptr, (void *)choose, outer, values.memory), node;
    cudaGraph_t branch = add_conditional(&node, graph, &set, outer, cudaGraphCondTypeIf, 1)[0];
    cudaGraphConditionalHandle inner = new_handle(branch, 1, cudaGraphCondAssignDefault);
    cudaGraph_t loop = add_conditional(&node, branch, nullptr, inner, cudaGraphCondTypeWhile, 1)[0];
    cudaGraphNode_t first = add_add(loop, nullptr, values.memory + 2, 1);
    add_set(loop, &first, (void *)count_down, inner, values.memory + 1);
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    values.set(0, 0);
    values.set(1, 4);
    launch(exec, stream);
    REQUIRE(values.get(1) == 4 && values.get(2) == 0);
    values.set(0, 1);
    launch(exec, stream);
    REQUIRE(values.get(1) == 0 && values.get(2) == 4);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
}

static void refusals()
{
    cudaGraph_t graph;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaGraphConditionalHandle handle;
    EXPECT(cudaErrorInvalidValue, cudaGraphConditionalHandleCreate(&handle, graph, 0, 2));
    EXPECT(cudaErrorInvalidValue, cudaGraphConditionalHandleCreate(nullptr, graph, 0, 0));
    handle = new_handle(graph, 0, 0);
    cudaGraphNodeParams params = {};
    params.type = cudaGraphNodeTypeConditional;
    params.conditional.handle = handle;
    params.conditional.type = cudaGraphCondTypeWhile;
    cudaGraphNode_t node;
    for (unsigned size : {0u, 2u}) {
        params.conditional.size = size;
        EXPECT(cudaErrorInvalidValue, cudaGraphAddNode(&node, graph, nullptr, nullptr, 0, &params));
    }
    params.conditional.type = cudaGraphCondTypeIf;
    params.conditional.size = 3;
    EXPECT(cudaErrorInvalidValue, cudaGraphAddNode(&node, graph, nullptr, nullptr, 0, &params));
    cudaGetLastError();
    CHECK(cudaGraphDestroy(graph));
}

int main()
{
    CHECK(cudaFree(nullptr));
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    loops(stream);
    branches(stream);
    choices(stream);
    nested(stream);
    refusals();
    CHECK(cudaStreamDestroy(stream));
    return pass("IF, ELSE, WHILE and SWITCH");
}
