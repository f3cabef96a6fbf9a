// Matrices in the order in which they are read, in one piece of memory.
#pragma once

#include "kernels.hpp"
#include "thread_pool.hpp"

namespace cpu {

// Memory in large pages where the system has them.
class Arena {
  public:
    ~Arena();
    bool reserve(size_t bytes);
    uint8_t *take(size_t bytes);  // 64-byte aligned; null beyond what was reserved

  private:
    uint8_t *memory_ = nullptr;
    size_t size_ = 0, used_ = 0;
};

// A matrix as a bundle holds it.
//   bits 32: floats (inputs, outputs).
//   bits 8 or 4: codes (outputs, blocks, block x bits / 8), two 4-bit codes a byte with the earlier in the low half,
//   and scales float16 (outputs, blocks).
struct StoredMatrix {
    int outputs, inputs, bits, block;
    const void *weights;
    const uint16_t *scales;
};

size_t packed_bytes(int outputs, int inputs, int bits, int block);

// Packs `stored` into the arena and fills `matrix` but for its bias. False where the arena is full.
bool pack(const StoredMatrix &stored, Arena &arena, ThreadPool &pool, Matrix &matrix);

}  // namespace cpu
