#include "conv_packing.hpp"

#include <algorithm>
#include <cstring>

namespace cpu {

namespace {

uint16_t to_bf16(float x) {  // to nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The weight of a tap, where `kernel` is a kernel of a convolution in its mode. Behind a doubled picture rows 0 and 1
// of the kernel above stand for rows 0 and 1 + 2 of the 3x3 taps, those of the one below for 0 + 1 and 2; columns
// alike.
float tap_weight(const ConvSizes &s, const float *weights, int kernel, int tap) {
    if (s.mode != kDouble) return weights[tap];
    auto range = [](int second, int place, int &first, int &last) {
        first = place ? (second ? 2 : 1) : 0;
        last = place ? 2 : (second ? 1 : 0);
    };
    int top, bottom, left, right;
    range(kernel / 2, tap / 2, top, bottom);
    range(kernel % 2, tap % 2, left, right);
    float sum = 0;
    for (int y = top; y <= bottom; y++)
        for (int x = left; x <= right; x++) sum += weights[3 * y + x];
    return sum;
}

size_t kernel_elements(const Conv &c, int vectors, int depth) {
    return size_t(c.blocks) * c.taps * depth * vectors * kBlock;
}

}  // namespace

const void *Conv::weights(int panel, int kernel) const {
    const int depth = element == 4 ? 16 : 32;
    const size_t before = size_t(panel) * kernels * kernel_elements(*this, 2, depth);
    return (const char *)memory.data() +
           (before + kernel * kernel_elements(*this, panel_vectors(panel), depth)) * element;
}

bool pack_conv(const ConvSizes &s, const float *weights, const float *bias, int depth, Conv &c) {
    c.sizes = s;
    c.blocks = (s.inputs + depth - 1) / depth;
    c.kernels = s.mode == kDouble ? 4 : 1;
    c.taps = s.mode == kDouble ? 4 : s.side * s.side;
    c.element = depth == 16 ? 4 : 2;
    c.bias.assign(c.vectors() * kBlock, 0.0f);
    std::copy(bias, bias + s.outputs, c.bias.begin());
    const size_t bytes = c.kernels * kernel_elements(c, c.vectors(), depth) * c.element;
    if (!c.memory.reserve(bytes)) return false;
    memset(c.memory.data(), 0, bytes);
    const int area = s.side * s.side;
    for (int o = 0; o < s.outputs; o++)
        for (int kernel = 0; kernel < c.kernels; kernel++) {
            const int panel = o / (2 * kBlock), vectors = c.panel_vectors(panel), lane = o % (2 * kBlock);
            char *to = (char *)c.weights(panel, kernel);
            for (int i = 0; i < s.inputs; i++)
                for (int tap = 0; tap < c.taps; tap++) {
                    const float w = tap_weight(s, weights + (size_t(o) * s.inputs + i) * area, kernel, tap);
                    const size_t row = size_t(i / depth) * c.taps + tap;
                    if (c.element == 4) {
                        ((float *)to)[(row * depth + i % depth) * vectors * kBlock + lane] = w;
                    } else {  // (row, vector, pair, 16, 2)
                        const size_t pair = (row * vectors + lane / kBlock) * depth / 2 + i % depth / 2;
                        ((uint16_t *)to)[(pair * kBlock + lane % kBlock) * 2 + i % 2] = to_bf16(w);
                    }
                }
        }
    return true;
}

}  // namespace cpu
