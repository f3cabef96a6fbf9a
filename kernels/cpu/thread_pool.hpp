// Threads that work through the phases of one run together.
//
// Every phase ends with a meeting of all threads. Where one loses its processor to another program, the others wait for
// it, for milliseconds each time. So the waiting is measured: a run stalls where a phase was waited for long, and all
// of its waiting has taken more than a quarter of the threads' time (of two, one alone would have been as quick). For a
// pause from then on, runs have one thread fewer. It begins at what one stall costs, since a quiet machine has some
// too, and doubles with each that soon follows another.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace cpu {

// Waiting begins awake, because what is awaited mostly comes within microseconds, and soon ends asleep, so that a
// thread that waits long costs nothing.
class Signal {
  public:
    void raise();                                    // moves on to the next value, and wakes all that sleep
    void wait_beyond(uint32_t value, int awake_us);  // until it has
    uint32_t value() const { return value_.load(std::memory_order_acquire); }
    int sleepers() const { return sleepers_.load(); }

  private:
    std::atomic<uint32_t> value_{0};
    std::atomic<int> sleepers_{0};
    std::mutex mutex_;
    std::condition_variable condition_;
};

class ThreadPool {
  public:
    using Work = void (*)(void *argument, int thread);

    explicit ThreadPool(int threads);  // throws where the system has no more threads or memory
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
#if defined(__linux__)
        bool moved = false;
        cpu_set_t home;  // the processors that it may use, while `moved`
#endif
    };

    void worker(int thread);
    void move_elsewhere(int thread);
    void come_home(int thread);
    void close();  // ends and joins the workers that there are

    int threads_;
    int active_ = 1;  // in the present run
    std::unique_ptr<Place[]> places_;
    alignas(64) std::atomic<int64_t> arrivals_{0};  // kArrival a thread, and the sum of their times
    Signal phase_done_;
    int64_t began_ns_ = 0, waited_ns_ = 0;  // of the present run; the sum over its threads and phases
    int64_t stalled_ns_ = 0;                // when it last did; 0 if it didn't
    int allowed_;                           // threads of the next run
    int64_t pause_ns_, pause_end_ns_ = 0, calm_ns_ = 0;
    Work work_ = nullptr;
    void *argument_ = nullptr;
    bool closing_ = false;
    std::vector<std::thread> workers_;
};

}  // namespace cpu
