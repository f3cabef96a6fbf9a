// What the engine asks of the processor: one table of routines for each instruction set, from the same source.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cpu {

constexpr int kPanel = 32;       // outputs that lie side by side in a packed matrix
constexpr int kMostQueries = 6;  // of one head whose attention is computed together

// A matrix (outputs, inputs) of a dense layer, packed in panels of 32 outputs that are read from front to back:
//   bits 32: for each input 32 floats.
//   bits 8:  for each block of inputs 32 float16 scales, then for each 4 inputs 32 x 4 bytes, code + 128.
//   bits 4:  for each block of inputs 32 float16 scales, then for each 8 inputs 32 x 4 bytes: inputs 0-3 in the low
//            halves, 4-7 in the high halves, code + 8.
// Outputs beyond the last are padded with zeros.
struct Matrix {
    int outputs, inputs, bits, block, blocks;
    size_t panel_bytes;
    const uint8_t *data;
    const float *bias;  // padded to whole panels

    int panels() const { return (outputs + kPanel - 1) / kPanel; }
};

// Rows that are multiplied: floats, or 8-bit numbers with a scale and a sum for each block of inputs.
struct Rows {
    const float *x;
    size_t stride;
    const int8_t *q;
    const float *scales;
    const int32_t *sums;
    size_t q_stride, block_stride;
};

enum class Finish { kStore, kGelu, kAdd };  // out = y, out = gelu(y), out += y

// One panel of y = x W^T + bias for rows first ... last - 1. Each element is summed over its inputs from first to last
// in one accumulator (of one block of 8-bit products in integers), whatever the other rows are: its bits depend on
// nothing else.
struct PanelTask {
    const Matrix *matrix;
    int panel;
    const Rows *rows;
    int first, last;
    Finish finish;
    float *out;
    size_t out_stride;
    int columns;  // of `out`; a panel beyond them is cut
    float *tile;  // scratch, (last - first) x 32
    bool near;    // the processor likes to be asked for memory ahead in its first cache level
};

// One head's cache of one row: floats, or float16. Keys lie in blocks of 16 positions, (block, channel, 16); values as
// (position, value_stride).
struct HeadCache {
    void *keys, *values;
    int head_size, value_stride;
    bool halves;
};

// Attention of up to `max_queries` queries of one head to the leading positions of its cache.
struct AttentionTask {
    int count;
    const float *query[kMostQueries];
    float *out[kMostQueries];
    int visible[kMostQueries];  // leading positions that each query sees, at least 1
    HeadCache cache;
    float *scores;  // scratch, count x positions rounded up to 16
};

struct Kernels {
    const char *name;
    int max_queries;
    void (*panel)(const PanelTask &);
    void (*attend)(const AttentionTask &);
    void (*append)(const HeadCache &, size_t position, const float *key, const float *value);
    void (*layer_norm)(const float *x, const float *weight, const float *bias, int width, float *out);
    void (*quantize_row)(const float *x, int blocks, int block, int8_t *q, float *scales, int32_t *sums);
};

extern const Kernels kPlain;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512;
#elif defined(__aarch64__)
extern const Kernels kNeon, kNeonDot;
#endif

}  // namespace cpu
