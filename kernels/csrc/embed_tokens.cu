// embed_tokens_half, embed_tokens_float: the transformer's input for whole sequences: x = token + position embedding.
//
// Grid   one block a token, (B T).
// Block  128 threads, four elements at a time; d a multiple of 4.
// Bytes  4 d written a token, beside table rows that repeat and come from L2.
// Limit  memory bandwidth of the writes.
// Reference  kernels/reference/embed_tokens.py: equal in every bit, one addition in float32.
#include "portable.cuh"
#include "programmatic_launch.cuh"

namespace {

__device__ __forceinline__ float4 load_four(const float *from) {
    return *reinterpret_cast<const float4 *>(from);
}

__device__ __forceinline__ float4 load_four(const half *from) {
    const uint2 bits = *reinterpret_cast<const uint2 *>(from);
    const half2 low = *reinterpret_cast<const half2 *>(&bits.x), high = *reinterpret_cast<const half2 *>(&bits.y);
    return make_float4(__low2float(low), __high2float(low), __low2float(high), __high2float(high));
}

template <class Table>
__device__ __forceinline__ void embed_tokens(const int32_t *tokens, const int32_t *positions,
                                             const Table *token_embedding, const Table *position_embedding, float *x,
                                             int hidden) {
    const size_t row = blockIdx.x;
    launch_dependents();
    wait_for_prerequisites();
    const Table *token = token_embedding + static_cast<size_t>(tokens[row]) * hidden;
    const Table *position = position_embedding + static_cast<size_t>(positions[row]) * hidden;
    for (int i = static_cast<int>(threadIdx.x) * 4; i < hidden; i += static_cast<int>(blockDim.x) * 4) {
        const float4 a = load_four(token + i), b = load_four(position + i);
        *reinterpret_cast<float4 *>(x + row * hidden + i) = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128)
    embed_tokens_half(const int32_t *tokens, const int32_t *positions, const half *token_embedding,
                      const half *position_embedding, float *x, int hidden) {
    embed_tokens(tokens, positions, token_embedding, position_embedding, x, hidden);
}

extern "C" __global__ void __launch_bounds__(128)
    embed_tokens_float(const int32_t *tokens, const int32_t *positions, const float *token_embedding,
                       const float *position_embedding, float *x, int hidden) {
    embed_tokens(tokens, positions, token_embedding, position_embedding, x, hidden);
}
