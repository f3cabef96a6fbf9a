#include "packing.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cpu {

namespace {

constexpr size_t kLargePage = 2 << 20;

size_t panel_bytes(int inputs, int bits, int block) {
    if (bits == 32) return size_t(inputs) * kPanel * 4;
    return size_t((inputs + block - 1) / block) * (2 * kPanel + size_t(block) * bits / 8 * kPanel);
}

void pack_floats(const StoredMatrix &s, int panel, uint8_t *to) {
    const int first = panel * kPanel, count = std::min(kPanel, s.outputs - first);
    const float *from = (const float *)s.weights + first;
    for (int k = 0; k < s.inputs; k++, from += s.outputs, to += 4 * kPanel) {
        memcpy(to, from, 4 * count);
        memset(to + 4 * count, 0, 4 * (kPanel - count));
    }
}

// One block of one output: 4 bytes at `to`, and again a line of 32 outputs further on.
void pack_block(const uint8_t *from, int bits, int bytes, uint8_t *to) {
    for (int k = 0; k < bytes; k += 4, to += 4 * kPanel) {
        if (bits == 8) {
            memcpy(to, from + k, 4);
            continue;
        }
        for (int i = 0; i < 4; i++) {  // inputs 2k ... 2k + 7
            const int low = from[k + i / 2] >> (4 * (i & 1)) & 15, high = from[k + 2 + i / 2] >> (4 * (i & 1)) & 15;
            to[i] = uint8_t(low | high << 4);
        }
    }
}

void pack_codes(const StoredMatrix &s, int panel, uint8_t *to) {
    const int first = panel * kPanel, count = std::min(kPanel, s.outputs - first);
    const int blocks = (s.inputs + s.block - 1) / s.block, bytes = s.block * s.bits / 8;
    for (int b = 0; b < blocks; b++) {
        uint16_t *halves = (uint16_t *)to;
        to += 2 * kPanel;
        memset(halves, 0, 2 * kPanel);
        memset(to, s.bits == 8 ? 0x80 : 0x88, size_t(bytes) * kPanel);  // zeros beyond the last output
        for (int n = 0; n < count; n++) {
            const size_t at = size_t(first + n) * blocks + b;
            halves[n] = s.scales[at];
            pack_block((const uint8_t *)s.weights + at * bytes, s.bits, bytes, to + 4 * n);
        }
        to += size_t(bytes) * kPanel;
    }
}

struct Packing {
    const StoredMatrix *stored;
    const Matrix *matrix;
    ThreadPool *pool;
    uint8_t *to;
};

void pack_share(void *argument, int thread) {
    const Packing &p = *(const Packing *)argument;
    for (int i; (i = p.pool->take(thread, p.matrix->panels())) >= 0;) {
        uint8_t *to = p.to + i * p.matrix->panel_bytes;
        if (p.stored->bits == 32)
            pack_floats(*p.stored, i, to);
        else
            pack_codes(*p.stored, i, to);
    }
}

}  // namespace

Arena::~Arena() {
#if defined(__linux__)
    if (memory_) munmap(memory_, size_);
#else
    free(memory_);
#endif
}

bool Arena::reserve(size_t bytes) {
    size_ = (bytes + kLargePage - 1) / kLargePage * kLargePage + kLargePage;
#if defined(__linux__)
    void *found = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) return false;
    memory_ = (uint8_t *)found;
    madvise(memory_, size_, MADV_HUGEPAGE);  // a wish; without it there are just more pages
    used_ = (kLargePage - (uintptr_t)memory_ % kLargePage) % kLargePage;
#else
    void *found = nullptr;
    if (posix_memalign(&found, 64, size_)) return false;
    memory_ = (uint8_t *)found;
    used_ = 0;
#endif
    return true;
}

uint8_t *Arena::take(size_t bytes) {
    if (used_ + bytes > size_) return nullptr;
    uint8_t *place = memory_ + used_;
    used_ += (bytes + 63) / 64 * 64;
    return place;
}

size_t packed_bytes(int outputs, int inputs, int bits, int block) {
    return size_t((outputs + kPanel - 1) / kPanel) * panel_bytes(inputs, bits, block);
}

bool pack(const StoredMatrix &s, Arena &arena, ThreadPool &pool, Matrix &matrix) {
    uint8_t *to = arena.take(packed_bytes(s.outputs, s.inputs, s.bits, s.block));
    if (!to) return false;
    const int blocks = s.bits == 32 ? 0 : (s.inputs + s.block - 1) / s.block;
    matrix = {s.outputs, s.inputs, s.bits, s.block, blocks, panel_bytes(s.inputs, s.bits, s.block), to, nullptr};
    Packing packing = {&s, &matrix, &pool, to};
    pool.run(pack_share, &packing);
    return true;
}

}  // namespace cpu
