// What a simple CUDA kernel needs to compile as C++: no shared memory, no __syncthreads, one thread after the other.
// Enters: the kernels' sources, which follow this file. Leaves: `kernels()`, by name. Knows nothing of the driver.
#pragma once

#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <tuple>

namespace fake {

struct Index { unsigned x, y, z; };
struct Trap {};  // thrown by __trap(): the context is lost

using Work = std::function<void()>;
// A kernel with its arguments read from an array of pointers, or from a packed buffer where there is one.
using Bind = std::function<Work(void** pointers, const char* buffer)>;

inline thread_local int clock_reads;    // by this thread of the kernel
inline thread_local long long launched;   // in cycles

inline std::map<std::string, Bind>& kernels() {
    static auto* table = new std::map<std::string, Bind>;
    return *table;
}

inline long long cycles() {  // of a clock of 2 GHz
    return 2 * std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class A>
A next(void**& pointers, const char* buffer, size_t& offset) {
    if (!buffer) return *static_cast<A*>(*pointers++);
    offset = (offset + alignof(A) - 1) / alignof(A) * alignof(A);
    A value;
    std::memcpy(&value, buffer + offset, sizeof value);
    offset += sizeof value;
    return value;
}

struct Registered {
    template <class... A>
    Registered(const char* name, void (*kernel)(A...)) {
        kernels()[name] = [kernel](void** pointers, const char* buffer) -> Work {
            [[maybe_unused]] size_t offset = 0;
            std::tuple<A...> arguments{next<A>(pointers, buffer, offset)...};  // braces: from left to right
            return [kernel, arguments] { std::apply(kernel, arguments); };
        };
    }
};

}  // namespace fake

inline thread_local fake::Index gridDim, blockDim, blockIdx, threadIdx;

#define __global__
#define __device__
#define __restrict__

[[noreturn]] inline void __trap() { throw fake::Trap(); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// The threads run one after the other but all began with the launch: a wait by the clock costs its time once. What
// reads it again and again sleeps, because several "GPUs" share few cores.
inline long long clock64() {
    if (++fake::clock_reads == 1) return fake::launched;
    if (fake::clock_reads > 2) std::this_thread::sleep_for(std::chrono::microseconds(20));
    return fake::cycles();
}
