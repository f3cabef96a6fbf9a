#include "thread_pool.hpp"

#include <chrono>

namespace cpu {

namespace {

// A sleeper's way back costs about 50 microseconds, and milliseconds where other programs want the processor. So inside
// a run, which ends soon, threads wait awake for longer than any phase takes: on a busy machine a step then took 2.7 ms
// where with 0.2 ms it took 4.6. Never by yielding, which hands the processor over for milliseconds each time.
constexpr int kAwakeInRunUs = 1000;
constexpr int kAwakeBetweenRunsUs = 200;  // a sampler draws a code meanwhile

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

ThreadPool::ThreadPool(int threads) : threads_(threads), places_(new Place[threads]) {
    for (int t = 1; t < threads; t++) workers_.emplace_back([this, t] { worker(t); });
}

ThreadPool::~ThreadPool() {
    closing_ = true;
    started_.raise();
    for (auto &thread : workers_) thread.join();
}

void ThreadPool::run(Work work, void *argument, bool alone) {
    work_ = work;
    argument_ = argument;
    active_ = alone ? 1 : threads_;
    for (int t = 0; t < threads_; t++) {
        places_[t].phase = 0;
        places_[t].taken[0].store(0);
    }
    if (active_ > 1) started_.raise();
    work(argument, 0);
    finish_phase(0);  // all have returned
}

void ThreadPool::worker(int thread) {
    for (uint32_t seen = 0;; seen++) {
        started_.wait_beyond(seen, kAwakeBetweenRunsUs);
        if (closing_) return;
        work_(argument_, thread);
        finish_phase(thread);
    }
}

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
    if (arrived_.fetch_add(1) + 1 == active) {
        arrived_.store(0);
        phase_done_.raise();
    } else {
        phase_done_.wait_beyond(before, kAwakeInRunUs);
    }
}

}  // namespace cpu
