#include "thread_pool.hpp"

#include <algorithm>
#include <chrono>

#if defined(__linux__)
#include <pthread.h>
#endif

namespace cpu {

namespace {

// A sleeper's way back costs about 50 microseconds, and milliseconds where other programs want the processor. So inside
// a run, which ends soon, threads wait awake for longer than any phase takes: on a busy machine a step then took 2.7 ms
// where with 0.2 ms it took 4.6. Never by yielding, which hands the processor over for milliseconds each time. But once
// a run has stalled, the awaited thread may need the very processor of the one that waits: with both on one, a step of
// 63 phases took 64 ms.
constexpr int kAwakeInRunUs = 1000;
constexpr int kAwakeStalledUs = 10;
constexpr int kAwakeBetweenRunsUs = 200;  // a sampler draws a code meanwhile

constexpr int64_t kStallNs = 500'000;  // longer than threads of one phase lie apart by themselves; a time slice is 3 ms
constexpr int64_t kShortestPauseNs = 2'000'000, kLongestPauseNs = 512'000'000;
constexpr int64_t kCalmNs = 50'000'000;  // without a stall after a pause; halves the next

constexpr int64_t kArrival = int64_t(1) << 52;  // above any sum of nanoseconds

int64_t now_ns() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

void Signal::raise() {
    value_.fetch_add(1);
    if (sleepers_.load() > 0) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
        }
        condition_.notify_all();
    }
}

void Signal::wait_beyond(uint32_t value, int awake_us) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(awake_us);
    do {
        for (int i = 0; i < 16; i++) {
            if (value_.load(std::memory_order_acquire) != value) return;
            pause();
        }
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    condition_.wait(lock, [&] { return value_.load() != value; });
    sleepers_.fetch_sub(1);
}

ThreadPool::ThreadPool(int threads)
    : threads_(threads), places_(new Place[threads]), allowed_(threads), pause_ns_(kShortestPauseNs) {
    try {
        for (int t = 1; t < threads; t++) workers_.emplace_back([this, t] { worker(t); });
    } catch (...) {  // a thread that is destroyed before it is joined ends the program
        close();
        throw;
    }
}

ThreadPool::~ThreadPool() {
    close();
}

void ThreadPool::close() {
    closing_ = true;
    for (int t = 1; t < threads_; t++) places_[t].started.raise();
    for (auto &thread : workers_) thread.join();
}

void ThreadPool::run(Work work, void *argument, bool alone) {
    work_ = work;
    argument_ = argument;
    waited_ns_ = 0;
    stalled_ns_ = 0;
    began_ns_ = now_ns();
    if (allowed_ < threads_ && began_ns_ >= pause_end_ns_) {
        allowed_++;
        pause_end_ns_ = began_ns_ + pause_ns_;
    }
    if (began_ns_ >= calm_ns_) {
        pause_ns_ = std::max(pause_ns_ / 2, kShortestPauseNs);
        calm_ns_ = began_ns_ + kCalmNs;
    }
    active_ = alone ? 1 : allowed_;
    for (int t = 0; t < active_; t++) {
        places_[t].phase = 0;
        places_[t].taken[0].store(0);
    }
    for (int t = 1; t < active_; t++) {
        if (places_[t].started.sleepers()) move_elsewhere(t);
        places_[t].started.raise();
    }
    work(argument, 0);
    finish_phase(0);  // all have returned
    if (!stalled_ns_) return;
    allowed_ = active_ - 1;
    pause_ns_ = std::min(2 * pause_ns_, kLongestPauseNs);
    pause_end_ns_ = began_ns_ + stalled_ns_ + pause_ns_;
    calm_ns_ = pause_end_ns_ + kCalmNs;
}

void ThreadPool::worker(int thread) {
    for (uint32_t seen = 0;; seen++) {
        places_[thread].started.wait_beyond(seen, kAwakeBetweenRunsUs);
        if (closing_) return;
        come_home(thread);
        work_(argument_, thread);
        finish_phase(thread);
    }
}

// Some kernels wake a sleeper on the processor of the thread that wakes it, though another is idle (in virtual
// machines, whose processors they like to leave empty). There it begins when that thread gives up waiting, and the run
// counts as stalled: in a benchmark, after every third pause. So a sleeper may not use that processor until it has
// begun.
#if defined(__linux__)
void ThreadPool::move_elsewhere(int thread) {
    Place &place = places_[thread];
    const pthread_t worker = workers_[thread - 1].native_handle();
    const int here = sched_getcpu();
    if (here < 0 || here >= CPU_SETSIZE || pthread_getaffinity_np(worker, sizeof place.home, &place.home)) return;
    cpu_set_t others = place.home;
    CPU_CLR(here, &others);
    place.moved = CPU_COUNT(&others) && !pthread_setaffinity_np(worker, sizeof others, &others);
}

void ThreadPool::come_home(int thread) {
    Place &place = places_[thread];
    if (place.moved) pthread_setaffinity_np(pthread_self(), sizeof place.home, &place.home);
    place.moved = false;
}
#else
void ThreadPool::move_elsewhere(int) {}
void ThreadPool::come_home(int) {}
#endif

int ThreadPool::take(int thread, int count) {
    const int side = places_[thread].phase & 1;
    for (int k = 0; k < active_; k++) {
        const int owner = thread + k < active_ ? thread + k : thread + k - active_;
        const int first = int(int64_t(count) * owner / active_), last = int(int64_t(count) * (owner + 1) / active_);
        std::atomic<int> &taken = places_[owner].taken[side];
        if (first + taken.load(std::memory_order_relaxed) >= last) continue;
        const int index = first + taken.fetch_add(1, std::memory_order_relaxed);
        if (index < last) return index;
    }
    return -1;
}

void ThreadPool::finish_phase(int thread) {
    const int active = active_;  // before arriving: once the last has arrived, another run may begin
    Place &place = places_[thread];
    place.phase++;
    // the other side was last used in the phase before this one, which every thread has left
    place.taken[place.phase & 1].store(0, std::memory_order_relaxed);
    if (active == 1) return;
    const uint32_t before = phase_done_.value();
    const int awake_us = stalled_ns_ ? kAwakeStalledUs : kAwakeInRunUs;
    const int64_t elapsed_ns = now_ns() - began_ns_;
    const int64_t arrival = kArrival + elapsed_ns, arrivals = arrivals_.fetch_add(arrival) + arrival;
    if (arrivals / kArrival < active) {
        phase_done_.wait_beyond(before, awake_us);
        return;
    }
    arrivals_.store(0, std::memory_order_relaxed);
    const int64_t waited_ns = active * elapsed_ns - arrivals % kArrival;
    waited_ns_ += waited_ns;
    if (waited_ns > (active - 1) * kStallNs && 4 * waited_ns_ > active * elapsed_ns) stalled_ns_ = elapsed_ns;
    phase_done_.raise();
}

}  // namespace cpu
