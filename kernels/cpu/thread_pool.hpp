// Threads that work through the phases of one run together.
//
// Every phase ends with a meeting of all threads. Where one loses its processor to another program, the others wait for
// it, for milliseconds each time. So the waiting is measured, and after a run in which it took more than a quarter of
// the threads' time (of two, one alone would have been as quick) the next runs have one thread fewer. After a period
// without such a stall there is one more again: a stall makes the period four times as long, and each that passes
// without one halves it, so that what lasts is tried ever less often, and what has ended is forgotten.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace cpu {

// Waiting begins awake, because what is awaited mostly comes within microseconds, and soon ends asleep, so that a
// thread that waits long costs nothing.
class Signal {
  public:
    void raise();                                    // moves on to the next value, and wakes all that sleep
    void wait_beyond(uint32_t value, int awake_us);  // until it has
    uint32_t value() const { return value_.load(std::memory_order_acquire); }

  private:
    std::atomic<uint32_t> value_{0};
    std::atomic<int> sleepers_{0};
    std::mutex mutex_;
    std::condition_variable condition_;
};

class ThreadPool {
  public:
    using Work = void (*)(void *argument, int thread);

    explicit ThreadPool(int threads);
    ~ThreadPool();

    int threads() const { return active_; }  // of the present run

    // Runs work(argument, t) for threads t = 0 ... threads() - 1, the caller's as 0; for 0 alone if `alone`. One run at
    // a time.
    void run(Work work, void *argument, bool alone = false);

    // Inside a run: gives out 0 ... count - 1, each once. A thread takes what lies in its own share first, then what
    // others have left. Every thread asks until it gets -1, then calls `finish_phase`.
    int take(int thread, int count);

    // Inside a run: returns once every thread of the run has called it.
    void finish_phase(int thread);

  private:
    struct alignas(64) Place {
        std::atomic<int> taken[2] = {{0}, {0}};
        int phase = 0;
        Signal started;  // a run that has this thread
    };

    void worker(int thread);
    bool waited_much(int64_t elapsed_ns) const;

    int threads_;
    int active_ = 1;  // in the present run
    std::unique_ptr<Place[]> places_;
    alignas(64) std::atomic<int> arrived_{0};
    std::atomic<int64_t> arrivals_ns_{0};  // the sum of the times at which they did
    Signal phase_done_;
    int64_t began_ns_ = 0, waited_ns_ = 0;  // of the present run; the sum over its threads and phases
    bool stalled_ = false;                  // it waited much, and long for one phase
    int allowed_;                           // threads of the next runs
    int64_t period_ns_, period_end_ns_ = 0;
    Work work_ = nullptr;
    void *argument_ = nullptr;
    bool closing_ = false;
    std::vector<std::thread> workers_;
};

}  // namespace cpu
