// Everything that works on one row by itself: layer normalisation, GELU, the exponential, rounding to 8 bits.
//
// Polynomials were fitted for this file (weighted minimax in float64); the error of each is told beside it.
#pragma once

#include "lanes.hpp"

namespace {

// exp(x) for |x| <= 87, within 2 units in the last place.
inline F16 exponential_within(F16 x) {
    const I16 n = to_int(mul(x, splat(1.44269504f)));
    const F16 whole = to_float(n);
    F16 r = fma(whole, splat(-0.693359375f), x);  // ln 2 in two parts
    r = fma(whole, splat(2.12194440e-4f), r);
    F16 p = splat(0.0013956119f);
    p = fma(p, r, splat(0.0083751706f));
    p = fma(p, r, splat(0.0416660830f));
    p = fma(p, r, splat(0.1666641533f));
    p = fma(p, r, splat(0.5f));
    p = fma(p, r, splat(1.0f));
    p = fma(p, r, splat(1.0f));
    return times_power_of_two(p, n);
}

// exp(x) for x <= 0: within 2 units in the last place down to -87, 0 below.
inline F16 exponential(F16 x) {
    return where_below(x, splat(-87.0f), splat(0.0f), exponential_within(larger(x, splat(-87.0f))));
}

// x (1 + erf(x / sqrt 2)) / 2: erf below 1 as z times a polynomial in z^2 (error 1.2e-9), beyond as 1 - exp(polynomial)
// (error 2e-9 in erfc), and 1 from 4 on.
inline F16 gelu(F16 x) {
    const F16 z = magnitude(mul(x, splat(0.70710678f)));
    const F16 s = mul(z, z);
    F16 p = splat(7.88911930e-5f);
    p = fma(p, s, splat(-8.02084105e-4f));
    p = fma(p, s, splat(5.18953521e-3f));
    p = fma(p, s, splat(-2.68544443e-2f));
    p = fma(p, s, splat(0.112836003f));
    p = fma(p, s, splat(-0.376126260f));
    p = fma(p, s, splat(1.12837911f));
    const F16 near = mul(p, z);
    const F16 c = smaller(z, splat(4.0f));
    F16 q = splat(-2.16868502e-5f);
    q = fma(q, c, splat(4.41336364e-4f));
    q = fma(q, c, splat(-4.20456193e-3f));
    q = fma(q, c, splat(2.52082571e-2f));
    q = fma(q, c, splat(-0.108418576f));
    q = fma(q, c, splat(-0.633219898f));
    q = fma(q, c, splat(-1.12957847f));
    q = fma(q, c, splat(1.88040227e-4f));
    const F16 far = sub(splat(1.0f), exponential(q));
    const F16 erf = with_sign_of(where_below(z, splat(1.0f), near, far), x);
    const F16 half = mul(x, splat(0.5f));
    return fma(half, erf, half);
}

// out = (x - mean) / sqrt(variance + 1e-5) * weight + bias over `width` values; out may be x.
inline void layer_norm(const float *x, const float *weight, const float *bias, int width, float *out) {
    F16 total = splat(0.0f);
    for (int i = 0; i < width; i += kLanes) total = add(total, load_part(x + i, width - i, 0.0f));
    const float mean = sum_lanes(total) / float(width);
    F16 squares = splat(0.0f);
    for (int i = 0; i < width; i += kLanes) {
        const F16 d = sub(load_part(x + i, width - i, mean), splat(mean));
        squares = fma(d, d, squares);
    }
    const F16 scale = splat(1.0f / std::sqrt(sum_lanes(squares) / float(width) + 1e-5f));
    for (int i = 0; i < width; i += kLanes) {
        const F16 d = mul(sub(load_part(x + i, width - i, 0.0f), splat(mean)), scale);
        const F16 y = fma(d, load_part(weight + i, width - i, 0.0f), load_part(bias + i, width - i, 0.0f));
        store_part(out + i, y, width - i);
    }
}

// A row in blocks of `block` (32 or 64) as q in -127 ... 127 with x = q * scale; `sums` is the sum of a block's q.
// Reads `x` up to a whole number of blocks, where it must hold zeros.
inline void quantize_row(const float *x, int blocks, int block, int8_t *q, float *scales, int32_t *sums) {
    for (int b = 0; b < blocks; b++) {
        F16 most = splat(0.0f);
        for (int i = 0; i < block; i += kLanes) most = larger(most, magnitude(load(x + b * block + i)));
        const float largest = largest_lane(most);
        const bool empty = largest < 1e-30f;  // whose reciprocal might overflow
        const F16 factor = splat(empty ? 0.0f : 127.0f / largest);
        F16 sum = splat(0.0f);
        for (int i = 0; i < block; i += kLanes) {
            const I16 rounded = to_int(mul(load(x + b * block + i), factor));
            store_bytes(q + b * block + i, rounded);
            sum = add(sum, to_float(rounded));
        }
        scales[b] = empty ? 0.0f : largest / 127.0f;
        sums[b] = int32_t(sum_lanes(sum));
    }
}

}  // namespace
