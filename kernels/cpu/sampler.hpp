// Draws codes from logits: temperature, top-k, top-p, draw, or the largest. The same codes as the definition,
// kernels/reference/sample_codes.py, whatever the instructions: see sampler.cpp.
#pragma once

#include <cstdint>

namespace cpu {

// Rows of one sampling. Memory is the caller's.
struct DrawTask {
    const float *logits;  // (rows, codes); each row's codes lie side by side
    int64_t rows, codes;
    int64_t row_stride;      // elements from a row to the next, of whatever sign
    const uint64_t *random;  // (rows), not read where greedy
    int64_t random_stride;   // elements
    int64_t top_k;           // from 1 to `codes`
    float rate;              // log2(e) / temperature; finite, above 0
    float top_p;             // from 0 to 1
    int32_t greedy;
    int64_t *drawn;  // (rows)
};

constexpr int kDrawBlock = 128;    // codes whose weights are summed together
constexpr int kDrawDigits = 2048;  // values of a digit by which keys are counted

struct DrawScratch {
    int32_t *keys, *weights, *near_keys, *near_weights;  // (codes)
    uint64_t *sums;                                      // (codes / kDrawBlock, rounded up)
    uint64_t *counted;                                   // (kDrawDigits)
};

constexpr int64_t kAllDrawn = -1;

// Returns the first row from which nothing can be drawn (NaN, +inf, only -inf), or kAllDrawn.
using DrawCodes = int64_t (*)(const DrawTask &, const DrawScratch &);

namespace draw_tables {
int64_t kPlain(const DrawTask &, const DrawScratch &);
#if defined(__x86_64__)
int64_t kAvx2(const DrawTask &, const DrawScratch &);
int64_t kAvx512(const DrawTask &, const DrawScratch &);
#endif
}  // namespace draw_tables

}  // namespace cpu
