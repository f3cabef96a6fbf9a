// Kernels of convolutions in the order in which they are read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "conv.hpp"
#include "memory.hpp"
#include "thread_pool.hpp"

namespace cpu {

enum ConvMode {  // the last two of 3x3 only
    kSame,       // output and input are of one size: zeros around
    kHalve,      // every second pixel, zeros right and below
    kDouble,     // of the picture with each pixel twice in both directions, as four convolutions of 2x2 taps
};

struct ConvSizes {
    int32_t outputs, inputs, side, mode;
};

// A form of winograd.hpp, along one side of a tile.
struct Tiles {
    TileForm form;
    int products, step;      // step: outputs, before doubling
    int kernels, places[6];  // products of the same weight share a kernel

    int planes() const { return products * products; }
};

// A convolution, packed in panels of 32 outputs, of which the last may have 16; in a panel one kernel, or four for the
// outputs above and left, above and right, below and left, below and right. In Winograd's form kernels of one tap.
struct Conv {
    ConvSizes sizes;
    int blocks;  // of the inputs, of the strip's depth
    int kernels, taps;
    const Tiles *tiles;  // of Winograd's form, else null
    size_t element;      // bytes
    Memory memory;
    std::vector<float> bias;  // padded

    int vectors() const { return (sizes.outputs + kBlock - 1) / kBlock; }
    int depth() const { return element == 4 ? 16 : 32; }
    int panels() const { return (vectors() + 1) / 2; }
    int panel_vectors(int panel) const { return vectors() - 2 * panel < 2 ? 1 : 2; }
    const void *weights(int panel, int kernel) const;
    int plane_kernel(int plane) const;  // the kernel of a plane of products
};

// Packs weights (outputs, inputs, side, side) for `kernels`, those of 3x3 in a form of Winograd's where it has them;
// returns false where memory is lacking.
bool pack_conv(const ConvSizes &sizes, const float *weights, const float *bias, const ConvKernels &kernels,
               ThreadPool &pool, Conv &conv);

}  // namespace cpu
