// Runs a kernel on one processor thread: a fiber a CUDA thread, blocks one after the other. Rendezvous points
// (barriers, shuffles, votes, tensor-core products) hold a thread until all that take part have arrived at the same
// line.
#pragma once
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <type_traits>

#include "fibers.h"

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace cusim {

constexpr size_t kMaxSharedBytes = 227 << 10;  // what a block may have on sm_90
constexpr unsigned kWarp = 32;

struct Site {  // where in the kernel's source
    const char *file = "";
    int line = 0;
};

struct AsyncCopy {
    void *shared;
    const void *global;
    bool valid;
    Site site;
};

enum class State { ready, barrier, warp, done };

struct Thread;
// Computes a warp's collective operation: reads `in` of the lanes of `mask`, writes their `out`.
using Collective = void (*)(Thread *lanes, unsigned mask);

struct Thread {
    Fiber fiber;
    State state = State::ready;
    uint3 index = {0, 0, 0};
    unsigned lane = 0, warp = 0, mask = 0;
    Collective collective = nullptr;
    const char *what = "";
    Site site;
    alignas(16) uint64_t in[8];
    alignas(16) uint64_t out[8];
    std::vector<AsyncCopy> copies;      // not finished, oldest first
    std::vector<unsigned> group_sizes;  // committed groups, oldest first
    unsigned uncommitted = 0;
};

struct Random {  // splitmix64
    uint64_t state;
    uint64_t next() {
        uint64_t z = (state += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }
    unsigned below(unsigned n) { return static_cast<unsigned>(next() % n); }
};

struct Block {
    dim3 grid, block;
    uint3 index = {0, 0, 0};
    std::vector<Thread> threads;
    Thread *current = nullptr;
    Fiber scheduler;
    char *shared = nullptr;
    size_t shared_bytes = 0;
    void (*body)(void *) = nullptr;
    void *body_data = nullptr;
    std::string error;
    uint64_t seed = 0;
    Random random{0};
    long bank_conflicts = 0;
    int barrier_all = 1, barrier_any = 0, barrier_count = 0;
    int pending_all = 1, pending_any = 0, pending_count = 0;
};

inline Block *block = nullptr;  // the one that runs
inline Thread &self() {
    return *block->current;
}

inline std::string place(const Thread &t, const Site &site) {
    const uint3 &b = block->index;
    char text[512];
    snprintf(text, sizeof text, "%s:%d: thread (%u, %u, %u) of block (%u, %u, %u)", site.file, site.line, t.index.x,
             t.index.y, t.index.z, b.x, b.y, b.z);
    return text;
}

[[noreturn]] inline void fail(const Thread &t, const Site &site, const std::string &what) {
    throw std::runtime_error(place(t, site) + ": " + what);
}

inline void wait_for_warp(unsigned mask, Collective collective, const char *what, Site site) {
    Thread &t = self();
    if (!(mask >> t.lane & 1)) fail(t, site, std::string(what) + ": the lane is not in its own mask");
    t.state = State::warp;
    t.mask = mask;
    t.collective = collective;
    t.what = what;
    t.site = site;
    switch_fiber(t.fiber, block->scheduler);
}

inline void wait_for_block(Site site, int predicate) {
    Thread &t = self();
    Block &b = *block;
    t.state = State::barrier;
    t.what = "__syncthreads";
    t.site = site;
    b.pending_all &= predicate != 0;
    b.pending_any |= predicate != 0;
    b.pending_count += predicate != 0;
    switch_fiber(t.fiber, b.scheduler);
}

inline void check_queue(Thread &t) {
    if (t.copies.empty()) return;
    fail(t, t.copies.front().site,
         "the kernel ended with " + std::to_string(t.copies.size()) + " asynchronous copies that nothing waited for");
}

inline void run_thread() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block->scheduler.bottom, &block->scheduler.bytes);
#endif
    Thread &t = self();
    try {
        block->body(block->body_data);
        check_queue(t);
    } catch (const std::exception &error) {
        block->error = error.what();
    }
    t.state = State::done;
    switch_fiber(t.fiber, block->scheduler);
    std::abort();  // a finished thread is never resumed
}

// Lets through each group of lanes of one warp that is complete.
inline void release_warp(Thread *lanes) {
    unsigned seen = 0;
    for (unsigned i = 0; i < kWarp; i++) {
        Thread &first = lanes[i];
        if (first.state != State::warp || (seen >> i & 1)) continue;
        unsigned mask = first.mask;
        seen |= mask;
        bool complete = true;
        for (unsigned j = 0; j < kWarp && complete; j++) {
            if (!(mask >> j & 1)) continue;
            const Thread &other = lanes[j];
            if (other.state == State::done)
                fail(first, first.site,
                     std::string(first.what) + ": the mask names lane " + std::to_string(j) + ", which has exited");
            complete = other.state == State::warp && other.mask == mask && other.collective == first.collective &&
                       other.site.line == first.site.line && !strcmp(other.site.file, first.site.file);
        }
        if (!complete) continue;
        block->current = &first;
        if (first.collective) first.collective(lanes, mask);
        for (unsigned j = 0; j < kWarp; j++)
            if (mask >> j & 1) lanes[j].state = State::ready;
    }
}

[[noreturn]] inline void report_deadlock() {
    const Thread *waiting = nullptr, *other = nullptr;
    for (const Thread &t : block->threads)
        if (t.state != State::done && !waiting) waiting = &t;
    for (const Thread &t : block->threads) {
        bool same = t.state == waiting->state && t.site.line == waiting->site.line && t.mask == waiting->mask;
        if (!same && !other) other = &t;
    }
    std::string text = std::string("divergent ") + waiting->what + ": ";
    if (!other)
        text += "not every thread of the block arrived";
    else if (other->state == State::done)
        text += place(*other, {waiting->site.file, 0}) + " has exited";
    else
        text += place(*other, other->site) + " waits at " + other->what;
    fail(*waiting, waiting->site, text);
}

inline void run_block(Block &b) {
    const unsigned count = b.block.x * b.block.y * b.block.z, warps = count / kWarp;
    for (unsigned i = 0; i < count; i++) {
        Thread &t = b.threads[i];
        t.index = {i % b.block.x, i / b.block.x % b.block.y, i / (b.block.x * b.block.y)};
        t.lane = i % kWarp;
        t.warp = i / kWarp;
        t.state = State::ready;
        t.uncommitted = 0;
        t.copies.clear();
        t.group_sizes.clear();
        t.fiber.start(run_thread);
    }
    unsigned turn = 0;
    for (;;) {
        // A warp that has a thread to run: the next, or with a seed any.
        unsigned start = b.seed ? b.random.below(warps) : turn, warp = warps;
        for (unsigned k = 0; k < warps && warp == warps; k++) {
            Thread *lanes = &b.threads[(start + k) % warps * kWarp];
            for (unsigned i = 0; i < kWarp; i++)
                if (lanes[i].state == State::ready) {
                    warp = (start + k) % warps;
                    break;
                }
        }
        if (warp == warps) {
            unsigned done = 0, barrier = 0;
            for (const Thread &t : b.threads) {
                done += t.state == State::done;
                barrier += t.state == State::barrier;
            }
            if (done == count) break;
            if (barrier != count) report_deadlock();
            for (const Thread &t : b.threads)
                if (t.site.line != b.threads[0].site.line || strcmp(t.site.file, b.threads[0].site.file))
                    report_deadlock();
            for (Thread &t : b.threads) t.state = State::ready;
            b.barrier_all = b.pending_all, b.barrier_any = b.pending_any, b.barrier_count = b.pending_count;
            b.pending_all = 1, b.pending_any = 0, b.pending_count = 0;
            continue;
        }
        Thread *lanes = &b.threads[warp * kWarp];
        unsigned offset = 0, stride = 1;
        if (b.seed) {
            uint64_t bits = b.random.next();
            offset = bits & 31;
            stride = (bits >> 5 & 31) | 1;
        }
        for (unsigned i = 0; i < kWarp; i++) {
            Thread &t = lanes[(offset + i * stride) % kWarp];
            if (t.state != State::ready) continue;
            b.current = &t;
            switch_fiber(b.scheduler, t.fiber);
            if (!b.error.empty()) throw std::runtime_error(b.error);
        }
        release_warp(lanes);
        bool has_ready = false;
        for (unsigned i = 0; i < kWarp; i++) has_ready |= lanes[i].state == State::ready;
        turn = has_ready ? warp : (warp + 1) % warps;
    }
    for (Thread &t : b.threads)
        if (t.fiber.overflowed())
            throw std::runtime_error(place(t, {"", 0}) + ": used more than " + std::to_string(kStackBytes) +
                                     " bytes of stack");
}

struct FreeMemory {
    void operator()(void *memory) const { free(memory); }
};

inline sigjmp_buf crash_jump;
inline void on_crash(int) {
    siglongjmp(crash_jump, 1);
}

// A wild pointer or a misaligned vector access becomes an error with the thread that made it.
struct CrashGuard {
#if !defined(__SANITIZE_ADDRESS__)
    struct sigaction old_segv, old_bus;
    stack_t old_stack;
    std::unique_ptr<char[]> memory{new char[64 << 10]};
    CrashGuard() {
        stack_t stack = {};
        stack.ss_sp = memory.get();
        stack.ss_size = 64 << 10;
        sigaltstack(&stack, &old_stack);
        struct sigaction action = {};
        action.sa_handler = on_crash;
        action.sa_flags = SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &old_segv);
        sigaction(SIGBUS, &action, &old_bus);
    }
    ~CrashGuard() {
        sigaction(SIGSEGV, &old_segv, nullptr);
        sigaction(SIGBUS, &old_bus, nullptr);
        sigaltstack(&old_stack, nullptr);
    }
#endif
};

// `seed` 0 runs blocks and threads in order, any other number in an order of its own.
inline void run_grid(dim3 grid, dim3 threads, size_t shared_bytes, uint64_t seed, void (*body)(void *), void *data,
                     long *bank_conflicts) {
    const unsigned count = threads.x * threads.y * threads.z;
    if (!count || count > 1024 || count % kWarp)
        throw std::runtime_error("a block of " + std::to_string(count) +
                                 " threads, wanted a multiple of 32 and at most 1024");
    if (shared_bytes > kMaxSharedBytes)
        throw std::runtime_error(std::to_string(shared_bytes) + " bytes of dynamic shared memory, a block has " +
                                 std::to_string(kMaxSharedBytes));
    Block b;
    b.grid = grid;
    b.block = threads;
    b.body = body;
    b.body_data = data;
    b.seed = seed;
    b.random.state = seed;
    b.shared_bytes = shared_bytes;
    b.threads.resize(count);
    for (unsigned i = 0; i < count; i++) b.threads[i].fiber.stack = stack_of(i);
    // Exactly as large as asked for, so that the address sanitizer sees the first byte behind it.
    void *memory = nullptr;
    if (posix_memalign(&memory, 128, shared_bytes ? shared_bytes : 1)) throw std::runtime_error("no memory");
    std::unique_ptr<void, FreeMemory> owner(memory);
    b.shared = static_cast<char *>(memory);
    block = &b;
    struct Reset {
        ~Reset() { block = nullptr; }
    } reset;
    CrashGuard guard;
#if !defined(__SANITIZE_ADDRESS__)
    if (sigsetjmp(crash_jump, 0))
        throw std::runtime_error(place(*b.current, b.current->site) +
                                 ": segmentation fault behind this line: a wild pointer or a misaligned vector access; "
                                 "run it under the address sanitizer");
#endif
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    std::vector<uint64_t> order(blocks);
    for (uint64_t i = 0; i < blocks; i++) order[i] = i;
    if (seed)
        for (uint64_t i = blocks; i > 1; i--) std::swap(order[i - 1], order[b.random.next() % i]);
    for (uint64_t i : order) {
        b.index = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / (uint64_t(grid.x) * grid.y))};
        memset(b.shared, 0xff, shared_bytes);  // NaN, and -1
        run_block(b);
    }
    if (bank_conflicts) *bank_conflicts = b.bank_conflicts;
}

}  // namespace cusim
