// Exercises kernels/cpu/thread_pool.cpp by itself: `hammer` checks what many threads compute, `share` what two threads
// on one processor cost, `starve` what is left of a pool that doesn't get all of its threads, `apart` where threads
// begin that were asleep. Prints what the test reads, or says what is wrong and returns 1.
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <system_error>
#include <thread>
#include <vector>

#include "thread_pool.hpp"

namespace {

// Each phase replaces every value by a sum of all of the last phase, so that whatever isn't ordered shows in the next.
struct Job {
    cpu::ThreadPool *pool;
    int phases, pieces, late = -1;  // a thread that is late for one phase
    std::vector<uint64_t> values[2];

    void work(int thread) {
        for (int p = 0; p < phases; p++) {
            if (thread == late && p == phases / 2) std::this_thread::sleep_for(std::chrono::milliseconds(2));
            const std::vector<uint64_t> &from = values[p & 1];
            uint64_t sum = p;
            for (uint64_t v : from) sum += v;  // by every thread, as a norm of few rows
            for (int i; (i = pool->take(thread, pieces)) >= 0;) values[~p & 1][i] = 3 * from[i] + sum + i;
            pool->finish_phase(thread);
        }
    }
};

void run(Job &job, bool alone = false) {
    job.pool->run([](void *job, int thread) { ((Job *)job)->work(thread); }, &job, alone);
}

uint64_t digest(cpu::ThreadPool &pool, int phases, int pieces, int late, bool alone) {
    Job job{&pool, phases, pieces, late, {std::vector<uint64_t>(pieces, 1), std::vector<uint64_t>(pieces)}};
    run(job, alone);
    uint64_t sum = 0;
    for (uint64_t v : job.values[phases & 1]) sum = 31 * sum + v;
    return sum;
}

// Pools are new every few runs, before most runs go with fewer threads.
int hammer() {
    cpu::ThreadPool one(1);
    bool fewer = false;
    for (int round = 0; round < 60; round++)
        for (int threads : {2, 3, 5, 9}) {
            cpu::ThreadPool pool(threads);
            for (int i = 0; i < 16; i++) {
                const int phases = 1 + i % 7, pieces = (16 * round + i) % 97, late = i == 12 ? round % threads : -1;
                const bool alone = i % 5 == 3;
                if (digest(pool, phases, pieces, late, alone) != digest(one, phases, pieces, -1, true)) {
                    printf("%d threads, %d phases, %d pieces: wrong values\n", threads, phases, pieces);
                    return 1;
                }
                fewer |= !alone && pool.threads() < threads;
            }
        }
    if (!fewer) printf("never fewer threads, though some were late\n");
    return !fewer;
}

int share() {
    cpu::ThreadPool pool(2);
    Job job{&pool, 50, 8, -1, {std::vector<uint64_t>(8, 1), std::vector<uint64_t>(8)}};
    int fewest = 2;
    const clock_t begin = clock();
    for (int i = 0; i < 40; i++) {
        run(job);
        fewest = std::min(fewest, pool.threads());
    }
    printf("%.4f\n", double(clock() - begin) / CLOCKS_PER_SEC);
    if (fewest == 2) {
        printf("never fewer threads\n");
        return 1;
    }
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (pool.threads() != 2) {
        if (std::chrono::steady_clock::now() > give_up) {
            printf("never again 2 threads\n");
            return 1;
        }
        run(job);
    }
    return 0;
}

// Address space for the stacks of some threads, but not of all.
int starve() {
    const int threads = 1024;
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    rlimit before, tight;
    if (!file || fscanf(file, "%lu", &pages) != 1 || getrlimit(RLIMIT_AS, &before)) return 1;
    fclose(file);
    tight = before;
    tight.rlim_cur = pages * sysconf(_SC_PAGESIZE) + (uint64_t(100) << 20);
    if (setrlimit(RLIMIT_AS, &tight)) return 1;
    bool refused = false;
    try {
        cpu::ThreadPool pool(threads);
    } catch (const std::system_error &) {
        refused = true;
    }
    setrlimit(RLIMIT_AS, &before);
    if (!refused) {
        printf("%d threads were to be had\n", threads);
        return 1;
    }
    cpu::ThreadPool one(1), three(3);
    if (digest(three, 5, 40, -1, false) != digest(one, 5, 40, -1, true)) {
        printf("wrong values of a later pool\n");
        return 1;
    }
    return 0;
}

// Of 100 runs after a pause, those whose second thread begins on the processor of the first.
int apart() {
    struct Places {
        cpu_set_t all;
        int at[2];
        bool free;
    } places;
    sched_getaffinity(0, sizeof places.all, &places.all);
    cpu::ThreadPool pool(2);
    int same = 0;
    for (int i = 0; i < 100; i++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        places.free = true;
        pool.run(
            [](void *argument, int thread) {
                Places &places = *(Places *)argument;
                places.at[thread] = sched_getcpu();
                cpu_set_t own;
                sched_getaffinity(0, sizeof own, &own);
                if (thread == 1) places.free = CPU_EQUAL(&own, &places.all);
            },
            &places);
        if (!places.free) {
            printf("a thread works that may not use every processor\n");
            return 1;
        }
        same += pool.threads() == 2 && places.at[0] == places.at[1];
    }
    printf("%d\n", same);
    return 0;
}

}  // namespace

int main(int count, char **arguments) {
    const char *what = count == 2 ? arguments[1] : "";
    if (!strcmp(what, "hammer")) return hammer();
    if (!strcmp(what, "starve")) return starve();
    return strcmp(what, "apart") ? share() : apart();
}
