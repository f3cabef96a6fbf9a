// nearest_code: the nearest codebook entry of each latent, equal in every bit to
// trt_vqgan.kernels.reference.nearest_code.nearest_code_plain. The codebook comes as trt_vqgan.kernels.packed_codebook
// makes it, the launches from trt_vqgan.kernels.launches.nearest_code.
//
// For 16 < D <= 512, three kernels:
//   nearest_code_rows   centres, scales and rounds the latents to half, and measures their lengths.
//                       Grid: rows / 8. Block: 256. Moves 6 D bytes a row; limit: memory.
//   nearest_code_tiles  scores s = z.e - |e|^2 / 2 on tensor cores. Of each row and tile of 64 codes it writes the best
//                       score, with the code in its six lowest bits, and the runner-up; distances are never written.
//                       Grid: (rows / 128, splits of the codebook). Block: 128 (64 for D > 256). Multiplies
//                       2 N D rows, moves N/64 x 8 bytes a row; limit: mma.sync rate.
//   nearest_code_settle finds by a proven bound which codes could be nearest. One: that is the answer. More: their
//                       distances in float32 as defined. Grid: rows / 8, a warp a row. Block: 256. Moves N/64 x 8
//                       bytes a row and 4 D a code looked at; limit: memory (L2) and, with many looks, latency.
// For other D, nearest_code_exact: every distance as defined. Grid: rows / 8. Block: 256. 3 N D operations a row;
// limit: float32 rate; for D = 4, also reading the codebook from L2 once a block.
//
// Bound. A row's z' = z - c is scaled by a power of two s, the codebook's e' = e - c by q; c is the codebook's mean.
// With Z = s|z'|, E = q times the largest |e'| of a tile, r = s / q, P = Z E + E^2 r / 2 (bounds all partial sums), a
// score differs from s q (z'.e' - |e'|^2 / 2) by at most
//     1.02 2^-10 Z E + 2^-25 sqrt(D) (Z + E) + D 2^-50   rounding to half, subnormal halves
//   + (D / 16 + 2) 2^-19 P                                summation: up to 18 terms a step cut at 2^-24 of the largest
//   + 2^-17 P                                             the six bits
//   + 1.01 2^-24 (Z / sqrt r + E sqrt r)^2                centring
// and the float32 distances by 1.01 (D + 2) 2^-24 (Z / sqrt r + E sqrt r)^2 in the same unit, plus what underflows.
// Rows whose squares could overflow, and rows far larger than the codebook, take all codes.
#include "tensor_core.cuh"

constexpr int kTile = 64;         // codes of one result
constexpr int kBlockCodes = 128;  // codes of one pass of a block
constexpr int kRowsAtOnce = 16;   // of nearest_code_rows
constexpr int kExactRows = 8;     // of nearest_code_exact
constexpr float kSafeLength = 1e18f;

namespace {

__device__ __forceinline__ float power_of_two(int exponent) {
    return __int_as_float((exponent + 127) << 23);
}

// One term of the definition, each operation rounded on its own.
__device__ __forceinline__ float add_square(float total, float z, float e) {
    float difference = __fsub_rn(z, e);
    return __fadd_rn(total, __fmul_rn(difference, difference));
}

__device__ __forceinline__ void keep_nearer(float &distance, int &code, float other, int other_code) {
    if (other < distance || (other == distance && other_code < code)) {
        distance = other;
        code = other_code;
    }
}

__device__ __forceinline__ void keep_nearest_of_warp(float &distance, int &code) {
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) {
        float other = __shfl_xor_sync(~0u, distance, offset);
        int other_code = __shfl_xor_sync(~0u, code, offset);
        keep_nearer(distance, code, other, other_code);
    }
}

}  // namespace

// z (rows, dim) float32; centre (dim). Writes halves (rows, padded_dim); lengths (rows) = s |z'| rounded up, inf for a
// row that takes all codes, NaN for one that is not finite; exponents (rows) = log2 s. A warp a row.
extern "C" __global__ void __launch_bounds__(256)
    nearest_code_rows(const float *__restrict__ z, const float *__restrict__ centre, half *__restrict__ halves,
                      float *__restrict__ lengths, int *__restrict__ exponents, int rows, int dim, int padded_dim,
                      int codebook_exponent) {
    const int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= rows) return;
    const float *values = z + static_cast<size_t>(row) * dim;
    unsigned largest = 0, raw = 0;  // bits of the largest |z'| and |z|; inf and NaN are above every number
    for (int i = lane; i < dim; i += 32) {
        largest = max(largest, __float_as_uint(__fsub_rn(values[i], centre[i])) & 0x7fffffffu);
        raw = max(raw, __float_as_uint(values[i]) & 0x7fffffffu);
    }
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) {
        largest = max(largest, __shfl_xor_sync(~0u, largest, offset));
        raw = max(raw, __shfl_xor_sync(~0u, raw, offset));
    }
    const int wanted = 5 - (static_cast<int>(largest >> 23) - 127);  // the largest becomes 32 to 64
    const int exponent = max(max(-100, codebook_exponent - 40), min(min(100, codebook_exponent + 40), wanted));
    const bool usable = raw < 0x7f800000u && largest < 0x7f800000u && exponent <= wanted;
    const float scale = power_of_two(exponent);
    float square = 0.f;
    for (int i = lane; i < padded_dim; i += 32) {
        float value = usable && i < dim ? __fsub_rn(values[i], centre[i]) * scale : 0.f;
        square += value * value;
        halves[static_cast<size_t>(row) * padded_dim + i] = __float2half_rn(value);
    }
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) square += __shfl_xor_sync(~0u, square, offset);
    if (lane == 0) {
        float length = usable ? 1.0002f * sqrtf(square) : FLOAT_INFINITY;  // float32 sums err by far less
        lengths[row] = raw < 0x7f800000u ? length : __int_as_float(0x7fffffff);
        exponents[row] = exponent;
    }
}

namespace {

// Byte swizzle: granule g (16 bytes) of a row lies where ldmatrix of eight rows meets no bank twice.
template <int columns>
__device__ __forceinline__ int swizzled(int row, int granule) {
    constexpr int granules = columns / 8;
    const int shift = granules == 4 ? row >> 1 & 3 : row & 7;
    return row * columns + (granule ^ shift) * 8;
}

// columns: halves of the dimension that one step multiplies; block_rows: rows of a block, 64 a warp and 64 codes.
template <int columns, int block_rows, int stages>
__device__ __forceinline__ void score_tiles(const half *__restrict__ z, const int *__restrict__ exponents,
                                            const half *__restrict__ codes, const float *__restrict__ biases,
                                            float2 *__restrict__ results, int rows, int padded_dim, int tiles,
                                            int passes_per_block, int codebook_exponent) {
    constexpr int threads = block_rows, granules = columns / 8;
    DYNAMIC_SHARED(half, shared_z);
    half *shared_codes = shared_z + block_rows * padded_dim;
    float *ratios = reinterpret_cast<float *>(shared_codes + stages * kBlockCodes * columns);
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const int warp_row = warp >> 1, warp_column = warp & 1, first_row = blockIdx.x * block_rows;
    const int steps = padded_dim / columns, first_pass = blockIdx.y * passes_per_block;
    const int passes = min(passes_per_block, (tiles + 1) / 2 - first_pass), total = passes * steps;

    for (int k = thread; k < block_rows * padded_dim / 8; k += threads) {
        int step = k / (block_rows * granules), row = k / granules % block_rows, granule = k % granules;
        bool valid = first_row + row < rows;
        tc::copy_async_16(
            shared_z + step * block_rows * columns + swizzled<columns>(row, granule),
            z + static_cast<size_t>(valid ? first_row + row : 0) * padded_dim + step * columns + granule * 8, valid);
    }
    ratios[thread] = first_row + thread < rows ? power_of_two(exponents[first_row + thread] - codebook_exponent) : 0.f;

    auto load = [&](int k) {
        if (k < total) {
            int first_code = (first_pass + k / steps) * kBlockCodes, step = k % steps;
            half *stage = shared_codes + k % stages * kBlockCodes * columns;
#pragma unroll 4
            for (int i = thread; i < kBlockCodes * granules; i += threads) {
                int row = i / granules, granule = i % granules;
                tc::copy_async_16(
                    stage + swizzled<columns>(row, granule),
                    codes + static_cast<size_t>(first_code + row) * padded_dim + step * columns + granule * 8);
            }
        }
        tc::copy_async_commit();
    };
    for (int k = 0; k < stages - 1; k++) load(k);

    tc::FragmentC sums[4][8];
    for (int k = 0; k < total; k++) {
        const int step = k % steps;
        if (step == 0) {
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) sums[i][j] = {{0.f, 0.f, 0.f, 0.f}};
        }
        tc::copy_async_wait<stages - 2>();
        __syncthreads();
        load(k + stages - 1);
        const half *rows_now = shared_z + step * block_rows * columns;
        const half *codes_now = shared_codes + k % stages * kBlockCodes * columns;
#pragma unroll
        for (int part = 0; part < columns / 16; part++) {
            tc::FragmentA a[4];
            tc::FragmentB b[8];
#pragma unroll
            for (int i = 0; i < 4; i++)
                tc::load_matrices_x4(
                    a[i].r, rows_now + swizzled<columns>(warp_row * 64 + i * 16 + (lane & 15), part * 2 + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                uint32_t pair[4];
                tc::load_matrices_x4(
                    pair, codes_now + swizzled<columns>(warp_column * 64 + j * 8 + (lane & 7) + (lane >> 4) * 8,
                                                        part * 2 + (lane >> 3 & 1)));
                b[j].r[0] = pair[0], b[j].r[1] = pair[1];
                b[j + 1].r[0] = pair[2], b[j + 1].r[1] = pair[3];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) tc::mma_m16n8k16(sums[i][j], a[i], b[j]);
        }
        if (step == steps - 1) {
            const int tile = (first_pass + k / steps) * 2 + warp_column;
            const float *tile_biases = biases + tile * kTile + (lane & 3) * 2;
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int q = 0; q < 2; q++) {
                    const int row = warp_row * 64 + i * 16 + q * 8 + (lane >> 2);
                    const float ratio = ratios[row];
                    float best = -kFloatMax, second = -kFloatMax;
#pragma unroll
                    for (int j = 0; j < 8; j++) {
                        const float2 bias = *reinterpret_cast<const float2 *>(tile_biases + j * 8);
#pragma unroll
                        for (int p = 0; p < 2; p++) {
                            float score = __fmaf_rn(p ? bias.y : bias.x, -ratio, sums[i][j].r[q * 2 + p]);
                            unsigned code = j * 8 + (lane & 3) * 2 + p;
                            score = __uint_as_float((__float_as_uint(score) & ~63u) | code);
                            second = fmaxf(second, fminf(best, score));
                            best = fmaxf(best, score);
                        }
                    }
#pragma unroll
                    for (int offset = 1; offset <= 2; offset *= 2) {
                        float other = __shfl_xor_sync(~0u, best, offset);
                        float other_second = __shfl_xor_sync(~0u, second, offset);
                        second = fmaxf(fmaxf(second, other_second), fminf(best, other));
                        best = fmaxf(best, other);
                    }
                    if ((lane & 3) == 0 && first_row + row < rows && tile < tiles)
                        results[static_cast<size_t>(first_row + row) * tiles + tile] = make_float2(best, second);
                }
            }
        }
    }
    tc::copy_async_wait<0>();
}

}  // namespace

// Shared: block_rows x padded_dim halves, stages x 128 x columns halves, block_rows floats.
#define NEAREST_CODE_TILES(name, columns, block_rows, stages)                                                        \
    extern "C" __global__ void __launch_bounds__(block_rows, 2)                                                      \
        name(const half *z, const int *exponents, const half *codes, const float *biases, float2 *results, int rows, \
             int padded_dim, int tiles, int passes_per_block, int codebook_exponent) {                               \
        score_tiles<columns, block_rows, stages>(z, exponents, codes, biases, results, rows, padded_dim, tiles,      \
                                                 passes_per_block, codebook_exponent);                               \
    }
NEAREST_CODE_TILES(nearest_code_tiles_32, 32, 128, 4)
NEAREST_CODE_TILES(nearest_code_tiles_64, 64, 128, 3)
NEAREST_CODE_TILES(nearest_code_tiles_64_two_stages, 64, 128, 2)
NEAREST_CODE_TILES(nearest_code_tiles_64_narrow, 64, 64, 2)

// z (rows, dim) float32; transposed (dim, stride) float32, NaN beyond the last code; tile_lengths (tiles) = E;
// largest_length = max E, inf where every row must take all codes. Writes codes (rows). Shared: 8 x 64 ints.
extern "C" __global__ void __launch_bounds__(256, 4)
    nearest_code_settle(const float *__restrict__ z, const float *__restrict__ transposed,
                        const float2 *__restrict__ results, const float *__restrict__ tile_lengths,
                        const float *__restrict__ lengths, const int *__restrict__ exponents, int *__restrict__ codes,
                        int *__restrict__ looks, int rows, int dim, int tiles, int stride, int codebook_exponent,
                        float largest_length) {
    DYNAMIC_SHARED(int, lists);
    const int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    int *list = lists + (threadIdx.x >> 5) * 64;
    if (row >= rows) return;
    const float length = lengths[row];
    if (length != length) {  // a row that is not finite
        if (lane == 0) {
            codes[row] = 0;
            if (looks) looks[row] = 0;
        }
        return;
    }
    const float scale = power_of_two(exponents[row]), codebook_scale = power_of_two(codebook_exponent);
    const float ratio = power_of_two(exponents[row] - codebook_exponent);
    const bool all = !(length / scale + largest_length / codebook_scale < kSafeLength);
    const float *values = z + static_cast<size_t>(row) * dim;
    const float2 *row_results = results + static_cast<size_t>(row) * tiles;

    const float underflow = 1.175494351e-38f * dim * scale * codebook_scale;           // 2^-126 D s q; 2^-147 would do
    const float sum_unit = ((dim + 15) / 16 + 2) * 1.907348633e-6f + 7.629394531e-6f;  // (D/16 + 2) 2^-19 + 2^-17
    const float half_floor = 2.980232239e-8f * sqrtf(static_cast<float>(dim));         // 2^-25 sqrt(D)
    // Half-width of a tile's scores, and what the defining float32 sums add.
    auto bound = [&](float tile_length, float &slack) {
        float product = length * tile_length, square = tile_length * tile_length * ratio;
        float whole = length / ratio * length + 2.f * product + square;
        slack = 1.05f * ((dim + 2) * 5.960464478e-8f * whole) + underflow;
        const float width = 9.9609375e-4f * product + half_floor * (length + tile_length) + dim * 8.8817842e-16f +
                            sum_unit * (product + 0.5f * square) + 5.960464478e-8f * whole;
        return 1.05f * width + underflow;
    };

    float least = -FLOAT_INFINITY, slack;
    if (!all)
        for (int tile = lane; tile < tiles; tile += 32)
            least = fmaxf(least, row_results[tile].x - bound(tile_lengths[tile], slack));
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) least = fmaxf(least, __shfl_xor_sync(~0u, least, offset));

    float distance = FLOAT_INFINITY;
    int code = 0, single = -1, listed = 0, looked = 0;
    auto look = [&](int candidate) {
        const float *column = transposed + candidate;
        float total = 0.f;
#pragma unroll 4
        for (int i = 0; i < dim; i++) total = add_square(total, values[i], column[static_cast<size_t>(i) * stride]);
        if (total < distance || (total == distance && candidate < code)) distance = total, code = candidate;
    };
    auto look_at_list = [&](int count) {
        __syncwarp();
        if (lane < count) look(list[lane]);
        __syncwarp();
    };
    for (int first = 0; first < tiles; first += 32) {
        const int tile = first + lane;
        bool candidate = false, whole = false;
        int best_code = 0;
        if (tile < tiles) {
            candidate = whole = all;
            if (!all) {
                const float2 result = row_results[tile];
                const float width = bound(tile_lengths[tile], slack), limit = least - slack;
                candidate = !(result.x + width < limit);
                whole = !(result.y + width < limit);
                best_code = tile * kTile + (__float_as_uint(result.x) & 63u);
            }
        }
        unsigned alone = __ballot_sync(~0u, candidate && !whole), wide = __ballot_sync(~0u, candidate && whole);
        if (candidate && !whole) list[listed + __popc(alone & ((1u << lane) - 1))] = best_code;
        listed += __popc(alone);
        looked += __popc(alone) + kTile * __popc(wide);
        if (alone) single = __shfl_sync(~0u, best_code, __ffs(alone) - 1);
        while (listed >= 32) {
            look_at_list(32);
            int moved = lane + 32 < listed ? list[lane + 32] : 0;
            __syncwarp();
            if (lane + 32 < listed) list[lane] = moved;
            listed -= 32;
        }
        while (wide) {
            const int first_code = (first + __ffs(wide) - 1) * kTile;
            wide &= wide - 1;
            look(first_code + lane);
            look(first_code + lane + 32);
        }
    }
    if (looked == 1) {
        code = single;
    } else {
        look_at_list(listed);
        keep_nearest_of_warp(distance, code);
    }
    if (lane == 0) {
        codes[row] = code;
        if (looks) looks[row] = looked;
    }
}

// z (rows, dim) float32; transposed (dim, stride) float32, NaN beyond the last code. Writes codes (rows).
// Shared: dim x 8 floats for the latents, then 8 x 8 floats and 8 x 8 ints.
extern "C" __global__ void __launch_bounds__(256)
    nearest_code_exact(const float *__restrict__ z, const float *__restrict__ transposed, int *__restrict__ codes,
                       int rows, int dim, int size, int stride) {
    DYNAMIC_SHARED(float, latents);
    float *distances = latents + dim * kExactRows;
    int *found = reinterpret_cast<int *>(distances + 8 * kExactRows);
    const int first = blockIdx.x * kExactRows, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int k = threadIdx.x; k < dim * kExactRows; k += 256) {
        int row = first + k / dim, i = k % dim;
        latents[i * kExactRows + k / dim] = row < rows ? z[static_cast<size_t>(row) * dim + i] : 0.f;
    }
    __syncthreads();
    float nearest[kExactRows];
    int nearest_code[kExactRows];
#pragma unroll
    for (int r = 0; r < kExactRows; r++) nearest[r] = FLOAT_INFINITY, nearest_code[r] = 0;
    for (int code = threadIdx.x; code < size; code += 256) {
        float total[kExactRows] = {};
        for (int i = 0; i < dim; i++) {
            const float entry = transposed[static_cast<size_t>(i) * stride + code];
            const float4 low = *reinterpret_cast<const float4 *>(latents + i * kExactRows);
            const float4 high = *reinterpret_cast<const float4 *>(latents + i * kExactRows + 4);
            const float values[kExactRows] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int r = 0; r < kExactRows; r++) total[r] = add_square(total[r], values[r], entry);
        }
#pragma unroll
        for (int r = 0; r < kExactRows; r++)
            if (total[r] < nearest[r]) nearest[r] = total[r], nearest_code[r] = code;
    }
#pragma unroll
    for (int r = 0; r < kExactRows; r++) {
        keep_nearest_of_warp(nearest[r], nearest_code[r]);
        if (lane == 0) distances[r * 8 + warp] = nearest[r], found[r * 8 + warp] = nearest_code[r];
    }
    __syncthreads();
    if (threadIdx.x < kExactRows && first + threadIdx.x < rows) {
        float distance = FLOAT_INFINITY;
        int code = 0;
        for (int w = 0; w < 8; w++)
            keep_nearer(distance, code, distances[threadIdx.x * 8 + w], found[threadIdx.x * 8 + w]);
        codes[first + threadIdx.x] = code;
    }
}
