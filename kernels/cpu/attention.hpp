// Attention of a few queries to a prefix of one head's cache: the same order of sums for one query as for many.
#pragma once

#include "activations.hpp"
#include "kernels.hpp"

namespace {

#if defined(CPU_AVX512)
constexpr int kMaxQueries = 6, kKeyBlocks = 4, kValueLanes = 4;
#elif defined(CPU_AVX2) || defined(CPU_NEON)
constexpr int kMaxQueries = 2, kKeyBlocks = 2, kValueLanes = 2;
#else
constexpr int kMaxQueries = 1, kKeyBlocks = 2, kValueLanes = 2;
#endif

// scores (Q queries) of P blocks of 16 positions; each is summed over the channels from first to last
template <int Q, int P>
inline void score_blocks(const cpu::AttentionTask &t, int block, size_t stride) {
    F16 sum[Q][P];
    for (int q = 0; q < Q; q++)
        for (int p = 0; p < P; p++) sum[q][p] = splat(0.0f);
    const size_t block_size = size_t(t.head_size) * kLanes;
    const float *keys = t.keys + block * block_size;
    for (int d = 0; d < t.head_size; d++) {
        F16 k[P];
        for (int p = 0; p < P; p++) k[p] = load(keys + p * block_size + d * kLanes);
        for (int q = 0; q < Q; q++) {
            const F16 v = splat(t.query[q][d]);
            for (int p = 0; p < P; p++) sum[q][p] = fma(v, k[p], sum[q][p]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int p = 0; p < P; p++) store(t.scores + q * stride + (block + p) * kLanes, sum[q][p]);
}

// Turns scores into exponentials, 0 beyond `visible`; returns their sum.
inline float soften(float *scores, int visible, int blocks) {
    F16 most = splat(-INFINITY);
    for (int b = 0; b * kLanes < visible; b++)
        most = larger(most, keep_below(load(scores + b * kLanes), visible - b * kLanes, -INFINITY));
    const F16 largest = splat(largest_lane(most));
    F16 total = splat(0.0f);
    for (int b = 0; b < blocks; b++) {
        float *at = scores + b * kLanes;
        const F16 e = keep_below(exponential(sub(load(at), largest)), visible - b * kLanes, 0.0f);
        store(at, e);
        total = add(total, e);
    }
    return sum_lanes(total);
}

// V x 16 channels of the outputs; each is summed over the positions from first to last
template <int Q, int V>
inline void sum_values(const cpu::AttentionTask &t, int channel, int positions, size_t stride, const float *factors) {
    F16 sum[Q][V];
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++) sum[q][v] = splat(0.0f);
    const float *at = t.values + channel;
    for (int s = 0; s < positions; s++, at += t.value_stride) {
        F16 value[V];
        for (int v = 0; v < V; v++) value[v] = load(at + v * kLanes);
        for (int q = 0; q < Q; q++) {
            const F16 weight = splat(t.scores[q * stride + s]);
            for (int v = 0; v < V; v++) sum[q][v] = fma(weight, value[v], sum[q][v]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++) {
            const int from = channel + v * kLanes;
            store_part(t.out[q] + from, mul(sum[q][v], splat(factors[q])), t.head_size - from);
        }
}

template <int Q>
void attend_queries(const cpu::AttentionTask &t) {
    int positions = 0;
    for (int q = 0; q < Q; q++) positions = t.visible[q] > positions ? t.visible[q] : positions;
    const int blocks = (positions + kLanes - 1) / kLanes;
    const size_t stride = size_t(blocks) * kLanes;
    int block = 0;
    for (; block + kKeyBlocks <= blocks; block += kKeyBlocks) score_blocks<Q, kKeyBlocks>(t, block, stride);
    for (; block < blocks; block++) score_blocks<Q, 1>(t, block, stride);
    float factors[Q];
    for (int q = 0; q < Q; q++) factors[q] = 1.0f / soften(t.scores + q * stride, t.visible[q], blocks);
    int channel = 0;
    for (; channel + kValueLanes * kLanes <= t.value_stride; channel += kValueLanes * kLanes)
        sum_values<Q, kValueLanes>(t, channel, positions, stride, factors);
    for (; channel < t.value_stride; channel += kLanes) sum_values<Q, 1>(t, channel, positions, stride, factors);
}

void attend(const cpu::AttentionTask &t) {
    if (t.count == 1) attend_queries<1>(t);
    if constexpr (kMaxQueries >= 2)
        if (t.count == 2) attend_queries<2>(t);
    if constexpr (kMaxQueries >= 4) {
        if (t.count == 3) attend_queries<3>(t);
        if (t.count == 4) attend_queries<4>(t);
    }
    if constexpr (kMaxQueries >= 6) {
        if (t.count == 5) attend_queries<5>(t);
        if (t.count == 6) attend_queries<6>(t);
    }
}

}  // namespace
