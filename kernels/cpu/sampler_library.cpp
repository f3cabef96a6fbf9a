// Drawing codes, as other languages call it.
#include <new>
#include <vector>

#include "instructions.hpp"
#include "sampler.hpp"

#define CPU_EXPORT __attribute__((visibility("default")))

namespace {

// Of one thread, kept between calls.
class Scratch {
  public:
    cpu::DrawScratch fit(size_t codes) {
        const size_t blocks = (codes + cpu::kDrawBlock - 1) / cpu::kDrawBlock;
        if (numbers_.size() < 4 * codes) numbers_.resize(4 * codes);
        if (sums_.size() < cpu::kDrawDigits + blocks) sums_.resize(cpu::kDrawDigits + blocks);
        int32_t *n = numbers_.data();
        return {n, n + codes, n + 2 * codes, n + 3 * codes, sums_.data() + cpu::kDrawDigits, sums_.data()};
    }

  private:
    std::vector<int32_t> numbers_;
    std::vector<uint64_t> sums_;
};

cpu::DrawCodes choose_draw(const char *name) {
    const cpu::Kernels *same = cpu::choose(name);
    if (!same) return nullptr;
#if defined(__x86_64__)
    if (same == &cpu::kAvx2) return cpu::draw_tables::kAvx2;
    if (same != &cpu::kPlain) return cpu::draw_tables::kAvx512;
#endif
    return cpu::draw_tables::kPlain;
}

}  // namespace

extern "C" {

// instructions: as for `choose`. Null where the processor lacks them.
CPU_EXPORT void *sampler_choose(const char *instructions) {
    return (void *)choose_draw(instructions);
}

// sampler: of `sampler_choose`. Returns -1, or the first row from which nothing can be drawn, or -2 where there is no
// memory. Any number of threads may call it at once.
CPU_EXPORT int64_t sampler_draw(void *sampler, const cpu::DrawTask *task) {
    static thread_local Scratch scratch;
    try {
        return ((cpu::DrawCodes)sampler)(*task, scratch.fit(size_t(task->codes)));
    } catch (const std::bad_alloc &) {
        return -2;
    }
}
}
