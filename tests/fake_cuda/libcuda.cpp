// A stand-in for NVIDIA's driver library, libcuda.so.1: "device" memory is host memory, a stream is a thread.
//
// Enters: calls of the driver API. Leaves: its answers, with the rules that programs break: a current context for each
// thread, what a capture forbids, memory that belongs to somebody, errors that stay (state.hpp). Kernels come from
// kernel.hpp. Knows no Python. Not here: IPC, peers, textures, arrays, contexts but the primary ones, waits of a stream
// for an event, the ordering between the default stream and others. `fake_cuda_count` tells tests what happened.
//
// Environment: FAKE_CUDA_DEVICES (1), FAKE_CUDA_VERSION (13000), FAKE_CUDA_INTEGRATED (0), FAKE_CUDA_MEMORY_MB (1024),
// FAKE_CUDA_DELAY_US (0: how long each kernel takes at least).

#include "state.hpp"

#include <cstdio>
#include <dlfcn.h>
#include <sys/mman.h>
#include <utility>

namespace {

const std::set<std::string> ABSENT_NAMES = {
#define ABSENT(name) #name,
#include "absent.hpp"
#undef ABSENT
};

void* found(std::string symbol, int version) {
    static void* self = [] {
        Dl_info info;
        dladdr(reinterpret_cast<void*>(&found), &info);
        return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }();
    if (symbol == "cuGraphInstantiate" && version >= 12000) symbol += "WithFlags";
    // these took a context in CUDA 13; the other second versions are older than anything that asks
    const bool first = version < 13000 && (symbol == "cuCtxSynchronize" || symbol == "cuCtxGetDevice");
    for (const std::string& name : {symbol + (first ? "" : "_v2"), symbol})
        if (void* function = ABSENT_NAMES.count(name) ? nullptr : dlsym(self, name.c_str())) return function;
    return nullptr;
}

}  // namespace

#define ABSENT(name) DRIVER(name) { return NOT_SUPPORTED; }
#include "absent.hpp"

extern "C" long fake_cuda_count(const char* what) {
    Hold hold(gate);
    return counts[what];
}

// Driver and devices

DRIVER(cuGetProcAddress_v2, const char* symbol, void** function, int version, uint64_t, int* status) {
    *function = found(symbol, version);
    if (status) *status = *function ? 0 : 1;  // CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
    return *function ? OK : NOT_FOUND;
}
DRIVER(cuGetProcAddress, const char* symbol, void** function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}
struct Error { Result code; const char *name, *text; };
static const Error ERRORS[] = {
#define ERROR(name, code, cuda_name, text) {name, cuda_name, text},
#include "errors.hpp"
#undef ERROR
};
static Result described(int code, const char** text, const char* Error::*which) {
    for (const Error& error : ERRORS)
        if (error.code == code) return *text = error.*which, OK;
    return *text = nullptr, INVALID_VALUE;
}
DRIVER(cuGetErrorName, int code, const char** text) { return described(code, text, &Error::name); }
DRIVER(cuGetErrorString, int code, const char** text) { return described(code, text, &Error::text); }
DRIVER(cuDriverGetVersion, int* version) { return *version = setting("FAKE_CUDA_VERSION", 13000), OK; }
DRIVER(cuInit, unsigned flags) {
    REQUIRE(!flags, INVALID_VALUE);
    REQUIRE(process == 0 || process == getpid(), NOT_INITIALIZED);
    Hold hold(gate);
    const int devices = setting("FAKE_CUDA_DEVICES", 1);
    REQUIRE(devices > 0, NO_DEVICE);
    for (int one = contexts.size(); one < devices && process == 0; ++one) contexts.push_back({one});
    process = getpid();
    return OK;
}
#define ENTER_DEVICE(device, needs) ENTER(needs); REQUIRE(device >= 0 && device < int(contexts.size()), INVALID_DEVICE)
DRIVER(cuDeviceGetCount, int* count) { ENTER(EVEN_LOST); return *count = contexts.size(), OK; }
DRIVER(cuDeviceGet, int* device, int index) { ENTER_DEVICE(index, EVEN_LOST); return *device = index, OK; }
DRIVER(cuDeviceGetName, char* name, int bytes, int device) {
    ENTER_DEVICE(device, EVEN_LOST);
    return std::snprintf(name, bytes, "fake GPU"), OK;
}
DRIVER(cuDeviceGetPCIBusId, char* name, int bytes, int device) {
    ENTER_DEVICE(device, EVEN_LOST);
    return std::snprintf(name, bytes, "0000:%02X:00.0", device + 1), OK;
}
DRIVER(cuDeviceGetUuid_v2, char* uuid, int device) {
    ENTER_DEVICE(device, EVEN_LOST);
    return std::memset(uuid, 0, 16), uuid[15] = char(device + 1), OK;
}
DRIVER(cuDeviceGetUuid, char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }
DRIVER(cuDeviceTotalMem_v2, size_t* bytes, int device) {
    ENTER_DEVICE(device, EVEN_LOST);
    return *bytes = total_bytes(), OK;
}
DRIVER(cuDeviceComputeCapability, int* major, int* minor, int) { return *major = 9, *minor = 0, OK; }
DRIVER(cuDeviceGetAttribute, int* value, int attribute, int device) {
    ENTER_DEVICE(device, EVEN_LOST);
    const std::map<int, int> values = {  // CUdevice_attribute of cuda.h, as an H100 answers
        {1, 1024}, {10, 32}, {13, 1980000}, {16, 132},       // threads of a block, of a warp, kHz, multiprocessors
        {18, int(setting("FAKE_CUDA_INTEGRATED", 0))},       // INTEGRATED
        {19, 1}, {31, 1}, {33, device + 1}, {36, 2619000},   // MAP_HOST, CONCURRENT_KERNELS, PCI_BUS_ID, memory kHz
        {37, 5120}, {38, 52428800}, {40, 3}, {41, 1},        // bus width, L2, ASYNC_ENGINE_COUNT, UNIFIED_ADDRESSING
        {75, 9}, {76, 0}, {91, 1}, {99, 1},                  // compute capability, HOST_POINTER, HOST_REGISTER
    };
    REQUIRE(attribute > 0 && attribute < 200, INVALID_VALUE);
    return *value = values.count(attribute) ? values.at(attribute) : 0, OK;
}

// Contexts: the primary one of each device

DRIVER(cuDevicePrimaryCtxRetain, Context** context, int device) {
    ENTER_DEVICE(device, EVEN_LOST);
    *context = &contexts[device];
    if (!(*context)->retained++) (*context)->standard = opened(*context, 0);
    return counts["retained"]++, OK;
}
DRIVER(cuDevicePrimaryCtxRelease_v2, int device) {
    ENTER_DEVICE(device, EVEN_LOST);
    Context* context = &contexts[device];
    REQUIRE(context->retained, INVALID_CONTEXT);
    counts["released"]++;
    if (!--context->retained) destroyed(context, call.hold);
    return OK;
}
DRIVER(cuDevicePrimaryCtxGetState, int device, unsigned* flags, int* active) {
    ENTER_DEVICE(device, EVEN_LOST);
    return *flags = 0, *active = contexts[device].retained > 0, OK;
}
DRIVER(cuCtxPushCurrent_v2, Context* context) {
    ENTER(EVEN_LOST);
    REQUIRE(context, INVALID_CONTEXT);
    REQUIRE(context->retained, CONTEXT_IS_DESTROYED);
    return stack.push_back(context), OK;
}
DRIVER(cuCtxPopCurrent_v2, Context** context) {
    ENTER(EVEN_LOST);
    REQUIRE(current(), INVALID_CONTEXT);
    if (context) *context = current();
    return stack.pop_back(), OK;
}
DRIVER(cuCtxGetCurrent, Context** context) { ENTER(EVEN_LOST); return *context = current(), OK; }
DRIVER(cuCtxSetCurrent, Context* context) {
    ENTER(EVEN_LOST);
    REQUIRE(!context || context->retained, CONTEXT_IS_DESTROYED);
    if (!stack.empty()) stack.pop_back();
    if (context) stack.push_back(context);
    return OK;
}
DRIVER(cuCtxGetDevice, int* device) { ENTER(CONTEXT); return *device = current()->device, OK; }
DRIVER(cuCtxGetDevice_v2, int* device, Context* context) {
    ENTER(context ? INITIALIZED : CONTEXT);
    return *device = (context ? context : current())->device, OK;
}
DRIVER(cuCtxGetApiVersion, Context*, unsigned* version) { ENTER(CONTEXT); return *version = 3020, OK; }
DRIVER(cuCtxSynchronize) {
    ENTER(CONTEXT);
    for (Stream* stream : streams)
        if (stream->context == current() && stream->capture) return awaited(stream, call.hold);
    drain(call.hold);
    return lost ? LAUNCH_FAILED : OK;
}
DRIVER(cuCtxSynchronize_v2, Context*) { return cuCtxSynchronize(); }

// Memory

DRIVER(cuMemAlloc_v2, Address* address, size_t bytes) {
    ENTER(CONTEXT | SAFE);
    REQUIRE(bytes, INVALID_VALUE);
    REQUIRE(counts["bytes"] + bytes <= total_bytes(), OUT_OF_MEMORY);
    counts["bytes"] += bytes;
    return *address = allocated(device_memory, bytes), OK;
}
static Result freed(Ranges& ranges, Address address, bool registered, Result unknown, Hold& hold) {
    auto range = ranges.find(address);
    REQUIRE(range != ranges.end() && range->second.registered == registered, unknown);
    drain(hold);
    REQUIRE(!lost, LAUNCH_FAILED);
    return given_back(ranges, ranges.find(address)), OK;
}
DRIVER(cuMemFree_v2, Address address) {
    ENTER(CONTEXT | SAFE);
    return address ? freed(device_memory, address, false, INVALID_VALUE, call.hold) : OK;
}
DRIVER(cuMemGetInfo_v2, size_t* free, size_t* total) {
    ENTER(CONTEXT);
    return *total = total_bytes(), *free = *total - counts["bytes"], OK;
}
DRIVER(cuMemHostAlloc, Address* address, size_t bytes, unsigned) {
    ENTER(CONTEXT | SAFE);
    REQUIRE(bytes, INVALID_VALUE);
    counts["pinned"]++;
    return *address = allocated(pinned_memory, bytes), OK;
}
DRIVER(cuMemAllocHost_v2, Address* address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }
DRIVER(cuMemFreeHost, Address address) {
    ENTER(CONTEXT | SAFE);
    return freed(pinned_memory, address, false, INVALID_VALUE, call.hold);
}
DRIVER(cuMemHostRegister_v2, Address address, size_t bytes, unsigned) {
    ENTER(CONTEXT | SAFE);
    const Address page = address / 4096 * 4096;
    REQUIRE(bytes && !msync((void*)page, address + bytes - page, MS_ASYNC), INVALID_VALUE);  // not mapped
    auto after = pinned_memory.lower_bound(address);
    const bool overlaps = after != pinned_memory.end() && after->first < address + bytes;
    REQUIRE(!overlaps && !within(pinned_memory, address, 1), ALREADY_REGISTERED);
    pinned_memory[address] = {bytes, current(), true};
    return counts["pinned"]++, OK;
}
DRIVER(cuMemHostUnregister, Address address) {
    ENTER(CONTEXT | SAFE);
    return freed(pinned_memory, address, true, NOT_REGISTERED, call.hold);
}
DRIVER(cuMemHostGetDevicePointer_v2, Address* device, Address host, unsigned) {
    ENTER(CONTEXT);
    REQUIRE(within(pinned_memory, host, 1), INVALID_VALUE);
    return *device = host, OK;
}
DRIVER(cuMemcpyHtoDAsync_v2, Address to, Address from, size_t bytes, Stream* stream) {
    ENTER(CONTEXT);
    REQUIRE(on_device(to, bytes), INVALID_VALUE);
    return copied(to, from, bytes, stream_of(stream), from, call.hold);
}
DRIVER(cuMemcpyDtoHAsync_v2, Address to, Address from, size_t bytes, Stream* stream) {
    ENTER(CONTEXT);
    REQUIRE(on_device(from, bytes), INVALID_VALUE);
    return copied(to, from, bytes, stream_of(stream), to, call.hold);
}
DRIVER(cuMemcpyDtoDAsync_v2, Address to, Address from, size_t bytes, Stream* stream) {
    ENTER(CONTEXT);
    REQUIRE(on_device(to, bytes) && on_device(from, bytes), INVALID_VALUE);
    return copied(to, from, bytes, stream_of(stream), 0, call.hold);
}
static Result after_all(Result given) {  // a copy that waits, in the default stream
    if (given) return given;
    ENTER(CONTEXT);
    return awaited(current()->standard, call.hold);
}
DRIVER(cuMemcpyHtoD_v2, Address to, Address from, size_t bytes) {
    return after_all(cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr));
}
DRIVER(cuMemcpyDtoH_v2, Address to, Address from, size_t bytes) {
    return after_all(cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr));
}
DRIVER(cuMemsetD8Async, Address address, unsigned char value, size_t bytes, Stream* stream) {
    ENTER(CONTEXT);
    REQUIRE(on_device(address, bytes), INVALID_VALUE);
    return given(stream_of(stream), [=] { std::memset((void*)address, value, bytes); });
}

// Streams and events

DRIVER(cuStreamCreate, Stream** stream, unsigned flags) {
    ENTER(CONTEXT);
    return *stream = opened(current(), flags), counts["streams"]++, OK;
}
DRIVER(cuStreamDestroy_v2, Stream* stream) {
    ENTER(CONTEXT);
    REQUIRE(streams.count(stream) && stream != stream->context->standard, INVALID_HANDLE);
    return closed(stream, call.hold), counts["streams"]--, OK;
}
DRIVER(cuStreamSynchronize, Stream* stream) { ENTER(CONTEXT); return awaited(stream_of(stream), call.hold); }
DRIVER(cuStreamQuery, Stream* handle) {
    ENTER(CONTEXT);
    Stream* stream = stream_of(handle);
    if (!stream || stream->capture) return awaited(stream, call.hold);
    return idle(stream) ? OK : NOT_READY;
}
DRIVER(cuEventCreate, Event** event, unsigned flags) {
    ENTER(CONTEXT);
    auto made = std::make_shared<Event>();
    made->flags = flags;
    events[*event = made.get()] = made;
    return counts["events"]++, OK;
}
DRIVER(cuEventDestroy_v2, Event* event) {
    ENTER(CONTEXT);
    REQUIRE(events.erase(event), INVALID_HANDLE);
    return counts["events"]--, OK;
}
DRIVER(cuEventRecord, Event* handle, Stream* stream_handle) {
    ENTER(CONTEXT);
    Stream* stream = stream_of(stream_handle);
    REQUIRE(stream && events.count(handle), INVALID_HANDLE);
    std::shared_ptr<Event> event = events[handle];
    event->captured = stream->capture != nullptr;
    if (event->captured) return stream->capture->invalid ? CAPTURE_INVALIDATED : OK;  // marks a place, adds no node
    return given(stream, [event, turn = ++event->recorded] {
        event->cycles = fake::cycles(), event->happened = turn;
    });
}
DRIVER(cuEventQuery, Event* event) { ENTER(CONTEXT); return event_state(event); }
DRIVER(cuEventSynchronize, Event* handle) {
    ENTER(CONTEXT);
    const Result state = event_state(handle);
    if (state != NOT_READY) return state;
    const std::shared_ptr<Event> event = events[handle];
    const auto is_over = [&, turn = event->recorded] { return lost || event->happened >= turn; };
    if (event->flags & BLOCKING_SYNC) {
        progress.wait(call.hold, is_over);
    } else {  // as the real one does where there are enough cores
        call.hold.unlock();
        while (!is_over()) std::this_thread::yield();
        call.hold.lock();
    }
    return lost ? LAUNCH_FAILED : OK;
}
DRIVER(cuEventElapsedTime_v2, float* milliseconds, Event* first, Event* last) {
    ENTER(CONTEXT);
    for (Event* event : {first, last}) {
        REQUIRE(events.count(event) && !(event->flags & DISABLE_TIMING) && event->recorded, INVALID_HANDLE);
        if (const Result state = event_state(event)) return state;
    }
    return *milliseconds = (last->cycles - first->cycles) / 2e6f, OK;
}
DRIVER(cuEventElapsedTime, float* milliseconds, Event* first, Event* last) {
    return cuEventElapsedTime_v2(milliseconds, first, last);
}

// Captures and graphs

DRIVER(cuThreadExchangeStreamCaptureMode, int* mode) {
    REQUIRE(*mode >= GLOBAL && *mode <= RELAXED, INVALID_VALUE);
    return *mode = std::exchange(thread_mode, Mode(*mode)), OK;
}
DRIVER(cuStreamBeginCapture_v2, Stream* handle, int mode) {
    ENTER(CONTEXT);
    Stream* stream = stream_of(handle);
    REQUIRE(stream, INVALID_HANDLE);
    REQUIRE(stream != current()->standard, CAPTURE_UNSUPPORTED);
    REQUIRE(!stream->capture, ILLEGAL_STATE);
    stream->capture.reset(new Capture{Mode(mode), std::this_thread::get_id()});
    return OK;
}
DRIVER(cuStreamEndCapture, Stream* handle, Graph** graph) {
    ENTER(CONTEXT);
    *graph = nullptr;
    Stream* stream = stream_of(handle);
    REQUIRE(stream, INVALID_HANDLE);
    REQUIRE(stream->capture, ILLEGAL_STATE);
    const bool mine = stream->capture->owner == std::this_thread::get_id();
    REQUIRE(mine || stream->capture->mode == RELAXED, CAPTURE_WRONG_THREAD);
    const auto capture = std::move(stream->capture);
    REQUIRE(!capture->invalid, CAPTURE_INVALIDATED);
    graphs.insert(*graph = new Graph{std::move(capture->nodes)});
    return counts["graphs"]++, OK;
}
DRIVER(cuStreamIsCapturing, Stream* handle, int* status) {  // 0 no, 1 yes, 2 it is spoilt
    ENTER(CONTEXT);
    Stream* stream = stream_of(handle);
    REQUIRE(stream, INVALID_HANDLE);
    return *status = stream->capture ? 1 + stream->capture->invalid : 0, OK;
}
DRIVER(cuGraphGetNodes, Graph* graph, void* nodes, size_t* count) {  // their number alone
    ENTER(INITIALIZED);
    REQUIRE(graphs.count(graph) && !nodes, INVALID_VALUE);
    return *count = graph->nodes.size(), OK;
}
DRIVER(cuGraphInstantiateWithFlags, Executable** executable, Graph* graph, uint64_t) {
    ENTER(CONTEXT);
    REQUIRE(graphs.count(graph), INVALID_VALUE);
    executables.insert(*executable = new Executable{std::make_shared<std::vector<Work>>(graph->nodes)});
    return counts["executables"]++, OK;
}
DRIVER(cuGraphDestroy, Graph* graph) {
    ENTER(INITIALIZED);
    REQUIRE(graphs.erase(graph), INVALID_VALUE);
    delete graph;
    return counts["graphs"]--, OK;
}
DRIVER(cuGraphExecDestroy, Executable* executable) {
    ENTER(INITIALIZED);
    REQUIRE(executables.erase(executable), INVALID_VALUE);
    delete executable;
    return counts["executables"]--, OK;
}
DRIVER(cuGraphLaunch, Executable* executable, Stream* stream) {
    ENTER(CONTEXT);
    REQUIRE(executables.count(executable), INVALID_VALUE);
    counts["launches"]++;
    return given(stream_of(stream), [nodes = executable->nodes] {
        for (const Work& work : *nodes) work();
    });
}

// Kernels

DRIVER(cuModuleLoadData, void** module, const void*) { ENTER(CONTEXT | SAFE); return *module = &contexts, OK; }
DRIVER(cuModuleLoadDataEx, void** module, const void* image, unsigned, void*, void*) {
    return cuModuleLoadData(module, image);
}
DRIVER(cuModuleUnload, void* module) { ENTER(CONTEXT); REQUIRE(module == &contexts, INVALID_HANDLE); return OK; }
DRIVER(cuModuleGetFunction, const fake::Bind** function, void* module, const char* name) {
    ENTER(CONTEXT);
    REQUIRE(module == &contexts, INVALID_HANDLE);
    auto kernel = fake::kernels().find(name);
    REQUIRE(kernel != fake::kernels().end(), NOT_FOUND);
    return *function = &kernel->second, OK;
}
DRIVER(cuFuncSetBlockShape, const fake::Bind*, int, int, int) { return OK; }  // pycuda's, before each launch

static void run_grid(const Work& thread, fake::Index grid, fake::Index block) {
    usleep(setting("FAKE_CUDA_DELAY_US", 0));
    gridDim = grid, blockDim = block, fake::launched = fake::cycles();
    const size_t blocks = size_t(grid.x) * grid.y * grid.z, threads = size_t(block.x) * block.y * block.z;
    const auto at = [](unsigned one, fake::Index size) {
        return fake::Index{one % size.x, one / size.x % size.y, one / size.x / size.y};
    };
    for (size_t one = 0; one < blocks * threads; ++one) {
        blockIdx = at(one / threads, grid), threadIdx = at(one % threads, block);
        fake::clock_reads = 0;
        thread();
    }
}

DRIVER(cuLaunchKernel, const fake::Bind* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
       unsigned block_y, unsigned block_z, unsigned, Stream* stream, void** pointers, void** extra) {
    ENTER(CONTEXT);
    const fake::Index grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    const size_t threads = size_t(block_x) * block_y * block_z;
    REQUIRE(function, INVALID_HANDLE);
    REQUIRE(threads && threads <= 1024 && grid_x && grid_y && grid_z, INVALID_VALUE);
    const char* buffer = nullptr;
    for (; !pointers && extra && *extra; extra += 2)  // 1 is CU_LAUNCH_PARAM_BUFFER_POINTER, 0 the end
        if (Address(*extra) == 1) buffer = static_cast<const char*>(extra[1]);
    const Work thread = (*function)(pointers, buffer);
    counts["kernels"]++;
    return given(stream_of(stream), [=] { run_grid(thread, grid, block); });
}
