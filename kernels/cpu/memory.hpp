// Memory for activations and packed weights, in large pages where the system has them.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cpu {

class Memory {
  public:
    Memory() = default;
    Memory(const Memory &) = delete;
    Memory(Memory &&other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    ~Memory() { release(); }

    // Makes room for at least `bytes`, 64-byte aligned; what it held before is lost. False where there is no memory.
    bool reserve(size_t bytes) {
        if (bytes <= size_) return true;
        release();
        const size_t whole = (bytes + kLargePage - 1) / kLargePage * kLargePage;
        void *found = nullptr;
        if (posix_memalign(&found, bytes < kLargePage ? 64 : kLargePage, bytes < kLargePage ? bytes : whole))
            return false;
#if defined(__linux__)
        if (bytes >= kLargePage) madvise(found, whole, MADV_HUGEPAGE);  // a wish; without it there are just more pages
#endif
        data_ = found;
        size_ = bytes < kLargePage ? bytes : whole;
        return true;
    }

    void release() {
        free(data_);
        data_ = nullptr;
        size_ = 0;
    }

    void *data() const { return data_; }
    size_t size() const { return size_; }

  private:
    static constexpr size_t kLargePage = 2 << 20;

    void *data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace cpu
