// What the stand-in for the driver knows: contexts, memory, streams with their threads, events, captures; its rules.
//
// One lock guards everything; work in streams runs outside it. Knows no entry points: libcuda.cpp has those.
#pragma once

#include "kernel.hpp"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <unistd.h>
#include <vector>

namespace {

using fake::Work;
using Address = uintptr_t;
using Hold = std::unique_lock<std::mutex>;

enum Result {
#define ERROR(name, code, cuda_name, text) name = code,
#include "errors.hpp"
#undef ERROR
};

enum Mode { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };  // CUstreamCaptureMode
enum Needs { INITIALIZED = 0, CONTEXT = 1, SAFE = 2, EVEN_LOST = 4 };
const unsigned NON_BLOCKING = 1, BLOCKING_SYNC = 1, DISABLE_TIMING = 2;

struct Context;
struct Graph { std::vector<Work> nodes; };
struct Executable { std::shared_ptr<std::vector<Work>> nodes; };
struct Capture { Mode mode; std::thread::id owner; bool invalid = false; std::vector<Work> nodes; };
struct Stream {
    Context* context;
    unsigned flags;
    std::deque<Work> queue;
    bool busy = false, closing = false;
    std::unique_ptr<Capture> capture;
    std::thread thread;
};
struct Event {
    unsigned flags;
    bool captured = false;
    uint64_t recorded = 0;              // how often it was given to a stream
    std::atomic<uint64_t> happened{0};  // the last of those that the stream has reached
    long long cycles = 0;
};
struct Context { int device; int retained = 0; Stream* standard = nullptr; };  // the default stream
struct Range { size_t bytes; Context* context; bool registered = false; };
using Ranges = std::map<Address, Range>;

// Never destroyed: streams' threads still use them while the process exits.
auto& gate = *new std::mutex;
auto& progress = *new std::condition_variable;  // something was given to a stream or done by one
auto& contexts = *new std::vector<Context>;
auto& streams = *new std::set<Stream*>;
auto& events = *new std::map<Event*, std::shared_ptr<Event>>;
auto& graphs = *new std::set<Graph*>;
auto& executables = *new std::set<Executable*>;
auto& device_memory = *new Ranges;
auto& pinned_memory = *new Ranges;
auto& counts = *new std::map<std::string, long>;
std::atomic<bool> lost{false};
std::atomic<pid_t> process{0};  // which called cuInit
thread_local std::vector<Context*> stack;
thread_local Mode thread_mode = GLOBAL;

long setting(const char* name, long otherwise) {
    const char* text = std::getenv(name);
    return text && *text ? std::atol(text) : otherwise;
}
size_t total_bytes() { return size_t(setting("FAKE_CUDA_MEMORY_MB", 1024)) << 20; }
Context* current() { return stack.empty() ? nullptr : stack.back(); }

// A thread may not do what could touch a capture: its own, or one of others in global mode; it spoils that capture.
Result unless_captured() {
    if (thread_mode == RELAXED) return OK;
    Result result = OK;
    for (Stream* stream : streams) {
        Capture* capture = stream->capture.get();
        if (!capture || capture->mode == RELAXED) continue;
        const bool mine = capture->owner == std::this_thread::get_id();
        if (!mine && (capture->mode != GLOBAL || thread_mode != GLOBAL)) continue;
        capture->invalid = true;
        result = CAPTURE_UNSUPPORTED;
    }
    return result;
}

// Holds the lock as long as it lives; `error` says why the call may not go on.
struct Call {
    Hold hold{gate, std::defer_lock};
    Result error;

    explicit Call(int needs) : error(NOT_INITIALIZED) {
        if (process != getpid()) return;  // no cuInit yet, or a fork of the process that called it
        hold.lock();
        error = refusal(needs);
    }
    static Result refusal(int needs) {
        if (lost && !(needs & EVEN_LOST)) return LAUNCH_FAILED;
        if ((needs & CONTEXT) && !current()) return INVALID_CONTEXT;
        if ((needs & CONTEXT) && !current()->retained) return CONTEXT_IS_DESTROYED;
        return needs & SAFE ? unless_captured() : OK;
    }
};
#define DRIVER(name, ...) extern "C" Result name(__VA_ARGS__)
#define ENTER(needs) Call call(needs); if (call.error) return call.error
#define REQUIRE(condition, otherwise) if (!(condition)) return otherwise

void work_off(Stream* stream) {
    Hold hold(gate);
    while (true) {
        progress.wait(hold, [&] { return stream->closing || !stream->queue.empty(); });
        if (stream->queue.empty()) return;
        Work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->busy = true;
        hold.unlock();
        try {
            if (!lost) work();
        } catch (const fake::Trap&) {
            lost = true;
        }
        hold.lock();
        stream->busy = false;
        progress.notify_all();
    }
}

Stream* opened(Context* context, unsigned flags) {
    auto* stream = new Stream{context, flags};
    stream->thread = std::thread(work_off, stream);
    streams.insert(stream);
    return stream;
}

void closed(Stream* stream, Hold& hold) {  // after its work
    stream->closing = true;
    streams.erase(stream);
    progress.notify_all();
    hold.unlock();
    stream->thread.join();
    hold.lock();
    delete stream;
}

Stream* stream_of(Stream* handle) {  // of the current context; none where it has no such stream
    if (Address(handle) <= 2) return current()->standard;  // CU_STREAM_LEGACY is 1, CU_STREAM_PER_THREAD 2
    return streams.count(handle) && handle->context == current() ? handle : nullptr;
}

Result given(Stream* stream, Work work) {
    if (!stream) return INVALID_HANDLE;
    if (Capture* capture = stream->capture.get()) {
        if (capture->invalid) return CAPTURE_INVALIDATED;
        capture->nodes.push_back(std::move(work));
        return OK;
    }
    for (Stream* other : streams)  // the default stream would wait for all those that block
        if (stream == stream->context->standard && other->capture && !(other->flags & NON_BLOCKING))
            return other->capture->invalid = true, CAPTURE_IMPLICIT;
    stream->queue.push_back(std::move(work));
    progress.notify_all();
    return OK;
}

bool idle(const Stream* stream) { return stream->queue.empty() && !stream->busy; }

Result awaited(Stream* stream, Hold& hold) {
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) return stream->capture->invalid = true, CAPTURE_UNSUPPORTED;
    progress.wait(hold, [&] { return lost || idle(stream); });
    return lost ? LAUNCH_FAILED : OK;
}

void drain(Hold& hold) {  // what a free waits for
    progress.wait(hold, [] {
        for (Stream* stream : streams)
            if (!lost && !idle(stream)) return false;
        return true;
    });
}

bool within(const Ranges& ranges, Address address, size_t bytes) {
    auto after = ranges.upper_bound(address);
    if (after == ranges.begin()) return false;
    auto range = std::prev(after);
    return address - range->first <= range->second.bytes && bytes <= range->second.bytes - (address - range->first);
}
bool on_device(Address address, size_t bytes) {
    return within(device_memory, address, bytes) || within(pinned_memory, address, bytes);
}

Address allocated(Ranges& ranges, size_t bytes) {
    const size_t whole = (bytes + 4095) / 4096 * 4096;
    void* memory = std::aligned_alloc(4096, whole);
    std::memset(memory, 0xCD, whole);
    ranges[Address(memory)] = {bytes, current()};
    return Address(memory);
}

void given_back(Ranges& ranges, Ranges::iterator range) {
    if (&ranges == &device_memory) counts["bytes"] -= range->second.bytes;
    counts["pinned"] -= &ranges == &pinned_memory;
    if (!range->second.registered) std::free(reinterpret_cast<void*>(range->first));
    ranges.erase(range);
}

void destroyed(Context* context, Hold& hold) {
    for (Stream* stream : std::set<Stream*>(streams))
        if (stream->context == context) closed(stream, hold);
    for (Ranges* ranges : {&device_memory, &pinned_memory})
        for (auto range = ranges->begin(); range != ranges->end();) {
            auto one = range++;
            if (one->second.context == context) given_back(*ranges, one);
        }
}

// Pageable memory is read before the call returns, and written before it returns.
Result copied(Address to, Address from, size_t bytes, Stream* stream, Address host, Hold& hold) {
    const bool pageable = host && !within(pinned_memory, host, bytes);
    counts["pageable"] += pageable;
    if (pageable && host == from && stream && !stream->capture) {
        std::string bytes_now(reinterpret_cast<char*>(from), bytes);
        return given(stream, [=] { std::memcpy(reinterpret_cast<void*>(to), bytes_now.data(), bytes); });
    }
    Result result = given(stream, [=] { std::memmove((void*)to, (void*)from, bytes); });
    return result || !pageable || host == from || stream->capture ? result : awaited(stream, hold);
}

Result event_state(Event* event) {
    REQUIRE(events.count(event), INVALID_HANDLE);
    const Result refusal = unless_captured();
    if (event->captured || refusal) return event->captured ? CAPTURED_EVENT : refusal;
    return event->happened >= event->recorded ? OK : NOT_READY;
}

}  // namespace
