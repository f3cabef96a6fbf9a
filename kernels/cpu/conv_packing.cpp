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

// Doubles of 16 outputs, as vectors of GCC and Clang.
typedef double Lanes __attribute__((vector_size(16 * sizeof(double))));

void four_taps(const Lanes *taps, size_t stride, Lanes *to) {
    constexpr double a = 0.625, b = 1.5, a2 = a * a, b2 = b * b;
    const Lanes w0 = taps[0], w1 = taps[stride], w2 = taps[2 * stride];
    auto at = [&](double p, double norm) { return (w0 + p * (w1 + p * w2)) / norm; };
    to[0] = w0 / (a2 * b2);
    to[1] = at(a, 2 * a2 * (a2 - b2));
    to[2] = at(-a, 2 * a2 * (a2 - b2));
    to[3] = at(b, 2 * b2 * (b2 - a2));
    to[4] = at(-b, 2 * b2 * (b2 - a2));
    to[5] = w2;
}

void two_taps(const Lanes *taps, size_t stride, Lanes *to) {
    const Lanes w0 = taps[0], w1 = taps[stride], w2 = taps[2 * stride];
    to[0] = w0;
    to[1] = (w0 + w1 + w2) / 2;
    to[2] = (w0 - w1 + w2) / 2;
    to[3] = w2;
}

void halved_taps(const Lanes *taps, size_t stride, Lanes *to) {
    const Lanes w0 = taps[0], w1 = taps[stride], w2 = taps[2 * stride];
    to[0] = w0;
    to[1] = w0 + w2;
    to[2] = w2;
    to[3] = w1;
}

void doubled_taps(const Lanes *taps, size_t stride, Lanes *to) {
    const Lanes w0 = taps[0], w1 = taps[stride], w2 = taps[2 * stride];
    to[0] = w0;
    to[1] = w0 + w1 + w2;
    to[2] = w1 + w2;
    to[3] = w0 + w1;
    to[4] = w2;
}

const Tiles kTiles[] = {
    {kFour, 6, 4, 6, {0, 1, 2, 3, 4, 5}},
    {kTwo, 4, 2, 4, {0, 1, 2, 3}},
    {kHalved, 5, 2, 4, {0, 1, 2, 3, 3}},
    {kDoubled, 6, 2, 5, {0, 1, 2, 3, 1, 4}},
};

// `Four` has four times the weights. From 512 to 512 channels, 38 MB, the time to read them would be felt.
constexpr int kMostWeights = (20 << 20) / (36 * 4);  // 20 MB

TileForm tile_form(const ConvSizes &s) {
    if (s.mode == kDouble) return kDoubled;
    if (s.mode == kHalve) return kHalved;
    return s.inputs * s.outputs <= kMostWeights ? kFour : kTwo;
}

void (*const kTaps[])(const Lanes *, size_t, Lanes *) = {four_taps, two_taps, halved_taps, doubled_taps};

size_t kernel_elements(const Conv &c, int vectors, int depth) {
    return size_t(c.blocks) * c.taps * depth * vectors * kBlock;
}

// One input and 16 outputs of a panel.
void pack_transformed(const Conv &c, const float *weights, int panel, int vector, int input) {
    const ConvSizes &s = c.sizes;
    const int first = panel * 2 * kBlock + vector * kBlock, count = std::min(kBlock, s.outputs - first);
    const int side = c.tiles->kernels, width = c.panel_vectors(panel) * kBlock;
    Lanes taps[9] = {}, half[3 * 6], column[6];
    for (int lane = 0; lane < count; lane++)
        for (int k = 0; k < 9; k++) taps[k][lane] = weights[(size_t(first + lane) * s.inputs + input) * 9 + k];
    const auto transform = kTaps[c.tiles->form];
    for (int y = 0; y < 3; y++) transform(taps + 3 * y, 1, half + side * y);
    for (int x = 0; x < side; x++) {
        transform(half + x, side, column);
        for (int y = 0; y < side; y++) {
            float *to = (float *)c.weights(panel, y * side + x) + size_t(input) * width + vector * kBlock;
            for (int lane = 0; lane < kBlock; lane++) to[lane] = float(column[y][lane]);
        }
    }
}

void pack_taps(const Conv &c, const float *weights, int panel) {
    const ConvSizes &s = c.sizes;
    const int depth = c.depth(), area = s.side * s.side, vectors = c.panel_vectors(panel);
    const int first = panel * 2 * kBlock, last = std::min(first + vectors * kBlock, s.outputs);
    for (int o = first; o < last; o++)
        for (int kernel = 0; kernel < c.kernels; kernel++) {
            char *to = (char *)c.weights(panel, kernel);
            const int lane = o - first;
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
}

struct Packing {
    const Conv *conv;
    const float *weights;
    ThreadPool *pool;
};

void pack_share(void *argument, int thread) {
    const Packing &p = *(const Packing *)argument;
    const Conv &c = *p.conv;
    for (int panel; (panel = p.pool->take(thread, c.panels())) >= 0;) {
        const size_t bytes = kernel_elements(c, c.panel_vectors(panel), c.depth()) * c.kernels * c.element;
        memset((void *)c.weights(panel, 0), 0, bytes);
        if (!c.tiles) {
            pack_taps(c, p.weights, panel);
            continue;
        }
        for (int input = 0; input < c.sizes.inputs; input++)
            for (int v = 0; v < c.panel_vectors(panel); v++) pack_transformed(c, p.weights, panel, v, input);
    }
}

}  // namespace

const void *Conv::weights(int panel, int kernel) const {
    const size_t before = size_t(panel) * kernels * kernel_elements(*this, 2, depth());
    return (const char *)memory.data() +
           (before + kernel * kernel_elements(*this, panel_vectors(panel), depth())) * element;
}

int Conv::plane_kernel(int plane) const {
    return tiles->places[plane / tiles->products] * tiles->kernels + tiles->places[plane % tiles->products];
}

bool pack_conv(const ConvSizes &s, const float *weights, const float *bias, const ConvKernels &kernels,
               ThreadPool &pool, Conv &c) {
    const int depth = kernels.depth;
    c.sizes = s;
    c.blocks = (s.inputs + depth - 1) / depth;
    c.element = depth == 16 ? 4 : 2;
    c.bias.assign(c.vectors() * kBlock, 0.0f);
    std::copy(bias, bias + s.outputs, c.bias.begin());
    c.tiles = kernels.tiles && s.side == 3 ? &kTiles[tile_form(s)] : nullptr;
    if (c.tiles) {
        c.taps = 1;
        c.kernels = c.tiles->kernels * c.tiles->kernels;
    } else {
        c.kernels = s.mode == kDouble ? 4 : 1;
        c.taps = s.mode == kDouble ? 4 : s.side * s.side;
    }
    const size_t bytes = c.kernels * kernel_elements(c, c.vectors(), depth) * c.element;
    if (!c.memory.reserve(bytes)) return false;
    Packing packing = {&c, weights, &pool};
    pool.run(pack_share, &packing);
    return true;
}

}  // namespace cpu
