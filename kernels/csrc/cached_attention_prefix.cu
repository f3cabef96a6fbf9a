// cached_attention_prefix_<D>: the positions that rows of a batch share, read once for up to 16 rows. Leaves partial
// results in the first slots of every query; cached_attention_step or _tokens, launched behind it, merges them.
//
// `members` int32 (blocks z, 17): a group, then the rows of it that this block serves, -1 where there are fewer. Each
// row must stand in it once. With T tokens a row, the 16 T queries are taken 16 at a time.
//
// Grid (splits * T, H, sets of members), the splits of one tile of queries side by side; splits = ceil(P / chunk);
// block 128. Shared: as cached_attention_tokens.
//
// Moves 4 * D * P bytes a head and set, beside 6 * D + 8 for each of its queries and splits. Limit: memory bandwidth.
// Reference: kernels/reference/cached_attention.py with a SharedPrefix.
#include "cached_attention_tile.cuh"

namespace attention {

constexpr int kMembers = 16;

template <int head_size>
__device__ __forceinline__ void attend_prefix(const half *qkv, const half *prefix_keys, const half *prefix_values,
                                              const int *members, const int *lengths, float *partials, int tokens,
                                              int capacity, int chunk, int splits, int slots, int prefix_length,
                                              float scale_log2) {
    using Tile = TileAttention<head_size, kMembers>;
    DYNAMIC_SHARED(unsigned char, shared);
    const typename Tile::Memory memory(shared);
    const int tile = blockIdx.x / splits, split = blockIdx.x % splits, head = blockIdx.y, heads = gridDim.y;
    const int *set = members + blockIdx.z * (kMembers + 1);
    const int begin = split * chunk, stop = min(begin + chunk, prefix_length);

    wait_for_prerequisites();
    launch_dependents();
    Tile attention;
    bool any = false;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int index = i * 8 + (threadIdx.x & 31) / 4, query = tile * kMembers + index;
        const int row = set[1 + query / tokens], token = query % tokens;
        const int first = row < 0 ? -1 : lengths[row] - prefix_length;
        const bool present = first >= 0 && first + token < capacity;  // else nobody merges, as nobody computes the rest
        const int destination = present ? row * tokens + token : -1;
        attention.load_query(
            i, present ? qkv + (static_cast<size_t>(destination) * 3 * heads + head) * head_size : nullptr,
            present ? stop : 0);
        if (threadIdx.x < 32 && (threadIdx.x & 3) == 0) memory.destination[index] = destination;
        any = any || present;
    }
    if (!__any_sync(~0u, any)) return;  // every warp has the same queries

    const size_t base = (static_cast<size_t>(set[0]) * heads + head) * prefix_length * head_size;
    const Source key_source = {prefix_keys + base, nullptr, 0, prefix_length};
    const Source value_source = {prefix_values + base, nullptr, 0, prefix_length};
    attention.run(memory, key_source, value_source, begin, stop, scale_log2);
    Tile::store_partials(memory, partials, head, heads, slots, split);
}

}  // namespace attention

#define PREFIX_KERNEL(head_size)                                                                                     \
    extern "C" __global__ void __launch_bounds__(128, 3) cached_attention_prefix_##head_size(                        \
        const half *qkv, const half *prefix_keys, const half *prefix_values, const int *members, const int *lengths, \
        float *partials, int tokens, int capacity, int chunk, int splits, int slots, int prefix_length,              \
        float scale_log2) {                                                                                          \
        attention::attend_prefix<head_size>(qkv, prefix_keys, prefix_values, members, lengths, partials, tokens,     \
                                            capacity, chunk, splits, slots, prefix_length, scale_log2);              \
    }
FOR_EACH_HEAD_SIZE(PREFIX_KERNEL)
