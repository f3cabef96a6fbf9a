// What a VQGAN's networks ask of the processor: convolutions of strips, and what lies between them.
//
// Activations are floats in blocks of 16 channels: (block, row, column, 16), the last block padded with zeros. A
// convolution reads a strip, a rectangle of its input with the border that its taps reach, normalised and rounded once:
// (block, row, column, depth), of floats with depth 16 or bfloat16 with depth 32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cpu {

constexpr int kBlock = 16;    // channels of an activation that lie side by side
constexpr int kMaxTaps = 9;   // of a convolution
constexpr int kMoments = 48;  // floats of a cell's moments: 16 rounded means, what they lack, sums of squares

// Rows y0 ... y0 + rows - 1 and columns x0 ... of a picture's activations as a strip; zeros outside the picture.
struct FillTask {
    const float *in;
    int blocks;  // of 16 channels
    int height, width;
    int y0, x0, rows, columns;
    size_t block_stride;                  // of the strip, elements
    const float *center, *scale, *shift;  // a channel: (x - center) scale + shift; null to take x as it is
    bool swish;
    void *strip;
};

// Outputs rows x columns of one panel, 16 or 32 channels. Each is the bias, then sums over the blocks, the taps and the
// channels of a block in that order, then `add`: its bits depend on nothing else.
struct ConvTask {
    const void *strip;
    int blocks;                                     // of the strip's depth
    size_t block_stride, row_stride, pixel_stride;  // from one output to the next, elements of the strip; 16 in floats
    int taps;
    const ptrdiff_t *tap_offsets;  // elements
    const void *weights;           // floats (block, tap, 16, outputs), bfloat16 (block, tap, vector, 16, 16, 2)
    const float *bias;
    int vectors;  // of 16 outputs, 1 or 2
    int rows, columns;
    float *out;
    const float *add;                                           // laid out as `out`; may be `out`; null for none
    size_t out_block_stride, out_row_stride, out_pixel_stride;  // floats
};

// Winograd's tiles, which lie row by row in what a strip covers: inputs as planes (block, tile, 16), outputs from
// planes of products (vector, tile, 16).
struct InputTiles {
    const float *strip;
    int blocks;
    size_t block_stride, row_stride;  // of the strip, floats
    int tile_rows, tile_columns;
    float *out;
    size_t plane;  // floats from one plane to the next
};

struct OutputTiles {
    const float *products;
    size_t plane;
    int vectors, tile_rows, tile_columns;
    const float *bias;
    int rows, columns;  // of the outputs; tiles beyond them are cut
    float *out;
    const float *add;  // laid out as `out`; may be `out`; null for none
    size_t out_block_stride, out_row_stride;
};

enum TileForm { kFour, kTwo, kHalved, kDoubled };  // told in winograd.hpp

struct TileTransforms {
    void (*inputs)(const InputTiles &);
    void (*outputs)(const OutputTiles &);
};

// A block of 16 channels over one row's cell: of each channel mean, remainder of the mean, and sum of squares about it.
struct MomentsTask {
    const float *x;
    int columns;
    float *moments;  // kMoments
};

// In place, scores (key block, query, 16) of one query: the softmax of `scale` x score over the leading `keys`, 0
// beyond.
struct SoftmaxTask {
    float *scores;
    size_t block_stride;  // floats between key blocks
    int keys;
    float scale;
};

struct ConvKernels {
    const char *name;
    int depth;  // channels that lie side by side in a strip: 16 floats or 32 bfloat16
    void (*fill)(const FillTask &);
    void (*conv)(const ConvTask &);
    void (*begin)(), (*end)();    // of a thread's work
    const TileTransforms *tiles;  // of each form; null where Winograd's aren't computed
};

struct RowKernels {
    void (*moments)(const MomentsTask &);
    void (*softmax)(const SoftmaxTask &);
};

namespace conv_tables {
extern const ConvKernels kPlain, kAvx2, kAvx512, kNeon, kAmx;
}
namespace row_tables {
extern const RowKernels kPlain, kAvx2, kAvx512, kNeon;
}

struct ConvChoice {
    const ConvKernels *convs, *floats;  // of a network's convolutions, and of its attention
    const RowKernels *rows;
};

// float32 of "avx512", "avx2", "neon", "neondot" or "plain", or bfloat16 of "amx"; "" is the best that this processor
// has. Nulls where it, the system or the compiler that made this library lacks them.
ConvChoice choose_conv(const char *name, bool bf16);

}  // namespace cpu
