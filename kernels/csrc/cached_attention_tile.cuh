// Attention of 16 or 64 queries to one range of positions on tensor cores: the core of cached_attention_tokens.cu and
// cached_attention_prefix.cu.
//
// A block has 4 warps. With 64 queries each warp takes 16 of them and all 64 positions of a tile; with 16 queries all
// warps take the same ones and 16 positions each, and their results are added in the order of the warps. Scores and
// sums are float; p is rounded to half for the second product, l sums it unrounded.
//
// Each query sees the positions below its own limit. A query that sees nothing of a range has m = -inf and l = 0.
#pragma once
#include "cached_attention.cuh"

namespace attention {

template <int head_size, int queries>
struct TileAttention {
    using S = Shape<head_size>;
    static constexpr int granules = S::granules;
    static constexpr int steps = head_size / 16;          // of 16 components; an odd granule is a step of 8 behind them
    static constexpr int keys = queries == 64 ? 64 : 16;  // positions of a tile that a warp takes
    static_assert(queries == 64 || queries == 16, "queries");

    // Dynamic shared memory. When the last tile is done, the sums of 64 queries, or of 16 in each warp, take its place.
    struct Memory {
        half *keys, *values;
        float *sums;       // (64, head_size), over the keys and values
        float *m, *l;      // 64 each
        int *destination;  // (queries): token index row * tokens + token, or -1 for a query that isn't there
        int *flag;

        __device__ __forceinline__ explicit Memory(unsigned char *shared)
            : keys(reinterpret_cast<half *>(shared)),
              values(reinterpret_cast<half *>(shared + S::tile_bytes)),
              sums(reinterpret_cast<float *>(shared)),
              m(reinterpret_cast<float *>(shared + 2 * S::tile_bytes)),
              l(m + 64),
              destination(reinterpret_cast<int *>(l + 64)),
              flag(destination + 64) {}
    };

    tc::FragmentA query[steps + (granules & 1)];
    tc::FragmentC sums[granules];
    float m[2], l[2];  // of rows lane / 4 and lane / 4 + 8
    int limit[2];

    // Loads one query, or zeros for null, into row `half_of_tile` * 8 + lane / 4 of the warp's 16.
    __device__ __forceinline__ void load_query(int half_of_tile, const half *from, int query_limit) {
        const int column = (threadIdx.x & 3) * 2;
#pragma unroll
        for (int granule = 0; granule < granules; granule++)
            query[granule / 2].r[half_of_tile + 2 * (granule & 1)] =
                from == nullptr ? 0u : __ldg(reinterpret_cast<const uint32_t *>(from + granule * 8 + column));
        limit[half_of_tile] = query_limit;
        m[half_of_tile] = -FLOAT_INFINITY;
        l[half_of_tile] = 0.0f;
    }

    // Attends to positions [begin, stop), stop > begin, then leaves sums, m and l in shared memory.
    __device__ __forceinline__ void run(const Memory &memory, const Source &key_source, const Source &value_source,
                                        int begin, int stop, float scale_log2) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, offset = queries == 64 ? 0 : warp * keys;
#pragma unroll
        for (int granule = 0; granule < granules; granule++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[granule].r[i] = 0.0f;
        int last = max(limit[0], limit[1]);  // the warp's largest limit: tiles behind it are skipped
#pragma unroll
        for (int bits = 4; bits < 32; bits *= 2) last = max(last, __shfl_xor_sync(~0u, last, bits));
        last = min(last, stop);

        stage<head_size>(memory.keys, key_source, begin, stop);
        tc::copy_async_commit();
        stage<head_size>(memory.values, value_source, begin, stop);
        tc::copy_async_commit();
        for (int tile = begin; tile < stop; tile += kTile) {
            const bool seen = tile + offset < last, more = tile + kTile < stop;
            tc::FragmentC scores[keys / 8];
            tc::copy_async_wait<1>();  // the keys
            __syncthreads();
            if (seen) score(scores, memory.keys + offset * S::stride);
            __syncthreads();  // everyone has read the keys
            if (more) stage<head_size>(memory.keys, key_source, tile + kTile, stop);
            tc::copy_async_commit();
            if (seen) weigh(scores, tile + offset, scale_log2);
            tc::copy_async_wait<1>();  // the values
            __syncthreads();
            if (seen) add(scores, memory.values + offset * S::stride);
            __syncthreads();  // everyone has read the values
            if (more) stage<head_size>(memory.values, value_source, tile + kTile, stop);
            tc::copy_async_commit();
        }
        tc::copy_async_wait<0>();

#pragma unroll
        for (int i = 0; i < 2; i++) {
            l[i] += __shfl_xor_sync(~0u, l[i], 1);
            l[i] += __shfl_xor_sync(~0u, l[i], 2);
            const int row = warp * 16 + i * 8 + lane / 4, column = (lane & 3) * 2;
            if ((lane & 3) == 0) {
                memory.m[row] = m[i];
                memory.l[row] = l[i];
            }
#pragma unroll
            for (int granule = 0; granule < granules; granule++)
                *reinterpret_cast<float2 *>(memory.sums + row * head_size + granule * 8 + column) =
                    make_float2(sums[granule].r[2 * i], sums[granule].r[2 * i + 1]);
        }
        __syncthreads();
    }

    // One component of a query's result as it lies in shared memory; returns the sum of p v, sets m and l.
    static __device__ __forceinline__ float result(const Memory &memory, int row, int d, float &m, float &l) {
        if (queries == 64) {
            m = memory.m[row];
            l = memory.l[row];
            return memory.sums[row * head_size + d];
        }
        m = fmaxf(fmaxf(memory.m[row], memory.m[row + 16]), fmaxf(memory.m[row + 32], memory.m[row + 48]));
        l = 0.0f;
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < 4; warp++) {
            const int i = warp * 16 + row;
            if (memory.l[i] != 0.0f) {
                const float factor = exp2f(memory.m[i] - m);
                l = fmaf(factor, memory.l[i], l);
                sum = fmaf(factor, memory.sums[i * head_size + d], sum);
            }
        }
        return sum;
    }

    // Leaves the results in slot `slot` of `slots` of their queries' partials, (B, T, H, slots, head_size + 2).
    static __device__ __forceinline__ void store_partials(const Memory &memory, float *partials, int head, int heads,
                                                          int slots, int slot) {
        for (int i = threadIdx.x; i < queries * head_size; i += kThreads) {
            const int row = i / head_size, d = i % head_size, token = memory.destination[row];
            if (token < 0) continue;
            float m, l;
            const float sum = result(memory, row, d, m, l);
            float *to = partials + ((static_cast<size_t>(token) * heads + head) * slots + slot) * S::partial_floats;
            to[d] = sum;
            if (d == 0) {
                to[head_size] = m;
                to[head_size + 1] = l;
            }
        }
    }

  private:
    // scores = query key^T for the warp's positions, which begin at `tile`.
    __device__ __forceinline__ void score(tc::FragmentC (&scores)[keys / 8], const half *tile) const {
        const int lane = threadIdx.x & 31;
        const half *row = tile + ((lane & 7) + ((lane >> 4) << 3)) * S::stride + ((lane >> 3) & 1) * 8;
        const half *last_granule = tile + (lane & 15) * S::stride + (granules - 1) * 8;
#pragma unroll
        for (int pair = 0; pair < keys / 16; pair++) {
            tc::FragmentC &low = scores[2 * pair], &high = scores[2 * pair + 1];
#pragma unroll
            for (int i = 0; i < 4; i++) low.r[i] = high.r[i] = 0.0f;
#pragma unroll
            for (int step = 0; step < steps; step++) {
                uint32_t r[4];
                tc::load_matrices_x4(r, row + pair * 16 * S::stride + step * 16);
                tc::mma_m16n8k16(low, query[step], {{r[0], r[1]}});
                tc::mma_m16n8k16(high, query[step], {{r[2], r[3]}});
            }
            if (granules & 1) {
                uint32_t r[2];
                tc::load_matrices_x2(r, last_granule + pair * 16 * S::stride);
                tc::mma_m16n8k8(low, query[granules / 2], {{r[0], 0u}});
                tc::mma_m16n8k8(high, query[granules / 2], {{r[1], 0u}});
            }
        }
    }

    // Turns scores of positions from `position` on into weights 2^(score - m), with m, l and the sums brought up to
    // date.
    __device__ __forceinline__ void weigh(tc::FragmentC (&scores)[keys / 8], int position, float scale_log2) {
        const int column = position + (threadIdx.x & 3) * 2;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float largest = -FLOAT_INFINITY;
#pragma unroll
            for (int tile = 0; tile < keys / 8; tile++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float &score = scores[tile].r[2 * i + j];
                    score = column + tile * 8 + j < limit[i] ? score * scale_log2 : -FLOAT_INFINITY;
                    largest = fmaxf(largest, score);
                }
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
            const float m_new = fmaxf(m[i], largest);
            const float base = m_new == -FLOAT_INFINITY ? 0.0f : m_new;  // nothing seen yet: -inf - -inf would be NaN
            const float correction = exp2f(m[i] - base);
            m[i] = m_new;
            float sum = 0.0f;
#pragma unroll
            for (int tile = 0; tile < keys / 8; tile++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float &weight = scores[tile].r[2 * i + j];
                    weight = exp2f(weight - base);
                    sum += weight;
                }
            l[i] = fmaf(l[i], correction, sum);
#pragma unroll
            for (int granule = 0; granule < granules; granule++) {
                sums[granule].r[2 * i] *= correction;
                sums[granule].r[2 * i + 1] *= correction;
            }
        }
    }

    // sums += weights values for the warp's positions, which begin at `tile`.
    __device__ __forceinline__ void add(const tc::FragmentC (&weights)[keys / 8], const half *tile) {
        const int lane = threadIdx.x & 31;
        const half *row = tile + (lane & 15) * S::stride + (lane >> 4) * 8;
        const half *last_granule = tile + (lane & 15) * S::stride + (granules - 1) * 8;
#pragma unroll
        for (int pair = 0; pair < keys / 16; pair++) {
            const tc::FragmentC &low = weights[2 * pair], &high = weights[2 * pair + 1];
            const tc::FragmentA a = {{pack_halves(low.r[0], low.r[1]), pack_halves(low.r[2], low.r[3]),
                                      pack_halves(high.r[0], high.r[1]), pack_halves(high.r[2], high.r[3])}};
#pragma unroll
            for (int granule = 0; granule + 1 < granules; granule += 2) {
                uint32_t r[4];
                tc::load_matrices_x4_transposed(r, row + pair * 16 * S::stride + granule * 8);
                tc::mma_m16n8k16(sums[granule], a, {{r[0], r[1]}});
                tc::mma_m16n8k16(sums[granule + 1], a, {{r[2], r[3]}});
            }
            if (granules & 1) {
                uint32_t r[2];
                tc::load_matrices_x2_transposed(r, last_granule + pair * 16 * S::stride);
                tc::mma_m16n8k16(sums[granules - 1], a, {{r[0], r[1]}});
            }
        }
    }
};

}  // namespace attention
