// Waiting for and writing values of memory in stream order: between streams, from the host, in batches, in graphs, and what
// is refused.
#include "entry.h"

#include <csignal>
#include <cstring>

struct Entries {
    decltype(cuStreamWaitValue32) *wait32;
    decltype(cuStreamWaitValue64) *wait64;
    decltype(cuStreamWriteValue32) *write32;
    decltype(cuStreamWriteValue64) *write64;
    decltype(cuStreamBatchMemOp) *batch;
    decltype(cuStreamWriteValue32) *first_write32;
    decltype(cuStreamWriteValue64) *first_write64;
    decltype(cuStreamWaitValue32) *first_wait32;
    decltype(cuStreamWaitValue64) *first_wait64;
    decltype(cuStreamBatchMemOp) *first_batch;
};

static Entries entries()
{
    Entries e;
    find_entry(e.wait32, "cuStreamWaitValue32");
    find_entry(e.wait64, "cuStreamWaitValue64");
    find_entry(e.write32, "cuStreamWriteValue32");
    find_entry(e.write64, "cuStreamWriteValue64");
    find_entry(e.batch, "cuStreamBatchMemOp");
    // Before CUDA 11.7 the names meant the first versions, which a driver has to be told to have.
    find_entry(e.first_write32, "cuStreamWriteValue32", 11000);
    find_entry(e.first_write64, "cuStreamWriteValue64", 11000);
    find_entry(e.first_wait32, "cuStreamWaitValue32", 11000);
    find_entry(e.first_wait64, "cuStreamWaitValue64", 11000);
    find_entry(e.first_batch, "cuStreamBatchMemOp", 11000);
    return e;
}

__global__ void add(unsigned *value, unsigned addend)
{
    *value += addend;
}

// A wait that is never met would hang the program: the alarm says in which part. Between waits every call returns within milliseconds.
static const char *volatile part = "start";

static void begin(const char *name)
{
    part = name;
    alarm(20);
}

static void too_late(int)
{
    fail("nothing goes on: %s", part);
}

static cudaStream_t new_stream()
{
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

static CUdeviceptr at(const void *place)
{
    return (CUdeviceptr)place;
}

static unsigned read(const unsigned *place)
{
    unsigned value;
    CHECK(cudaMemcpy(&value, place, sizeof value, cudaMemcpyDeviceToHost));
    return value;
}

// A stream waits until another one has written; what comes after the wait sees what came before the write.
static void between_streams(const Entries &e, unsigned *memory)
{
    cudaStream_t waiter = new_stream(), writer = new_stream(), third = new_stream();
    unsigned *flag = memory, *value = memory + 1;
    CHECK(cudaMemset(memory, 0, 64));
    CHECK(cudaDeviceSynchronize());
    begin("a stream waits for another: the kernel behind the wait");
    DRIVER(e.wait32(waiter, at(flag), 3, CU_STREAM_WAIT_VALUE_EQ));
    add<<<1, 1, 0, waiter>>>(value, 1000);
    usleep(20000);
    EXPECT(cudaErrorNotReady, cudaStreamQuery(waiter));
    begin("a stream waits for another: a third stream");
    add<<<1, 1, 0, third>>>(memory + 2, 1);
    CHECK(cudaStreamSynchronize(third));
    begin("a stream waits for another: the write");
    add<<<1, 1, 0, writer>>>(value, 7);
    DRIVER(e.write32(writer, at(flag), 3, CU_STREAM_WRITE_VALUE_DEFAULT));
    CHECK(cudaStreamSynchronize(waiter));
    REQUIRE(read(value) == 1007 && read(flag) == 3);

    begin("conditions that are met"); // each, by what is there
    DRIVER(e.wait32(waiter, at(flag), 2, CU_STREAM_WAIT_VALUE_GEQ));
    DRIVER(e.wait32(waiter, at(flag), 3, CU_STREAM_WAIT_VALUE_GEQ));
    DRIVER(e.wait32(waiter, at(flag), 0xfffffff0u, CU_STREAM_WAIT_VALUE_GEQ)); // the difference counts, with its sign
    DRIVER(e.wait32(waiter, at(flag), 2, CU_STREAM_WAIT_VALUE_AND));
    DRIVER(e.wait32(waiter, at(flag), 4, CU_STREAM_WAIT_VALUE_NOR));
    CHECK(cudaStreamSynchronize(waiter));

    begin("64 bits");
    uint64_t *wide = (uint64_t *)(memory + 4);
    DRIVER(e.wait64(waiter, at(wide), 1ull << 40, CU_STREAM_WAIT_VALUE_GEQ));
    add<<<1, 1, 0, waiter>>>(value, 1);
    DRIVER(e.write64(writer, at(wide), (1ull << 40) - 1, 0));
    CHECK(cudaStreamSynchronize(writer));
    EXPECT(cudaErrorNotReady, cudaStreamQuery(waiter));
    DRIVER(e.write64(writer, at(wide), (1ull << 40) + 5, 0));
    CHECK(cudaStreamSynchronize(waiter));
    uint64_t found;
    CHECK(cudaMemcpy(&found, wide, sizeof found, cudaMemcpyDeviceToHost));
    REQUIRE(found == (1ull << 40) + 5 && read(value) == 1008);
    CHECK(cudaStreamDestroy(waiter));
    CHECK(cudaStreamDestroy(writer));
    CHECK(cudaStreamDestroy(third));
}

// The host writes what a stream waits for, and sees what a stream has written.
static void with_the_host(const Entries &e, unsigned *memory)
{
    cudaStream_t stream = new_stream();
    unsigned *pinned;
    CHECK(cudaMallocHost(&pinned, 4096));
    memset(pinned, 0, 4096);
    CHECK(cudaMemset(memory, 0, 64));
    CHECK(cudaDeviceSynchronize());
    begin("a stream waits for the host");
    DRIVER(e.wait32(stream, at(pinned), 1, CU_STREAM_WAIT_VALUE_EQ));
    add<<<1, 1, 0, stream>>>(memory, 5);
    DRIVER(e.write32(stream, at(pinned + 1), 42, 0));
    usleep(10000);
    EXPECT(cudaErrorNotReady, cudaStreamQuery(stream));
    REQUIRE(*(volatile unsigned *)(pinned + 1) == 0);
    *(volatile unsigned *)pinned = 1;
    double start = seconds_now();
    while (*(volatile unsigned *)(pinned + 1) != 42)
        if (seconds_now() - start > 10)
            fail("the host does not see what the stream has written");
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(read(memory) == 5);
    CHECK(cudaFreeHost(pinned));
    CHECK(cudaStreamDestroy(stream));
}

static CUstreamBatchMemOpParams operation(CUstreamBatchMemOpType type, const void *place, uint64_t value)
{
    CUstreamBatchMemOpParams op;
    memset(&op, 0, sizeof op);
    op.operation = type;
    op.writeValue.address = at(place); // waits have it in the same place
    op.writeValue.value64 = value;
    return op;
}

static void batches(const Entries &e, unsigned *memory)
{
    cudaStream_t stream = new_stream();
    CHECK(cudaMemset(memory, 0, 2048));
    CHECK(cudaDeviceSynchronize());
    begin("batches");
    std::vector<CUstreamBatchMemOpParams> list;
    for (unsigned i = 0; i < 255; i++)
        list.push_back(operation(CU_STREAM_MEM_OP_WRITE_VALUE_32, memory + i, i + 1));
    DRIVER(e.batch(stream, 255, list.data(), 0));
    CHECK(cudaStreamSynchronize(stream));
    std::vector<unsigned> found(255);
    CHECK(cudaMemcpy(found.data(), memory, found.size() * 4, cudaMemcpyDeviceToHost));
    for (unsigned i = 0; i < 255; i++)
        REQUIRE(found[i] == i + 1);
    list.resize(2);
    list[0] = operation(CU_STREAM_MEM_OP_WAIT_VALUE_32, memory + 9, 10);
    list[0].waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
    list[1] = operation(CU_STREAM_MEM_OP_WRITE_VALUE_64, memory + 10, 0x100000002ull);
    DRIVER(e.batch(stream, 2, list.data(), 0));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(read(memory + 10) == 2 && read(memory + 11) == 1);

    DRIVER(e.batch(stream, 0, list.data(), 0));
    list.assign(256, operation(CU_STREAM_MEM_OP_WRITE_VALUE_32, memory, 1));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, e.batch(stream, 256, list.data(), 0));
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, e.batch(stream, 1, list.data(), 1));
    list[0].operation = (CUstreamBatchMemOpType)9;
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, e.batch(stream, 1, list.data(), 0));
    list[0] = operation(CU_STREAM_MEM_OP_WRITE_VALUE_32, nullptr, 1);
    DRIVER_EXPECT(CUDA_ERROR_INVALID_VALUE, e.batch(stream, 1, list.data(), 0));
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaStreamDestroy(stream));
}

static void refusals(const Entries &e, unsigned *memory)
{
    cudaStream_t stream = new_stream();
    static unsigned pageable[16];
    begin("what is refused");
    CUdeviceptr place = at(memory);
    CUresult wrong = CUDA_ERROR_INVALID_VALUE;
    DRIVER_EXPECT(wrong, e.write32(stream, 0, 1, 0));
    DRIVER_EXPECT(wrong, e.write32(stream, place + 2, 1, 0));
    DRIVER_EXPECT(wrong, e.write32(stream, 0x1234560000ull, 1, 0));
    DRIVER_EXPECT(wrong, e.write32(stream, at(pageable), 1, 0));
    DRIVER_EXPECT(wrong, e.write32(stream, place, 1, 1));
    DRIVER_EXPECT(wrong, e.write32(stream, place, 1, 2));
    DRIVER_EXPECT(wrong, e.wait32(stream, place, 1, 4));
    DRIVER_EXPECT(wrong, e.write64(stream, place + 4, 1, 0));
    DRIVER_EXPECT(wrong, e.wait32(stream, 0, 1, 0));
    DRIVER_EXPECT(wrong, e.wait32(stream, place + 1, 1, 0));
    DRIVER_EXPECT(wrong, e.wait64(stream, place + 4, 1, 0));
    CHECK(cudaStreamSynchronize(stream));

    CUresult not_enabled = CUDA_ERROR_NOT_SUPPORTED;
    DRIVER_EXPECT(not_enabled, e.first_write32(stream, place, 1, 0));
    DRIVER_EXPECT(not_enabled, e.first_write64(stream, place, 1, 0));
    DRIVER_EXPECT(not_enabled, e.first_wait32(stream, place, 1, 0));
    DRIVER_EXPECT(not_enabled, e.first_wait64(stream, place, 1, 0));
    CUstreamBatchMemOpParams op = operation(CU_STREAM_MEM_OP_WRITE_VALUE_32, memory, 1);
    DRIVER_EXPECT(not_enabled, e.first_batch(stream, 1, &op, 0));
    CHECK(cudaStreamDestroy(stream));
}

// Nodes of operations, added and captured.
static void nodes(const Entries &e, unsigned *memory)
{
    ENTRY(cuGraphAddBatchMemOpNode);
    ENTRY(cuGraphBatchMemOpNodeGetParams);
    ENTRY(cuGraphBatchMemOpNodeSetParams);
    ENTRY(cuGraphExecBatchMemOpNodeSetParams);
    ENTRY(cuCtxGetCurrent);
    ENTRY(cuGraphNodeGetType);
    begin("nodes of graphs");
    CUcontext context;
    DRIVER(cuCtxGetCurrent(&context));
    cudaStream_t stream = new_stream();
    CHECK(cudaMemset(memory, 0, 64));
    CHECK(cudaDeviceSynchronize());
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaGraphCreate(&graph, 0));
    CUstreamBatchMemOpParams ops[2] = {operation(CU_STREAM_MEM_OP_WRITE_VALUE_32, memory, 5),
                                       operation(CU_STREAM_MEM_OP_WRITE_VALUE_64, memory + 2, 6)};
    CUDA_BATCH_MEM_OP_NODE_PARAMS params = {context, 2, ops, 0};
    CUgraphNode node;
    DRIVER(cuGraphAddBatchMemOpNode(&node, graph, nullptr, 0, &params));
    CUgraphNodeType type;
    DRIVER(cuGraphNodeGetType(node, &type)); // the runtime does not know the type
    REQUIRE(type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
    CUDA_BATCH_MEM_OP_NODE_PARAMS got;
    DRIVER(cuGraphBatchMemOpNodeGetParams(node, &got));
    REQUIRE(got.count == 2 && got.flags == 0 && got.paramArray[0].writeValue.value == 5);
    REQUIRE(got.paramArray[1].operation == CU_STREAM_MEM_OP_WRITE_VALUE_64);
    REQUIRE(got.paramArray[1].writeValue.address == at(memory + 2));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(read(memory) == 5 && read(memory + 2) == 6);
    ops[0].writeValue.value = 15;
    DRIVER(cuGraphExecBatchMemOpNodeSetParams(exec, node, &params));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(read(memory) == 15);
    ops[0].writeValue.value = 25;
    DRIVER(cuGraphBatchMemOpNodeSetParams(node, &params));
    DRIVER(cuGraphBatchMemOpNodeGetParams(node, &got));
    REQUIRE(got.paramArray[0].writeValue.value == 25);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));

    begin("captured operations");
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    DRIVER(e.write32(stream, at(memory + 4), 44, 0));
    DRIVER(e.wait32(stream, at(memory + 4), 44, CU_STREAM_WAIT_VALUE_EQ));
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    REQUIRE(read(memory + 4) == 0);
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    REQUIRE(read(memory + 4) == 44);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
}

int main()
{
    signal(SIGALRM, too_late);
    begin("start");
    CHECK(cudaFree(nullptr));
    Entries e = entries();
    DeviceArray<unsigned> memory(1024);
    // The first launch of a kernel loads its code, which may wait for all that the context has to do: not behind a wait, then.
    add<<<1, 1>>>(memory.get(), 0);
    CHECK(cudaDeviceSynchronize());
    between_streams(e, memory.get());
    with_the_host(e, memory.get());
    batches(e, memory.get());
    refusals(e, memory.get());
    nodes(e, memory.get());
    return pass("32 and 64 bits, batches and graphs");
}
