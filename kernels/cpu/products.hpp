// Rows times a packed matrix: the same order of sums for one row as for many.
#pragma once

#include "finish.hpp"
#include "kernels.hpp"

namespace {

#if defined(CPU_AVX512)
constexpr int kMaxRows = 12;     // 24 accumulators of 32 registers
constexpr int kMaxCodeRows = 8;  // each with accumulators of integers too
#elif defined(CPU_AVX2)
constexpr int kMaxRows = 3, kMaxCodeRows = 3;
#else
constexpr int kMaxRows = 2, kMaxCodeRows = 2;  // of NEON's 32 registers 16, and 8 for the weights
#endif

constexpr int kDepth = 256;  // inputs of a panel (32 KiB of floats) that stay in the first cache level for many rows

// How far in front of what is read a panel is fetched. Of 1 to 16 KiB into either cache level, for 2 to 16 rows, an
// Intel Xeon was the fastest with 4 KiB into the second (10 to 25 % over 2 KiB into the first). AMD's Zen 4 was with
// codes of 8 and 4 bits and 2 KiB into the first: a step of 8 rows in 8 bits took 4.2 ms, 6.0 as on Intel and 4.5
// without; with floats there was no difference. One row is as fast without on Intel; on Zen 4 codes of 4 bits are
// slowed down by it (1.1 ms without, 1.5 with), those of 8 are not.
struct Ahead {
    size_t bytes;
    bool near;  // into the first cache level
};
constexpr Ahead kAheadFar = {4096, false}, kAheadNear = {2048, true};

inline void fetch_line_pair(const void *w, Ahead ahead) {
    const char *p = (const char *)w + ahead.bytes;
    if (ahead.near) {
        prefetch_near(p);
        prefetch_near(p + 64);
    } else {
        prefetch_far(p);
        prefetch_far(p + 64);
    }
}

// tile (R, 32) += x (R, count) w (count, 32)
template <int R>
void product_fp32(const float *x, size_t stride, const float *w, int count, Ahead ahead, float *tile) {
    F16 sum[R][2];
    for (int r = 0; r < R; r++)
        for (int h = 0; h < 2; h++) sum[r][h] = load(tile + r * kPanel + h * kLanes);
    for (int k = 0; k < count; k++, w += kPanel) {
        fetch_line_pair(w, ahead);
        const F16 w0 = load(w), w1 = load(w + kLanes);
        for (int r = 0; r < R; r++) {
            const F16 v = splat(x[r * stride + k]);
            sum[r][0] = fma(v, w0, sum[r][0]);
            sum[r][1] = fma(v, w1, sum[r][1]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int h = 0; h < 2; h++) store(tile + r * kPanel + h * kLanes, sum[r][h]);
}

// tile (R, 32) += rows (R, blocks) in 8 bits times blocks of packed codes
template <int R, int Bits>
void product_codes(const int8_t *q, size_t q_stride, const float *scales, const int32_t *sums, size_t block_stride,
                   const uint8_t *w, int blocks, int block, Ahead ahead, float *tile) {
    constexpr int kZero = Bits == 8 ? kByteZero : 8;
    F16 total[R][2];
    for (int r = 0; r < R; r++)
        for (int h = 0; h < 2; h++) total[r][h] = load(tile + r * kPanel + h * kLanes);
    for (int b = 0; b < blocks; b++) {
        const uint16_t *halves = (const uint16_t *)w;
        w += 2 * kPanel;
        I16 sum[R][2];
        for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = splat_int(-kZero * sums[r * block_stride + b]);
        const int8_t *x = q + size_t(b) * block;
        for (int k = 0; k < block; k += 4, w += 128) {
            if (R > 1 || Bits == 8) fetch_line_pair(w, ahead);
            if (Bits == 8) {
                const Bytes c0 = load_bytes(w), c1 = load_bytes(w + 64);
                for (int r = 0; r < R; r++) {
                    sum[r][0] = dot4(sum[r][0], c0, x + r * q_stride + k);
                    sum[r][1] = dot4(sum[r][1], c1, x + r * q_stride + k);
                }
            } else {
                const Bytes c0 = load_codes(w), c1 = load_codes(w + 64);
                const Bytes l0 = low_nibbles(c0), l1 = low_nibbles(c1), h0 = high_nibbles(c0), h1 = high_nibbles(c1);
                for (int r = 0; r < R; r++) {
                    sum[r][0] = dot4(sum[r][0], l0, x + r * q_stride + k);
                    sum[r][1] = dot4(sum[r][1], l1, x + r * q_stride + k);
                }
                k += 4;
                for (int r = 0; r < R; r++) {
                    sum[r][0] = dot4(sum[r][0], h0, x + r * q_stride + k);
                    sum[r][1] = dot4(sum[r][1], h1, x + r * q_stride + k);
                }
            }
        }
        const F16 s0 = load_halves(halves), s1 = load_halves(halves + kLanes);
        for (int r = 0; r < R; r++) {
            const F16 scale = splat(scales[r * block_stride + b]);
            total[r][0] = fma(to_float(sum[r][0]), mul(s0, scale), total[r][0]);
            total[r][1] = fma(to_float(sum[r][1]), mul(s1, scale), total[r][1]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int h = 0; h < 2; h++) store(tile + r * kPanel + h * kLanes, total[r][h]);
}

// Calls `f` with the number of rows, 1 ... Max, as a type.
template <int R>
struct Count {
    static constexpr int value = R;
};
template <int Max, int R = 1, typename F>
inline void with_rows(int rows, F f) {
    if (rows == R)
        f(Count<R>());
    else if constexpr (R < Max)
        with_rows<Max, R + 1>(rows, f);
}

inline void multiply_rows(const cpu::Matrix &m, const uint8_t *panel, const cpu::Rows &in, int row, int rows, int first,
                          int count, Ahead ahead, float *tile) {
    if (m.bits == 32) {
        const float *x = in.x + row * in.stride + first;
        const float *w = (const float *)panel + size_t(first) * kPanel;
        with_rows<kMaxRows>(rows,
                            [&](auto r) { product_fp32<decltype(r)::value>(x, in.stride, w, count, ahead, tile); });
        return;
    }
    const size_t block_bytes = 2 * kPanel + size_t(m.block) * m.bits / 8 * kPanel;
    const int8_t *q = in.q + row * in.q_stride + size_t(first) * m.block;
    const float *scales = in.scales + row * in.block_stride + first;
    const int32_t *sums = in.sums + row * in.block_stride + first;
    const uint8_t *w = panel + first * block_bytes;
    with_rows<kMaxCodeRows>(rows, [&](auto r) {
        constexpr int R = decltype(r)::value;
        auto product = m.bits == 8 ? product_codes<R, 8> : product_codes<R, 4>;
        product(q, in.q_stride, scales, sums, in.block_stride, w, count, m.block, ahead, tile);
    });
}

void panel(const cpu::PanelTask &t) {
    const cpu::Matrix &m = *t.matrix;
    const uint8_t *data = m.data + t.panel * m.panel_bytes;
    const int rows = t.last - t.first;
    begin_tile(t);
    const int depth = m.bits == 32 ? m.inputs : m.blocks;
    const int most = m.bits == 32 ? kMaxRows : kMaxCodeRows, groups = (rows + most - 1) / most;
    const int step = groups == 1 ? depth : m.bits == 32 ? kDepth : 4 * kDepth / m.block;
    const size_t step_bytes = m.panel_bytes / depth * step;
    for (int first = 0; first < depth; first += step) {
        const int count = depth - first < step ? depth - first : step;
        for (int g = 0; g < groups; g++) {
            const int begin = rows * g / groups, end = rows * (g + 1) / groups;
            // while the last rows go through one step of the panel, the next step comes from memory
            Ahead ahead = t.near && m.bits != 32 && rows > 1 ? kAheadNear : kAheadFar;
            if (groups > 1 && g + 1 == groups) ahead = {step_bytes, false};
            multiply_rows(m, data, *t.rows, t.first + begin, end - begin, first, count, ahead, t.tile + begin * kPanel);
        }
    }
    finish_tile(t);
}

}  // namespace
