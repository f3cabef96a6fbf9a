// Winograd's convolutions of 3x3: a tile of 4x4 outputs takes 36 products for each input channel instead of 144. What
// lies before and behind the products is here, the weights' part in conv_packing.cpp. Both go along rows, then columns.
#pragma once

#include "conv.hpp"
#include "lanes.hpp"

namespace {

constexpr float kA = 0.625f, kB = 1.5f;
constexpr float kA2 = kA * kA, kB2 = kB * kB;  // exact, as are all below

// F(4, 3): the polynomial product of Cook and Toom at 0, a, -a, b, -b and infinity. Their choice is free and decides
// how much rounding is blown up: of 128 random channels the error's deviation is 1.04e-6 of the outputs' with
// these, 2.5e-6 with the usual 1 and 2, and 0.6e-6 where 1152 products are summed one by one.
struct Four {
    static constexpr int kInputs = 6, kStep = 4, kProducts = 6, kOutputs = 4;

    static inline void before(const F16 *d, F16 *v) {
        const F16 sum = splat(-(kA2 + kB2)), product = splat(kA2 * kB2);
        v[0] = fma(d[0], product, fma(d[2], sum, d[4]));
        v[5] = fma(d[1], product, fma(d[3], sum, d[5]));
        const F16 even_a = fma(d[2], splat(-kB2), d[4]), odd_a = fma(d[1], splat(-kB2), d[3]);
        v[1] = fma(odd_a, splat(kA), even_a);
        v[2] = fma(odd_a, splat(-kA), even_a);
        const F16 even_b = fma(d[2], splat(-kA2), d[4]), odd_b = fma(d[1], splat(-kA2), d[3]);
        v[3] = fma(odd_b, splat(kB), even_b);
        v[4] = fma(odd_b, splat(-kB), even_b);
    }

    static inline void behind(const F16 *m, F16 *y) {
        const F16 even_a = add(m[1], m[2]), odd_a = sub(m[1], m[2]), even_b = add(m[3], m[4]), odd_b = sub(m[3], m[4]);
        y[0] = add(add(even_a, even_b), m[0]);
        y[1] = fma(odd_b, splat(kB), mul(odd_a, splat(kA)));
        y[2] = fma(even_b, splat(kB2), mul(even_a, splat(kA2)));
        y[3] = add(fma(odd_b, splat(kB * kB2), mul(odd_a, splat(kA * kA2))), m[5]);
    }
};

// F(2, 3) at 0, 1, -1 and infinity: 16 products instead of 36, and half the weights of `Four`.
struct Two {
    static constexpr int kInputs = 4, kStep = 2, kProducts = 4, kOutputs = 2;

    static inline void before(const F16 *d, F16 *v) {
        v[0] = sub(d[0], d[2]);
        v[1] = add(d[2], d[1]);
        v[2] = sub(d[2], d[1]);
        v[3] = sub(d[3], d[1]);
    }

    static inline void behind(const F16 *m, F16 *y) {
        y[0] = add(m[0], add(m[1], m[2]));
        y[1] = add(sub(m[1], m[2]), m[3]);
    }
};

// Every second output: those taps that meet even pixels as F(2, 2), the middle one by itself; 25 products instead
// of 36.
struct Halved {
    static constexpr int kInputs = 5, kStep = 4, kProducts = 5, kOutputs = 2;

    static inline void before(const F16 *d, F16 *v) {
        v[0] = sub(d[0], d[2]);
        v[1] = d[2];
        v[2] = sub(d[4], d[2]);
        v[3] = d[1];
        v[4] = d[3];
    }

    static inline void behind(const F16 *m, F16 *y) {
        y[0] = add(add(m[0], m[1]), m[3]);
        y[1] = add(add(m[1], m[2]), m[4]);
    }
};

// Of the doubled picture. Four outputs need four pixels only and two filters of two taps, each of which two outputs
// share: F(2, 2) twice, 36 products instead of 144 (64 with the taps added up).
struct Doubled {
    static constexpr int kInputs = 4, kStep = 2, kProducts = 6, kOutputs = 4;

    static inline void before(const F16 *d, F16 *v) {
        v[0] = sub(d[0], d[1]);
        v[1] = d[1];
        v[2] = sub(d[2], d[1]);
        v[3] = sub(d[1], d[2]);
        v[4] = d[2];
        v[5] = sub(d[3], d[2]);
    }

    static inline void behind(const F16 *m, F16 *y) {
        y[0] = add(m[0], m[1]);
        y[1] = add(m[3], m[4]);
        y[2] = add(m[1], m[2]);
        y[3] = add(m[4], m[5]);
    }
};

template <class Form>
void transform_inputs(const cpu::InputTiles &t) {
    constexpr int n = Form::kInputs, products = Form::kProducts;
    const int tiles = t.tile_rows * t.tile_columns;
    for (int b = 0; b < t.blocks; b++)
        for (int tile = 0; tile < tiles; tile++) {
            const int row = tile / t.tile_columns, column = tile % t.tile_columns;
            const float *from =
                t.strip + b * t.block_stride + row * Form::kStep * t.row_stride + column * Form::kStep * kLanes;
            F16 half[products][n];
            for (int x = 0; x < n; x++) {
                F16 d[n], v[products];
                for (int y = 0; y < n; y++) d[y] = load(from + y * t.row_stride + x * kLanes);
                Form::before(d, v);
                for (int y = 0; y < products; y++) half[y][x] = v[y];
            }
            float *to = t.out + (size_t(b) * tiles + tile) * kLanes;
            for (int y = 0; y < products; y++) {
                F16 v[products];
                Form::before(half[y], v);
                for (int x = 0; x < products; x++) store(to + (y * products + x) * t.plane, v[x]);
            }
        }
}

template <class Form>
void transform_outputs(const cpu::OutputTiles &t) {
    constexpr int n = Form::kOutputs, products = Form::kProducts;
    const int tiles = t.tile_rows * t.tile_columns;
    for (int v = 0; v < t.vectors; v++) {
        const F16 bias = load(t.bias + v * kLanes);
        for (int tile = 0; tile < tiles; tile++) {
            const float *from = t.products + (size_t(v) * tiles + tile) * kLanes;
            F16 half[n][products];
            for (int x = 0; x < products; x++) {
                F16 m[products], y[n];
                for (int i = 0; i < products; i++) m[i] = load(from + (i * products + x) * t.plane);
                Form::behind(m, y);
                for (int i = 0; i < n; i++) half[i][x] = y[i];
            }
            const int row = tile / t.tile_columns * n, column = tile % t.tile_columns * n;
            const int rows = t.rows - row < n ? t.rows - row : n;
            const int columns = t.columns - column < n ? t.columns - column : n;
            const size_t first = v * t.out_block_stride + row * t.out_row_stride + column * kLanes;
            for (int i = 0; i < rows; i++) {
                F16 y[n];
                Form::behind(half[i], y);
                for (int x = 0; x < columns; x++) {
                    const size_t at = first + i * t.out_row_stride + x * kLanes;
                    const F16 sum = add(y[x], bias);
                    store(t.out + at, t.add ? add(sum, load(t.add + at)) : sum);
                }
            }
        }
    }
}

const cpu::TileTransforms kTileTransforms[] = {
    {transform_inputs<Four>, transform_outputs<Four>},
    {transform_inputs<Two>, transform_outputs<Two>},
    {transform_inputs<Halved>, transform_outputs<Halved>},
    {transform_inputs<Doubled>, transform_outputs<Doubled>},
};

}  // namespace
