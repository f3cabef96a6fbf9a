// cached_attention_tokens_<Q>_<D>: several new tokens a row, taken Q = 16 or 64 at a time; Q = 64 is prefill. Appends
// their keys and values, then lets each see what the mask allows, on tensor cores.
//
// Grid (splits * ceil(T / Q), H, B), the splits of one tile of queries side by side; splits = ceil(S / chunk); block
// 128. Shared: 2 * 64 * 16 * ((D / 8) | 1) bytes of keys and values, then 193 words.
//
// Moves 4 * D * (length + T) bytes a head, row and tile of queries, beside 8 * D a token. Limit: with few queries
// memory bandwidth, in prefill the rate of mma.sync at 4 * D flop a query and visible position. Reference:
// kernels/reference/cached_attention.py.
#include "cached_attention_tile.cuh"

namespace attention {

template <int head_size, int queries>
__device__ __forceinline__ void attend_tokens(const half *qkv, half *key_cache, half *value_cache, const int *lengths,
                                              float *partials, int *tickets, half *out, int tokens, int capacity,
                                              int chunk, int splits, int num_unmasked, int prefix_length,
                                              int prefix_slots, float scale_log2) {
    using S = Shape<head_size>;
    using Tile = TileAttention<head_size, queries>;
    constexpr int granules = S::granules;
    DYNAMIC_SHARED(unsigned char, shared);
    const typename Tile::Memory memory(shared);

    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const int tile = blockIdx.x / splits, split = blockIdx.x % splits, tiles = gridDim.x / splits;
    const int head = blockIdx.y, row = blockIdx.z, heads = gridDim.y;
    wait_for_prerequisites();
    launch_dependents();
    const int first = lengths[row] - prefix_length;
    const int count = first < 0 ? 0 : max(0, min(tokens, capacity - first)), end = first + count;
    const int from = tile * queries, to = min(from + queries, count);  // tokens of this tile that are there

    half *results = out + (static_cast<size_t>(row) * tokens * heads + head) * head_size;
    const size_t result_stride = static_cast<size_t>(heads) * head_size;
    if (split == 0)
        for (int i = thread; i < (min(from + queries, tokens) - max(from, count)) * head_size; i += kThreads)
            results[(max(from, count) + i / head_size) * result_stride + i % head_size] = __float2half_rn(0.0f);
    if (to <= from) return;

    // A token at position p of the row's own cache sees those below its limit, which doesn't fall as p rises.
    const int unmasked = min(num_unmasked - prefix_length, end);
    const int visible = max(first + to, first + to - 1 < num_unmasked - prefix_length ? unmasked : 0);
    const int begin = split * chunk, stop = min(begin + chunk, visible);
    if (begin >= visible) return;

    const size_t part = static_cast<size_t>(heads) * head_size;  // from query to key to value
    const half *token = qkv + (static_cast<size_t>(row) * tokens * 3 * heads + head) * head_size;
    const size_t base = (static_cast<size_t>(row) * heads + head) * capacity * head_size;
    const Source key_source = {key_cache + base, token + part, 3 * part, first};
    const Source value_source = {value_cache + base, token + 2 * part, 3 * part, first};

    Tile attention;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int index = from + (queries == 64 ? warp * 16 : 0) + i * 8 + lane / 4, position = first + index;
        const int limit = max(position + 1, position < num_unmasked - prefix_length ? unmasked : 0);
        attention.load_query(i, index < to ? token + index * 3 * part : nullptr, index < to ? limit : 0);
    }
    if (thread < queries) memory.destination[thread] = from + thread < to ? row * tokens + from + thread : -1;

    // The tile's own tokens in this split's range are appended here, and only here.
    for (int i = thread; i < (to - from) * 2 * granules; i += kThreads) {
        const int index = from + i / (2 * granules), granule = i % granules, position = first + index;
        const bool is_key = i % (2 * granules) < granules;
        if (position < begin || position >= stop) continue;
        const half *source = token + index * 3 * part + (is_key ? part : 2 * part) + granule * 8;
        half *target =
            (is_key ? key_cache : value_cache) + base + static_cast<size_t>(position) * head_size + granule * 8;
        *reinterpret_cast<uint4 *>(target) = *reinterpret_cast<const uint4 *>(source);
    }

    attention.run(memory, key_source, value_source, begin, stop, scale_log2);

    const int active = (visible + chunk - 1) / chunk;
    if (active == 1 && prefix_slots == 0) {
        for (int i = thread; i < (to - from) * head_size; i += kThreads) {
            float m, l;
            const float sum = Tile::result(memory, i / head_size, i % head_size, m, l);
            results[(from + i / head_size) * result_stride + i % head_size] = __float2half_rn(sum / l);
        }
        return;
    }
    const int slots = prefix_slots + splits;
    Tile::store_partials(memory, partials, head, heads, slots, prefix_slots + split);
    if (!arrive_last(tickets + (row * heads + head) * tiles + tile, active, memory.flag)) return;
    for (int i = thread; i < (to - from) * head_size; i += kThreads) {
        const int index = from + i / head_size, d = i % head_size;
        const size_t query = (static_cast<size_t>(row) * tokens + index) * heads + head;
        results[index * result_stride + d] =
            __float2half_rn(merge<head_size>(partials + query * slots * S::partial_floats, prefix_slots + active, d));
    }
}

}  // namespace attention

#define TOKENS_KERNEL(queries, head_size)                                                                           \
    extern "C" __global__ void __launch_bounds__(128, (queries) == 64 ? 2 : 3)                                      \
        cached_attention_tokens_##queries##_##head_size(                                                            \
            const half *qkv, half *key_cache, half *value_cache, const int *lengths, float *partials, int *tickets, \
            half *out, int tokens, int capacity, int chunk, int splits, int num_unmasked, int prefix_length,        \
            int prefix_slots, float scale_log2) {                                                                   \
        attention::attend_tokens<head_size, queries>(qkv, key_cache, value_cache, lengths, partials, tickets, out,  \
                                                     tokens, capacity, chunk, splits, num_unmasked, prefix_length,  \
                                                     prefix_slots, scale_log2);                                     \
    }
#define TOKENS_KERNELS(head_size) TOKENS_KERNEL(16, head_size) TOKENS_KERNEL(64, head_size)
FOR_EACH_HEAD_SIZE(TOKENS_KERNELS)
