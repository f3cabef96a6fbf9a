// Strips, moments and the softmax: what is done to activations between two convolutions.
#pragma once

#include "activations.hpp"
#include "conv.hpp"

namespace {

struct Accurate {
    static F16 quotient(F16 x, F16 y) { return divide(x, y); }
};

// x times its sigmoid, x / (1 + exp(-x)).
template <class Division>
inline F16 swish(F16 x) {
    const F16 e = exponential_within(larger(smaller(sub(splat(0.0f), x), splat(87.0f)), splat(-87.0f)));
    return Division::quotient(x, add(splat(1.0f), e));
}

// `Strip` says what an element is and how up to Strip::kHalves x 16 channels of a pixel are written.
template <class Strip, class Division>
void fill(const cpu::FillTask &t) {
    using Element = typename Strip::Element;
    constexpr int depth = Strip::kHalves * kLanes;
    const size_t plane = size_t(t.height) * t.width * kLanes;
    const int left = t.x0 < 0 ? -t.x0 : 0;
    const int right = t.x0 + t.columns > t.width ? t.width - t.x0 : t.columns;  // first column beyond the picture
    for (int b = 0; b * Strip::kHalves < t.blocks; b++) {
        const int halves =
            t.blocks - b * Strip::kHalves < Strip::kHalves ? t.blocks - b * Strip::kHalves : Strip::kHalves;
        F16 center[Strip::kHalves], scale[Strip::kHalves], shift[Strip::kHalves];
        for (int h = 0; h < Strip::kHalves; h++) {
            const int channel = (b * Strip::kHalves + h) * kLanes;
            const bool known = t.center && h < halves;
            center[h] = known ? load(t.center + channel) : splat(0.0f);
            scale[h] = known ? load(t.scale + channel) : splat(0.0f);
            shift[h] = known ? load(t.shift + channel) : splat(0.0f);
        }
        for (int r = 0; r < t.rows; r++) {
            Element *to = (Element *)t.strip + b * t.block_stride + size_t(r) * t.columns * depth;
            const int y = t.y0 + r;
            if (y < 0 || y >= t.height) {
                memset(to, 0, size_t(t.columns) * depth * sizeof(Element));
                continue;
            }
            const float *from =
                t.in + size_t(b) * Strip::kHalves * plane + (ptrdiff_t(y) * t.width + t.x0) * ptrdiff_t(kLanes);
            memset(to, 0, size_t(left) * depth * sizeof(Element));
            memset(to + size_t(right) * depth, 0, size_t(t.columns - right) * depth * sizeof(Element));
            for (int x = left; x < right; x++) {
                F16 v[Strip::kHalves];
                for (int h = 0; h < Strip::kHalves; h++) {
                    v[h] = h < halves ? load(from + h * plane + size_t(x) * kLanes) : splat(0.0f);
                    if (t.center && h < halves) v[h] = fma(sub(v[h], center[h]), scale[h], shift[h]);
                    if (t.swish) v[h] = swish<Division>(v[h]);
                }
                Strip::put(to + size_t(x) * depth, v);
            }
        }
    }
}

// The mean is taken twice: sums about the first, rounded one lose nothing where a channel is nearly constant.
inline void moments(const cpu::MomentsTask &t) {
    F16 total = splat(0.0f);
    const F16 first = load(t.x), share = splat(1.0f / float(t.columns));
    for (int x = 0; x < t.columns; x++) total = add(total, sub(load(t.x + size_t(x) * kLanes), first));
    const F16 mean = fma(total, share, first);
    F16 rest = splat(0.0f), squares = splat(0.0f);
    for (int x = 0; x < t.columns; x++) {
        const F16 d = sub(load(t.x + size_t(x) * kLanes), mean);
        rest = add(rest, d);
        squares = fma(d, d, squares);
    }
    store(t.moments, mean);
    store(t.moments + kLanes, mul(rest, share));
    store(t.moments + 2 * kLanes, sub(squares, mul(mul(rest, rest), share)));
}

inline void softmax(const cpu::SoftmaxTask &t) {
    const int blocks = (t.keys + kLanes - 1) / kLanes;
    F16 most = splat(-INFINITY);
    for (int b = 0; b < blocks; b++)
        most = larger(most, keep_below(load(t.scores + b * t.block_stride), t.keys - b * kLanes, -INFINITY));
    const F16 largest = splat(largest_lane(most)), scale = splat(t.scale);
    F16 total = splat(0.0f);
    for (int b = 0; b < blocks; b++) {
        float *at = t.scores + b * t.block_stride;
        const F16 e = exponential(mul(sub(load(at), largest), scale));
        const F16 kept = keep_below(e, t.keys - b * kLanes, 0.0f);
        store(at, kept);
        total = add(total, kept);
    }
    const F16 factor = splat(1.0f / sum_lanes(total));
    for (int b = 0; b < blocks; b++) {
        float *at = t.scores + b * t.block_stride;
        store(at, mul(load(at), factor));
    }
}

}  // namespace
