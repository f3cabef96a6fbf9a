// Attention of a few queries to a prefix of one head's cache: the same order of sums for one query as for many. Sums
// are floats, whatever the cache holds.
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

// numbers of a cache
inline F16 load_numbers(const float *p) {
    return load(p);
}
inline F16 load_numbers(const uint16_t *p) {
    return load_halves(p);
}
inline void store_numbers(float *p, F16 x) {
    store(p, x);
}
inline void store_numbers(uint16_t *p, F16 x) {
    const F16 most = splat(65504.0f), least = splat(-65504.0f);  // of float16; what isn't a number stays none
    store_halves(p, smaller(most, larger(least, x)));
}

// scores (Q queries) of P blocks of 16 positions; each is summed over the channels from first to last
template <typename Number, int Q, int P>
inline void score_blocks(const cpu::AttentionTask &t, int block, size_t stride) {
    F16 sum[Q][P];
    for (int q = 0; q < Q; q++)
        for (int p = 0; p < P; p++) sum[q][p] = splat(0.0f);
    const int head_size = t.cache.head_size;
    const size_t block_size = size_t(head_size) * kLanes;
    const Number *keys = (const Number *)t.cache.keys + block * block_size;
    for (int d = 0; d < head_size; d++) {
        F16 k[P];
        for (int p = 0; p < P; p++) k[p] = load_numbers(keys + p * block_size + d * kLanes);
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
template <typename Number, int Q, int V>
inline void sum_values(const cpu::AttentionTask &t, int channel, int positions, size_t stride, const float *factors) {
    F16 sum[Q][V];
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++) sum[q][v] = splat(0.0f);
    const size_t value_stride = t.cache.value_stride;
    const Number *at = (const Number *)t.cache.values + channel;
    for (int s = 0; s < positions; s++, at += value_stride) {
        F16 value[V];
        for (int v = 0; v < V; v++) value[v] = load_numbers(at + v * kLanes);
        for (int q = 0; q < Q; q++) {
            const F16 weight = splat(t.scores[q * stride + s]);
            for (int v = 0; v < V; v++) sum[q][v] = fma(weight, value[v], sum[q][v]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++) {
            const int from = channel + v * kLanes;
            store_part(t.out[q] + from, mul(sum[q][v], splat(factors[q])), t.cache.head_size - from);
        }
}

template <typename Number, int Q>
void attend_queries(const cpu::AttentionTask &t) {
    int positions = 0;
    for (int q = 0; q < Q; q++) positions = t.visible[q] > positions ? t.visible[q] : positions;
    const int blocks = (positions + kLanes - 1) / kLanes;
    const size_t stride = size_t(blocks) * kLanes;
    int block = 0;
    for (; block + kKeyBlocks <= blocks; block += kKeyBlocks) score_blocks<Number, Q, kKeyBlocks>(t, block, stride);
    for (; block < blocks; block++) score_blocks<Number, Q, 1>(t, block, stride);
    float factors[Q];
    for (int q = 0; q < Q; q++) factors[q] = 1.0f / soften(t.scores + q * stride, t.visible[q], blocks);
    int channel = 0;
    for (; channel + kValueLanes * kLanes <= t.cache.value_stride; channel += kValueLanes * kLanes)
        sum_values<Number, Q, kValueLanes>(t, channel, positions, stride, factors);
    for (; channel < t.cache.value_stride; channel += kLanes)
        sum_values<Number, Q, 1>(t, channel, positions, stride, factors);
}

template <typename Number>
void attend_to(const cpu::AttentionTask &t) {
    if (t.count == 1) attend_queries<Number, 1>(t);
    if constexpr (kMaxQueries >= 2)
        if (t.count == 2) attend_queries<Number, 2>(t);
    if constexpr (kMaxQueries >= 4) {
        if (t.count == 3) attend_queries<Number, 3>(t);
        if (t.count == 4) attend_queries<Number, 4>(t);
    }
    if constexpr (kMaxQueries >= 6) {
        if (t.count == 5) attend_queries<Number, 5>(t);
        if (t.count == 6) attend_queries<Number, 6>(t);
    }
}

void attend(const cpu::AttentionTask &t) {
    if (t.cache.halves)
        attend_to<uint16_t>(t);
    else
        attend_to<float>(t);
}

template <typename Number>
void append_to(const cpu::HeadCache &cache, size_t position, const float *key, const float *value) {
    const int size = cache.head_size;
    Number *keys = (Number *)cache.keys + position / kLanes * kLanes * size + position % kLanes;
    Number *values = (Number *)cache.values + position * cache.value_stride;
    for (int d = 0; d < size; d += kLanes) {
        const int count = size - d < kLanes ? size - d : kLanes;
        Number some[kLanes];
        store_numbers(some, load_part(key + d, count, 0.0f));
        for (int i = 0; i < count; i++) keys[(d + i) * kLanes] = some[i];
        store_numbers(values + d, load_part(value + d, count, 0.0f));
    }
}

void append(const cpu::HeadCache &cache, size_t position, const float *key, const float *value) {
    if (cache.halves)
        append_to<uint16_t>(cache, position, key, value);
    else
        append_to<float>(cache, position, key, value);
}

}  // namespace
