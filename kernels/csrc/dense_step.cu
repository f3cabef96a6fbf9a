// The dense parts of a decode step, for at most 8 rows: y = W x, with what stands before and behind it in the layer.
//
//   dense_step_norm        qkv      = W LayerNorm(x) + b                 half
//   dense_step_norm_gelu   hidden   = gelu(W LayerNorm(x) + b)           half
//   dense_step_norm_logits logits   = W LayerNorm(x) + b                 float
//   dense_step_residual    x       += W attended + b (or W hidden + b)   float, in place
//
// Grid   (tiles of 16 outputs, splits of K). Block  256 threads. Shared: 80 bytes, 4 KB of partial sums, then rows x
//        32 x (blocks of a split | 1) halves of activations.
// Bytes  the weights, 2 N K, once; activations are read by every block, from L2.
// Limit  memory bandwidth. A thread keeps 8 loads of 16 bytes in flight: 32 KB a block, of which two to four lie on a
//        multiprocessor, where 3 TB/s x 0.7 us of latency ask for 16 KB.
// Reference  kernels/reference/dense_step.py.
//
// Weights are the 16-row operand of m16n8k16 and the rows of x its 8 columns. They are packed (kernels/packing.py) so
// that a lane's operands of two products are two loads of 16 bytes, a warp's 512 consecutive bytes, and need no shared
// memory. Both products take four of the eight consecutive k that a lane holds; what k stands where is the same for
// both operands, so a lane's activations are one load of 16 bytes from shared memory too. Warps take every eighth block
// of 32 k; their sums are added in the order of warps, those of splits by the last to arrive in the order of splits:
// the result is always the same. The first weights are asked for before anything else, also before the kernel in front
// has ended (programmatic launch).
#include "tensor_core.cuh"
#include "gelu.cuh"
#include "layer_norm.cuh"
#include "packed_weights.cuh"
#include "programmatic_launch.cuh"

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 16;    // outputs of a block
constexpr int kColumns = 8;  // rows of x, at most
constexpr int kBlock = 32;   // of K: two products
constexpr int kDepth = 4;    // blocks in flight a warp
constexpr int kOutputs = kTile * kColumns;

// What is common to the four kernels.
struct Product {
    const uint4 *weights;  // packed
    const float *bias;     // (N,), or null
    float *partials;       // (tiles, splits, 128), with more than one split
    int32_t *tickets;      // (tiles,), zero before and after
    int outputs;           // N
    int inputs;            // K, a multiple of 8
    int rows;              // 1 to 8
    int blocks_of_split;   // blocks of 32 k, but for the last split
};

struct Norm {
    const float *gain;  // (K,)
    const float *bias;  // (K,)
    float epsilon;
    int shift;  // 2^shift warps sum a row together, no more than there are for all rows
};

__device__ __forceinline__ tc::FragmentA operand(const uint4 &bits) {
    return {{bits.x, bits.y, bits.z, bits.w}};
}

// The split's part of one block's work: where its blocks of k begin and end, and its activations in shared memory.
struct Part {
    int begin, end;
    half *activations;
    int stride;  // halves from row to row
};

__device__ __forceinline__ void zero_padding(const Part &part, const Product &product) {
    const int padding = part.end * kBlock - product.inputs;  // in the last split at most
    const int thread = static_cast<int>(threadIdx.x);
    if (padding <= 0 || thread >= product.rows * (padding / 8)) return;
    const int row = thread / (padding / 8), granule = thread % (padding / 8);
    uint4 zero = {0u, 0u, 0u, 0u};
    half *to = part.activations + row * part.stride + product.inputs - part.begin * kBlock + granule * 8;
    *reinterpret_cast<uint4 *>(to) = zero;
}

// Copies the part's columns of x, half (rows, K).
__device__ __forceinline__ void stage(const half *x, const Part &part, const Product &product) {
    const int first = part.begin * kBlock, granules = (min(part.end * kBlock, product.inputs) - first) / 8;
    for (int i = static_cast<int>(threadIdx.x); i < product.rows * granules; i += kThreads) {
        const int row = i / granules, granule = i % granules;
        *reinterpret_cast<uint4 *>(part.activations + row * part.stride + granule * 8) =
            *reinterpret_cast<const uint4 *>(x + static_cast<size_t>(row) * product.inputs + first + granule * 8);
    }
}

// Normalises x, float (rows, K), and keeps the part's columns as halves. `sums` is shared memory for 16 floats.
__device__ __forceinline__ void stage_normalised(const float *x, const Norm &norm, const Part &part,
                                                 const Product &product, float *sums) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int warps = 1 << norm.shift, row = warp >> norm.shift;
    const int first = (warp & (warps - 1)) * 32 + lane, stride = warps * 32, d = product.inputs;
    const bool used = row < product.rows;
    const float *values = x + static_cast<size_t>(used ? row : 0) * d;

    float sum = layer_norm::warp_sum(layer_norm::partial_sum(values, d, first, stride));
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    float mean = 0.0f;
    for (int i = 0; i < warps; i++) mean += sums[row * warps + i];
    mean /= static_cast<float>(d);
    sum = layer_norm::warp_sum(layer_norm::partial_squares(values, mean, d, first, stride));
    if (lane == 0) sums[kWarps + warp] = sum;
    __syncthreads();
    float variance = 0.0f;
    for (int i = 0; i < warps; i++) variance += sums[kWarps + row * warps + i];
    const float scale = rsqrtf(variance / static_cast<float>(d) + norm.epsilon);

    if (!used) return;
    const int begin = part.begin * kBlock, end = min(part.end * kBlock, d);
    for (int i = begin + first * 4; i < end; i += stride * 4) {
        *reinterpret_cast<uint2 *>(part.activations + row * part.stride + i - begin) =
            layer_norm::normalised(values + i, norm.gain + i, norm.bias + i, mean, scale);
    }
}

// Runs `stage_activations(part, sums)` while the first weights arrive, multiplies, and calls `finish(row, output, sum)`
// for each result, bias added.
template <class Stage, class Finish>
__device__ __forceinline__ void multiply(const Product &product, const Stage &stage_activations, const Finish &finish) {
    DYNAMIC_SHARED(float, shared);
    float *sums = shared;  // [16]
    int *is_last = reinterpret_cast<int *>(shared + 16);
    float *warp_sums = shared + 20;  // [warps][lanes][4]
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int tile = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.y);
    const int splits = static_cast<int>(gridDim.y), blocks = (product.inputs + kBlock - 1) / kBlock;
    Part part;
    part.begin = split * product.blocks_of_split;
    part.end = min(part.begin + product.blocks_of_split, blocks);
    part.activations = reinterpret_cast<half *>(warp_sums + kWarps * 32 * 4);
    part.stride = (product.blocks_of_split | 1) * kBlock;  // odd: eight lanes' 16-byte loads fall into different banks

    const uint4 *weights = product.weights + static_cast<size_t>(tile) * blocks * 64 + lane;
    uint4 flight[kDepth][2];
#pragma unroll
    for (int i = 0; i < kDepth; i++) {
        const int block = part.begin + warp + i * kWarps;
        if (block < part.end) {
            flight[i][0] = load_weights(weights + block * 64);
            flight[i][1] = load_weights(weights + block * 64 + 32);
        }
    }
    launch_dependents();
    wait_for_prerequisites();
    zero_padding(part, product);
    stage_activations(part, sums);
    __syncthreads();

    tc::FragmentC even = {{0.0f, 0.0f, 0.0f, 0.0f}}, odd = {{0.0f, 0.0f, 0.0f, 0.0f}};
    const int column = min(lane / 4, product.rows - 1);  // columns beyond repeat the last; their sums are dropped
    const half *mine = part.activations + column * part.stride + (lane % 4) * 8;
#pragma unroll 1
    for (int first = part.begin + warp; first < part.end; first += kDepth * kWarps) {
#pragma unroll
        for (int i = 0; i < kDepth; i++) {
            const int block = first + i * kWarps;
            if (block >= part.end) continue;
            const uint4 x = *reinterpret_cast<const uint4 *>(mine + (block - part.begin) * kBlock);
            tc::mma_m16n8k16(even, operand(flight[i][0]), {{x.x, x.y}});
            tc::mma_m16n8k16(odd, operand(flight[i][1]), {{x.z, x.w}});
            if (block + kDepth * kWarps < part.end) {
                flight[i][0] = load_weights(weights + (block + kDepth * kWarps) * 64);
                flight[i][1] = load_weights(weights + (block + kDepth * kWarps) * 64 + 32);
            }
        }
    }
    for (int i = 0; i < 4; i++) warp_sums[thread * 4 + i] = even.r[i] + odd.r[i];
    __syncthreads();

    // Thread t < 128 has output t % 16 of row t / 16: neighbours write neighbours.
    const int output = thread % kTile, row = thread / kTile;
    const int source = ((output % 8) * 4 + row / 2) * 4 + (output / 8) * 2 + row % 2;
    float sum = 0.0f;
    if (thread < kOutputs) {
        for (int i = 0; i < kWarps; i++) sum += warp_sums[i * 128 + source];
    }
    if (splits > 1) {
        float *slots = product.partials + static_cast<size_t>(tile) * splits * kOutputs;
        if (thread < kOutputs) slots[split * kOutputs + thread] = sum;
        __threadfence();  // the slot before the ticket
        __syncthreads();
        if (thread == 0) {
            *is_last = atomicAdd(product.tickets + tile, 1) == splits - 1;
            if (*is_last) product.tickets[tile] = 0;
        }
        __syncthreads();
        if (!*is_last) return;
        __threadfence();  // the ticket before the others' slots
        sum = 0.0f;
        if (thread < kOutputs) {
            for (int i = 0; i < splits; i++) sum += __ldcg(slots + i * kOutputs + thread);
        }
    }
    const int n = tile * kTile + output;
    if (thread >= kOutputs || row >= product.rows || n >= product.outputs) return;
    if (product.bias != nullptr) sum += product.bias[n];
    finish(row, n, sum);
}

// The same of layer-normalised x, float (rows, K).
template <class Finish>
__device__ __forceinline__ void multiply_normalised(const Product &product, const float *x, const Norm &norm,
                                                    const Finish &finish) {
    multiply(product, [=](const Part &part, float *sums) { stage_normalised(x, norm, part, product, sums); }, finish);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 4)
    dense_step_norm(const uint4 *weights, const float *bias, float *partials, int32_t *tickets, int outputs, int inputs,
                    int rows, int blocks_of_split, const float *x, const float *norm_gain, const float *norm_bias,
                    float epsilon, int norm_shift, half *out) {
    const Product product = {weights, bias, partials, tickets, outputs, inputs, rows, blocks_of_split};
    multiply_normalised(product, x, {norm_gain, norm_bias, epsilon, norm_shift}, [=](int row, int n, float sum) {
        out[static_cast<size_t>(row) * outputs + n] = __float2half_rn(sum);
    });
}

extern "C" __global__ void __launch_bounds__(kThreads, 4)
    dense_step_norm_gelu(const uint4 *weights, const float *bias, float *partials, int32_t *tickets, int outputs,
                         int inputs, int rows, int blocks_of_split, const float *x, const float *norm_gain,
                         const float *norm_bias, float epsilon, int norm_shift, half *out) {
    const Product product = {weights, bias, partials, tickets, outputs, inputs, rows, blocks_of_split};
    multiply_normalised(product, x, {norm_gain, norm_bias, epsilon, norm_shift}, [=](int row, int n, float sum) {
        out[static_cast<size_t>(row) * outputs + n] = __float2half_rn(gelu(sum));
    });
}

extern "C" __global__ void __launch_bounds__(kThreads, 4)
    dense_step_norm_logits(const uint4 *weights, const float *bias, float *partials, int32_t *tickets, int outputs,
                           int inputs, int rows, int blocks_of_split, const float *x, const float *norm_gain,
                           const float *norm_bias, float epsilon, int norm_shift, float *out) {
    const Product product = {weights, bias, partials, tickets, outputs, inputs, rows, blocks_of_split};
    multiply_normalised(product, x, {norm_gain, norm_bias, epsilon, norm_shift},
                        [=](int row, int n, float sum) { out[static_cast<size_t>(row) * outputs + n] = sum; });
}

extern "C" __global__ void __launch_bounds__(kThreads, 4)
    dense_step_residual(const uint4 *weights, const float *bias, float *partials, int32_t *tickets, int outputs,
                        int inputs, int rows, int blocks_of_split, const half *activations, float *x) {
    const Product product = {weights, bias, partials, tickets, outputs, inputs, rows, blocks_of_split};
    multiply(
        product, [=](const Part &part, float *) { stage(activations, part, product); },
        [=](int row, int n, float sum) { x[static_cast<size_t>(row) * outputs + n] += sum; });
}
