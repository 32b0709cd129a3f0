// Nodes of graphs, each asked about and changed: memory, events, graphs in graphs, copies, sets, functions; edges, clones,
// captures into graphs, attributes of launches, and user objects.
#include "entry.h"

#include <cstring>
#include <string>
#include <unistd.h>

constexpr int COUNT = 256;
constexpr size_t BYTES = COUNT * sizeof(int);

__global__ void add(int *values, int addend)
{
    values[threadIdx.x] += addend;
}

static cudaStream_t stream;
static CUcontext context;

static cudaGraph_t new_graph()
{
    cudaGraph_t graph;
    CHECK(cudaGraphCreate(&graph, 0));
    return graph;
}

static cudaGraphExec_t ready(cudaGraph_t graph)
{
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    return exec;
}

static void launch(cudaGraphExec_t exec)
{
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
}

static void run_once(cudaGraph_t graph)
{
    cudaGraphExec_t exec = ready(graph);
    launch(exec);
    CHECK(cudaGraphExecDestroy(exec));
}

static cudaGraphNode_t add_kernel(cudaGraph_t graph, const cudaGraphNode_t *after, int *values, int addend)
{
    void *arguments[] = {&values, &addend};
    cudaKernelNodeParams params = {};
    params.func = (void *)add;
    params.gridDim = dim3(1);
    params.blockDim = dim3(COUNT);
    params.kernelParams = arguments;
    cudaGraphNode_t node;
    CHECK(cudaGraphAddKernelNode(&node, graph, after, after ? 1 : 0, &params));
    return node;
}

static uint64_t memory_attribute(cudaGraphMemAttributeType which)
{
    uint64_t value = ~0ull;
    CHECK(cudaDeviceGetGraphMemAttribute(0, which, &value));
    return value;
}

static void memory()
{
    CHECK(cudaDeviceGraphMemTrim(0));
    REQUIRE(memory_attribute(cudaGraphMemAttrUsedMemCurrent) == 0);
    uint64_t zero = 0, one = 1;
    CHECK(cudaDeviceSetGraphMemAttribute(0, cudaGraphMemAttrUsedMemHigh, &zero));
    EXPECT(cudaErrorInvalidValue, cudaDeviceSetGraphMemAttribute(0, cudaGraphMemAttrUsedMemHigh, &one));
    EXPECT(cudaErrorInvalidValue, cudaDeviceSetGraphMemAttribute(0, cudaGraphMemAttrUsedMemCurrent, &zero));

    // Allocated, used and freed in the graph.
    cudaGraph_t graph = new_graph();
    cudaMemAllocNodeParams wanted = {};
    wanted.poolProps.allocType = cudaMemAllocationTypePinned;
    wanted.poolProps.location.type = cudaMemLocationTypeDevice;
    wanted.bytesize = BYTES;
    cudaGraphNode_t allocation, set, copy, freeing;
    int result[COUNT] = {};
    CHECK(cudaGraphAddMemAllocNode(&allocation, graph, nullptr, 0, &wanted));
    REQUIRE(wanted.dptr != nullptr);
    cudaMemsetParams fill = {};
    fill.dst = wanted.dptr;
    fill.value = 7;
    fill.elementSize = 4;
    fill.width = COUNT;
    fill.height = 1;
    CHECK(cudaGraphAddMemsetNode(&set, graph, &allocation, 1, &fill));
    CHECK(cudaGraphAddMemcpyNode1D(&copy, graph, &set, 1, result, wanted.dptr, BYTES, cudaMemcpyDeviceToHost));
    CHECK(cudaGraphAddMemFreeNode(&freeing, graph, &copy, 1, wanted.dptr));
    cudaMemAllocNodeParams got = {};
    CHECK(cudaGraphMemAllocNodeGetParams(allocation, &got));
    REQUIRE(got.dptr == wanted.dptr && got.bytesize == BYTES && got.poolProps.location.id == 0);
    void *freed = nullptr;
    CHECK(cudaGraphMemFreeNodeGetParams(freeing, &freed));
    REQUIRE(freed == wanted.dptr);
    EXPECT(cudaErrorInvalidValue, cudaGraphAddMemFreeNode(&copy, graph, &set, 1, wanted.dptr));
    EXPECT(cudaErrorInvalidValue, cudaGraphAddMemFreeNode(&copy, graph, &set, 1, (void *)0x123456000));
    cudaGraph_t clone;
    EXPECT(cudaErrorNotSupported, cudaGraphClone(&clone, graph));
    EXPECT(cudaErrorNotSupported, cudaGraphDestroyNode(freeing));
    cudaGraphExec_t exec = ready(graph);
    for (int i = 0; i < 3; i++) {
        memset(result, 0, sizeof result);
        launch(exec);
        REQUIRE(result[0] == 7 && result[COUNT - 1] == 7);
    }
    REQUIRE(memory_attribute(cudaGraphMemAttrUsedMemHigh) >= BYTES);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));

    // Freed by the program after each launch: the address stays the same.
    graph = new_graph();
    wanted.dptr = nullptr;
    CHECK(cudaGraphAddMemAllocNode(&allocation, graph, nullptr, 0, &wanted));
    fill.dst = wanted.dptr;
    CHECK(cudaGraphAddMemsetNode(&set, graph, &allocation, 1, &fill));
    exec = ready(graph);
    launch(exec);
    CHECK(cudaMemcpy(result, wanted.dptr, BYTES, cudaMemcpyDeviceToHost));
    REQUIRE(result[5] == 7);
    EXPECT(cudaErrorInvalidValue, cudaGraphLaunch(exec, stream)); // it is allocated already
    CHECK(cudaFreeAsync(wanted.dptr, stream));
    EXPECT(cudaErrorInvalidValue, cudaFreeAsync(wanted.dptr, stream));
    launch(exec);
    CHECK(cudaFree(wanted.dptr));
    launch(exec);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaFree(wanted.dptr));
    CHECK(cudaGraphDestroy(graph));

    // What cannot be had.
    graph = new_graph();
    cudaMemAllocNodeParams wrong = wanted;
    wrong.bytesize = 0;
    EXPECT(cudaErrorInvalidValue, cudaGraphAddMemAllocNode(&allocation, graph, nullptr, 0, &wrong));
    wrong = wanted;
    wrong.poolProps.allocType = cudaMemAllocationTypeInvalid;
    EXPECT(cudaErrorInvalidValue, cudaGraphAddMemAllocNode(&allocation, graph, nullptr, 0, &wrong));
    wrong = wanted;
    wrong.poolProps.location.id = 99;
    EXPECT(cudaErrorInvalidValue, cudaGraphAddMemAllocNode(&allocation, graph, nullptr, 0, &wrong));
    wrong = wanted;
    wrong.poolProps.handleTypes = cudaMemHandleTypePosixFileDescriptor;
    EXPECT(cudaErrorNotSupported, cudaGraphAddMemAllocNode(&allocation, graph, nullptr, 0, &wrong));
    cudaGetLastError();
    CHECK(cudaGraphDestroy(graph));

    // Captured.
    int *memory, *out;
    CHECK(cudaMalloc(&out, BYTES));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    CHECK(cudaMallocAsync(&memory, BYTES, stream));
    CHECK(cudaMemsetAsync(memory, 0, BYTES, stream));
    add<<<1, COUNT, 0, stream>>>(memory, 33);
    CHECK(cudaMemcpyAsync(out, memory, BYTES, cudaMemcpyDeviceToDevice, stream));
    CHECK(cudaFreeAsync(memory, stream));
    CHECK(cudaStreamEndCapture(stream, &graph));
    size_t count = 0;
    CHECK(cudaGraphGetNodes(graph, nullptr, &count));
    REQUIRE(count == 5);
    exec = ready(graph);
    launch(exec);
    launch(exec);
    CHECK(cudaMemcpy(result, out, BYTES, cudaMemcpyDeviceToHost));
    REQUIRE(result[0] == 33 && result[COUNT - 1] == 33);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaFree(out));
    CHECK(cudaDeviceGraphMemTrim(0));
    REQUIRE(memory_attribute(cudaGraphMemAttrUsedMemCurrent) == 0);
}

static void events(int *values)
{
    ENTRY(cuGraphEventRecordNodeGetEvent);
    cudaEvent_t first, second, found;
    CHECK(cudaEventCreateWithFlags(&first, cudaEventDisableTiming));
    CHECK(cudaEventCreateWithFlags(&second, cudaEventDisableTiming));
    cudaGraph_t graph = new_graph();
    cudaGraphNode_t kernel = add_kernel(graph, nullptr, values, 1), record, wait;
    CHECK(cudaGraphAddEventRecordNode(&record, graph, &kernel, 1, first));
    CHECK(cudaGraphAddEventWaitNode(&wait, graph, &record, 1, first));
    CHECK(cudaGraphEventRecordNodeGetEvent(record, &found));
    REQUIRE(found == first);
    CHECK(cudaGraphEventWaitNodeGetEvent(wait, &found));
    REQUIRE(found == first);
    CUevent driver_event;
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphEventRecordNodeGetEvent((CUgraphNode)wait, &driver_event));
    CHECK(cudaGraphEventRecordNodeSetEvent(record, second));
    CHECK(cudaGraphEventWaitNodeSetEvent(wait, second));
    CHECK(cudaGraphEventRecordNodeGetEvent(record, &found));
    REQUIRE(found == second);
    cudaGraphExec_t exec = ready(graph);
    CHECK(cudaGraphExecEventRecordNodeSetEvent(exec, record, first));
    CHECK(cudaGraphExecEventWaitNodeSetEvent(exec, wait, first));
    CHECK(cudaGraphUpload(exec, stream));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaEventSynchronize(first));
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaEventQuery(first));
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaEventDestroy(first));
    CHECK(cudaEventDestroy(second));
}

static void edges_and_clones(int *values)
{
    cudaGraph_t graph = new_graph();
    cudaGraphNode_t a = add_kernel(graph, nullptr, values, 1), b = add_kernel(graph, nullptr, values, 2), empty;
    CHECK(cudaGraphAddEmptyNode(&empty, graph, nullptr, 0));
    CHECK(cudaGraphAddDependencies(graph, &a, &b, nullptr, 1));
    EXPECT(cudaErrorInvalidValue, cudaGraphAddDependencies(graph, &a, &b, nullptr, 1)); // it is there
    EXPECT(cudaErrorInvalidValue, cudaGraphAddDependencies(graph, &a, &a, nullptr, 1));
    CHECK(cudaGraphAddDependencies(graph, &b, &empty, nullptr, 1));
    size_t count = 2;
    cudaGraphNode_t from[2], to[2];
    cudaGraphEdgeData data[2];
    CHECK(cudaGraphGetEdges(graph, from, to, data, &count));
    REQUIRE(count == 2);
    for (int i = 0; i < 2; i++) {
        REQUIRE((from[i] == a && to[i] == b) || (from[i] == b && to[i] == empty));
        REQUIRE(data[i].type == cudaGraphDependencyTypeDefault);
    }
    count = 2;
    CHECK(cudaGraphNodeGetDependentNodes(a, to, data, &count));
    REQUIRE(count == 1 && to[0] == b);

    cudaGraph_t clone;
    CHECK(cudaGraphClone(&clone, graph));
    cudaGraphNode_t found;
    CHECK(cudaGraphNodeFindInClone(&found, b, clone));
    REQUIRE(found != b);
    EXPECT(cudaErrorInvalidValue, cudaGraphNodeFindInClone(&found, b, graph));

    CHECK(cudaGraphRemoveDependencies(graph, &a, &b, nullptr, 1));
    EXPECT(cudaErrorInvalidValue, cudaGraphRemoveDependencies(graph, &a, &b, nullptr, 1));
    CHECK(cudaGraphDestroyNode(empty));
    count = 0;
    CHECK(cudaGraphGetNodes(graph, nullptr, &count));
    REQUIRE(count == 2);
    CHECK(cudaGraphGetNodes(clone, nullptr, &count));
    REQUIRE(count == 3);

    // Switched off and on in what was made of it.
    cudaGraphExec_t exec = ready(clone);
    CHECK(cudaGraphNodeFindInClone(&found, b, clone));
    unsigned enabled = 9;
    CHECK(cudaGraphNodeGetEnabled(exec, found, &enabled));
    REQUIRE(enabled == 1);
    CHECK(cudaGraphNodeSetEnabled(exec, found, 0));
    CHECK(cudaGraphNodeGetEnabled(exec, found, &enabled));
    REQUIRE(enabled == 0);
    EXPECT(cudaErrorInvalidValue, cudaGraphNodeSetEnabled(exec, b, 0)); // a node of another graph
    CHECK(cudaMemset(values, 0, BYTES));
    CHECK(cudaDeviceSynchronize());
    launch(exec);
    int value;
    CHECK(cudaMemcpy(&value, values, sizeof value, cudaMemcpyDeviceToHost));
    REQUIRE(value == 1);
    CHECK(cudaGraphNodeSetEnabled(exec, found, 1));
    launch(exec);
    CHECK(cudaMemcpy(&value, values, sizeof value, cudaMemcpyDeviceToHost));
    REQUIRE(value == 4);
    CHECK(cudaGraphExecDestroy(exec));

    // As text.
    char path[64];
    snprintf(path, sizeof path, "/tmp/vgpu-graph-nodes-%d.dot", (int)getpid());
    CHECK(cudaGraphDebugDotPrint(clone, path, 0));
    FILE *file = fopen(path, "r");
    REQUIRE(file != nullptr);
    char start[8] = {};
    REQUIRE(fread(start, 1, 7, file) == 7);
    fclose(file);
    unlink(path);
    REQUIRE(std::string(start) == "digraph");
    CHECK(cudaGraphDestroy(clone));
    CHECK(cudaGraphDestroy(graph));
}

static void graphs_in_graphs(int *values)
{
    cudaGraph_t inner = new_graph(), outer = new_graph(), found, other = new_graph();
    add_kernel(inner, nullptr, values, 10);
    cudaGraphNode_t child, moved;
    CHECK(cudaGraphAddChildGraphNode(&child, outer, nullptr, 0, inner));
    CHECK(cudaGraphChildGraphNodeGetGraph(child, &found));
    REQUIRE(found != inner);
    EXPECT(cudaErrorInvalidValue, cudaGraphDestroy(found)); // it is the node's
    CHECK(cudaMemset(values, 0, BYTES));
    CHECK(cudaDeviceSynchronize());
    cudaGraphExec_t exec = ready(outer);
    launch(exec);
    cudaGraph_t changed = new_graph();
    add_kernel(changed, nullptr, values, 1000);
    CHECK(cudaGraphExecChildGraphNodeSetParams(exec, child, changed));
    launch(exec);
    int value;
    CHECK(cudaMemcpy(&value, values, sizeof value, cudaMemcpyDeviceToHost));
    REQUIRE(value == 1010);
    EXPECT(cudaErrorGraphExecUpdateFailure, cudaGraphExecChildGraphNodeSetParams(exec, child, other));
    cudaGetLastError();
    CHECK(cudaGraphExecDestroy(exec));

    // Moved into the node.
    cudaGraphNodeParams params = {};
    params.type = cudaGraphNodeTypeGraph;
    params.graph.graph = inner;
    params.graph.ownership = cudaGraphChildGraphOwnershipMove;
    CHECK(cudaGraphAddNode(&moved, outer, &child, nullptr, 1, &params));
    CHECK(cudaGraphChildGraphNodeGetGraph(moved, &found));
    REQUIRE(found == inner);
    EXPECT(cudaErrorInvalidValue, cudaGraphDestroy(inner));
    run_once(outer);
    CHECK(cudaMemcpy(&value, values, sizeof value, cudaMemcpyDeviceToHost));
    REQUIRE(value == 1030);
    CHECK(cudaGraphDestroy(outer));
    CHECK(cudaGraphDestroy(changed));
    CHECK(cudaGraphDestroy(other));
}

static void note(void *text)
{
    *(std::string *)text += 'n';
}

static void note_other(void *text)
{
    *(std::string *)text += 'o';
}

// Nodes of each kind by the one structure, and changed by it.
static void any_kind(int *values)
{
    int *pinned;
    CHECK(cudaMallocHost(&pinned, 2 * BYTES));
    memset(pinned, 0, 2 * BYTES);
    std::string text;
    cudaGraph_t graph = new_graph();
    cudaGraphNode_t set, kernel, copy, host, empty;
    cudaGraphNodeParams params = {};
    params.type = cudaGraphNodeTypeMemset;
    params.memset.dst = values;
    params.memset.value = 1;
    params.memset.elementSize = 4;
    params.memset.width = COUNT;
    params.memset.height = 1;
    CHECK(cudaGraphAddNode(&set, graph, nullptr, nullptr, 0, &params));
    kernel = add_kernel(graph, &set, values, 5);
    CHECK(cudaGraphAddMemcpyNode1D(&copy, graph, &kernel, 1, pinned, values, BYTES, cudaMemcpyDeviceToHost));
    params = {};
    params.type = cudaGraphNodeTypeHost;
    params.host.fn = note;
    params.host.userData = &text;
    CHECK(cudaGraphAddNode(&host, graph, &copy, nullptr, 1, &params));
    params = {};
    params.type = cudaGraphNodeTypeEmpty;
    CHECK(cudaGraphAddNode(&empty, graph, &host, nullptr, 1, &params));
    CHECK(cudaGraphNodeSetParams(empty, &params));
    cudaGraphExec_t exec = ready(graph);
    launch(exec);
    REQUIRE(pinned[0] == 6 && pinned[COUNT - 1] == 6 && text == "n");

    // In what was made of the graph.
    params = {};
    params.type = cudaGraphNodeTypeHost;
    params.host.fn = note_other;
    params.host.userData = &text;
    CHECK(cudaGraphExecNodeSetParams(exec, host, &params));
    cudaMemsetParams fill = {};
    CHECK(cudaGraphMemsetNodeGetParams(set, &fill));
    REQUIRE(fill.dst == values && fill.value == 1 && fill.elementSize == 4 && fill.width == COUNT);
    fill.value = 2;
    CHECK(cudaGraphExecMemsetNodeSetParams(exec, set, &fill));
    CHECK(cudaGraphExecMemcpyNodeSetParams1D(exec, copy, pinned + COUNT, values, BYTES, cudaMemcpyDeviceToHost));
    launch(exec);
    REQUIRE(pinned[0] == 6 && pinned[COUNT] == 7 && text == "no");
    cudaHostNodeParams function = {note, &text};
    CHECK(cudaGraphExecHostNodeSetParams(exec, host, &function));
    launch(exec);
    REQUIRE(text == "non");
    CHECK(cudaGraphExecDestroy(exec));

    // In the graph.
    function.fn = note_other;
    CHECK(cudaGraphHostNodeSetParams(host, &function));
    CHECK(cudaGraphMemsetNodeSetParams(set, &fill));
    cudaMemcpy3DParms copied = {};
    CHECK(cudaGraphMemcpyNodeGetParams(copy, &copied));
    REQUIRE(copied.dstPtr.ptr == pinned && copied.srcPtr.ptr == values && copied.extent.width == BYTES);
    CHECK(cudaGraphMemcpyNodeSetParams1D(copy, pinned + COUNT, values, BYTES, cudaMemcpyDeviceToHost));
    memset(pinned, 0, 2 * BYTES);
    cudaGraphInstantiateParams how = {};
    CHECK(cudaGraphInstantiateWithParams(&exec, graph, &how));
    REQUIRE(how.result_out == cudaGraphInstantiateSuccess);
    unsigned long long flags = 9;
    CHECK(cudaGraphExecGetFlags(exec, &flags));
    REQUIRE(flags == 0);
    launch(exec);
    REQUIRE(pinned[0] == 0 && pinned[COUNT] == 7 && text == "nono");
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaFreeHost(pinned));
}

// Attributes of kernels in graphs and of launches.
static void attributes(int *values)
{
    cudaGraph_t graph = new_graph();
    cudaGraphNode_t a = add_kernel(graph, nullptr, values, 1), b = add_kernel(graph, nullptr, values, 1);
    cudaLaunchAttributeValue value = {};
    value.accessPolicyWindow.base_ptr = values;
    value.accessPolicyWindow.num_bytes = BYTES;
    value.accessPolicyWindow.hitRatio = 1;
    value.accessPolicyWindow.hitProp = cudaAccessPropertyPersisting;
    CHECK(cudaGraphKernelNodeSetAttribute(a, cudaLaunchAttributeAccessPolicyWindow, &value));
    value = {};
    CHECK(cudaGraphKernelNodeGetAttribute(a, cudaLaunchAttributeAccessPolicyWindow, &value));
    REQUIRE(value.accessPolicyWindow.base_ptr == values && value.accessPolicyWindow.num_bytes == BYTES);
    CHECK(cudaGraphKernelNodeCopyAttributes(b, a));
    value = {};
    CHECK(cudaGraphKernelNodeGetAttribute(b, cudaLaunchAttributeAccessPolicyWindow, &value));
    REQUIRE(value.accessPolicyWindow.base_ptr == values);
    for (cudaLaunchAttributeID id : {cudaLaunchAttributeProgrammaticEvent, cudaLaunchAttributeLaunchCompletionEvent})
        EXPECT(cudaErrorInvalidValue, cudaGraphKernelNodeGetAttribute(a, id, &value));
    cudaGetLastError();
    CHECK(cudaGraphDestroy(graph));

    cudaEvent_t event, timed;
    CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CHECK(cudaEventCreate(&timed));
    CHECK(cudaMemset(values, 0, BYTES));
    CHECK(cudaDeviceSynchronize());
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    config.gridDim = dim3(1);
    config.blockDim = dim3(COUNT);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    for (cudaLaunchAttributeID id : {cudaLaunchAttributeProgrammaticEvent, cudaLaunchAttributeLaunchCompletionEvent}) {
        attribute = {};
        attribute.id = id;
        attribute.val.launchCompletionEvent.event = event;
        CHECK(cudaLaunchKernelEx(&config, add, values, 1));
        CHECK(cudaEventSynchronize(event));
        attribute.val.launchCompletionEvent.event = timed;
        EXPECT(cudaErrorNotSupported, cudaLaunchKernelEx(&config, add, values, 1));
        attribute.val.launchCompletionEvent.event = nullptr;
        EXPECT(cudaErrorInvalidResourceHandle, cudaLaunchKernelEx(&config, add, values, 1));
        attribute.val.launchCompletionEvent.event = event;
        attribute.val.launchCompletionEvent.flags = 2;
        EXPECT(cudaErrorInvalidValue, cudaLaunchKernelEx(&config, add, values, 1));
    }
    attribute = {};
    attribute.id = cudaLaunchAttributeDeviceUpdatableKernelNode;
    EXPECT(cudaErrorNotSupported, cudaLaunchKernelEx(&config, add, values, 1)); // only in a capture
    attribute.id = cudaLaunchAttributeSynchronizationPolicy;
    EXPECT(cudaErrorInvalidValue, cudaLaunchKernelEx(&config, add, values, 1)); // of streams only
    cudaGetLastError();
    int value_found;
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaMemcpy(&value_found, values, sizeof value_found, cudaMemcpyDeviceToHost));
    REQUIRE(value_found == 2);
    CHECK(cudaEventDestroy(event));
    CHECK(cudaEventDestroy(timed));
}

// What a capture tells of itself, nodes added to it by hand, and captures into a graph that is there.
static void captures(int *values)
{
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    CHECK(cudaThreadExchangeStreamCaptureMode(&mode));
    REQUIRE(mode == cudaStreamCaptureModeGlobal);
    CHECK(cudaThreadExchangeStreamCaptureMode(&mode));
    REQUIRE(mode == cudaStreamCaptureModeRelaxed);

    CHECK(cudaMemset(values, 0, BYTES));
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    add<<<1, COUNT, 0, stream>>>(values, 1);
    cudaStreamCaptureStatus status;
    cudaGraph_t graph, ended;
    const cudaGraphNode_t *after;
    const cudaGraphEdgeData *data;
    unsigned long long id = 0;
    size_t count = 0;
    CHECK(cudaStreamGetCaptureInfo(stream, &status, &id, &graph, &after, &data, &count));
    REQUIRE(status == cudaStreamCaptureStatusActive && id != 0 && count == 1);
    cudaGraphNode_t first = after[0], by_hand = add_kernel(graph, &first, values, 10);
    CHECK(cudaStreamUpdateCaptureDependencies(stream, &by_hand, nullptr, 1, cudaStreamSetCaptureDependencies));
    CHECK(cudaStreamUpdateCaptureDependencies(stream, &first, nullptr, 1, cudaStreamAddCaptureDependencies));
    EXPECT(cudaErrorInvalidValue, cudaStreamUpdateCaptureDependencies(stream, &first, nullptr, 1, 5));
    CHECK(cudaStreamGetCaptureInfo(stream, &status, &id, &graph, &after, &data, &count));
    REQUIRE(count == 2);
    add<<<1, COUNT, 0, stream>>>(values, 100);
    EXPECT(cudaErrorIllegalState, cudaGraphDestroyNode(by_hand)); // not while it is captured
    EXPECT(cudaErrorIllegalState, cudaGraphDestroy(graph));
    cudaGetLastError();
    CHECK(cudaStreamEndCapture(stream, &ended));
    REQUIRE(ended == graph);
    EXPECT(cudaErrorIllegalState, cudaStreamUpdateCaptureDependencies(stream, &first, nullptr, 1, 0));
    run_once(graph);
    int value;
    CHECK(cudaMemcpy(&value, values, sizeof value, cudaMemcpyDeviceToHost));
    REQUIRE(value == 111);

    CHECK(cudaStreamBeginCaptureToGraph(stream, graph, &by_hand, nullptr, 1, cudaStreamCaptureModeRelaxed));
    add<<<1, COUNT, 0, stream>>>(values, 1000);
    EXPECT(cudaErrorIllegalState,
           cudaStreamBeginCaptureToGraph(stream, graph, nullptr, nullptr, 0, cudaStreamCaptureModeRelaxed));
    CHECK(cudaStreamEndCapture(stream, &ended));
    REQUIRE(ended == graph);
    cudaGetLastError();
    CHECK(cudaGraphGetNodes(graph, nullptr, &count));
    REQUIRE(count == 4);
    run_once(graph);
    CHECK(cudaGraphDestroy(graph));
}

static volatile int destroyed;

static void destroy(void *)
{
    __sync_fetch_and_add(&destroyed, 1);
}

static void wait_for_destroyed(int wanted)
{
    double start = seconds_now();
    while (destroyed < wanted && seconds_now() - start < 10)
        usleep(1000);
    REQUIRE(destroyed == wanted);
}

static void user_objects(int *values)
{
    cudaUserObject_t object;
    EXPECT(cudaErrorInvalidValue, cudaUserObjectCreate(&object, nullptr, destroy, 1, 0));
    EXPECT(cudaErrorInvalidValue, cudaUserObjectCreate(&object, nullptr, destroy, 0, cudaUserObjectNoDestructorSync));
    cudaGetLastError();
    CHECK(cudaUserObjectCreate(&object, nullptr, destroy, 2, cudaUserObjectNoDestructorSync));
    cudaGraph_t graph = new_graph();
    add_kernel(graph, nullptr, values, 1);
    CHECK(cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove));
    CHECK(cudaGraphRetainUserObject(graph, object, 1, 0));
    CHECK(cudaGraphReleaseUserObject(graph, object, 1));
    CHECK(cudaUserObjectRetain(object, 1));
    CHECK(cudaUserObjectRelease(object, 2));
    // The graph has the last reference, and what is made of it gets its own.
    cudaGraphExec_t exec = ready(graph);
    CHECK(cudaGraphDestroy(graph));
    launch(exec);
    usleep(10000);
    REQUIRE(destroyed == 0);
    CHECK(cudaGraphExecDestroy(exec));
    wait_for_destroyed(1);
}

int main()
{
    CHECK(cudaFree(nullptr));
    ENTRY(cuCtxGetCurrent);
    DRIVER(cuCtxGetCurrent(&context));
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    int *values;
    CHECK(cudaMalloc(&values, BYTES));
    memory();
    events(values);
    edges_and_clones(values);
    graphs_in_graphs(values);
    any_kind(values);
    attributes(values);
    captures(values);
    user_objects(values);
    CHECK(cudaFree(values));
    CHECK(cudaStreamDestroy(stream));
    return pass("memory, events, graphs, attributes, captures and user objects");
}
