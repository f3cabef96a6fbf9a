// The dense parts of a decode step for 9 to 64 rows: y = W x, with what stands behind it in the layer. x is half; a
// layer norm in front is layer_norm.cu's.
//
//   dense_rows_linear_<R>    y      = W x + b          half
//   dense_rows_gelu_<R>      y      = gelu(W x + b)    half
//   dense_rows_logits_<R>    y      = W x + b          float
//   dense_rows_residual_<R>  y     += W x + b          float, in place
//
// For up to R = 16, 32 or 64 rows.
//
// Grid   (tiles of 64 outputs, splits of K). Block  256 threads. Shared: 16 bytes, then 640 R.
// Bytes  the weights, 2 N K, once, and the activations, 2 K rows, once a tile of outputs, from L2.
// Limit  memory bandwidth. A block has the 16 KB of weights of the next chunk in flight.
// Reference  kernels/reference/dense_step.py.
//
// Weights are packed as for dense_step.cu and read the same way, straight into registers; each operand then meets R / 8
// operands of eight rows. K is taken 128 at a time, whose activations come by cp.async into one of two buffers. Warps w
// and w + 4 share an output tile of 16, and each chunk's blocks of 32 k between them. Their sums are added in that
// order, those of splits by the last to arrive in the order of splits: the result is always the same.
#include "tensor_core.cuh"
#include "gelu.cuh"
#include "packed_weights.cuh"
#include "programmatic_launch.cuh"

namespace dense_rows {

constexpr int kThreads = 256;
constexpr int kTiles = 4;       // of 16 outputs a block
constexpr int kOutputs = 64;    // of a block
constexpr int kBlock = 32;      // of K: two products
constexpr int kBlocks = 4;      // of a chunk
constexpr int kChunk = 128;     // of K
constexpr int kStride = 160;    // halves from row to row: an odd number of blocks, so banks differ
constexpr int kSumStride = 68;  // floats from row to row of sums
constexpr int kOwnBlocks = 2;   // of a chunk that a warp multiplies

struct Product {
    const uint4 *weights;  // packed
    const float *bias;     // (N,), or null
    float *partials;       // (tiles, splits, 64 R), with more than one split
    int32_t *tickets;      // (tiles,), zero before and after
    int outputs;           // N
    int inputs;            // K, a multiple of 8
    int rows;              // 1 to R
    int chunks_of_split;   // but for the last split
    const half *x;         // (rows, K)
};

// Starts to copy a chunk's columns of x; what is beyond the rows or beyond K becomes zero.
template <int most_rows>
__device__ __forceinline__ void stage(half *to, const Product &product, int chunk) {
    constexpr int granules = kChunk / 8;
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < most_rows * granules; i += kThreads) {
        const int row = i / granules, granule = i % granules, k = chunk * kChunk + granule * 8;
        const bool valid = row < product.rows && k < product.inputs;
        const half *from = valid ? product.x + static_cast<size_t>(row) * product.inputs + k : product.x;
        tc::copy_async_16(to + row * kStride + granule * 8, from, valid);
    }
}

// The weights of one block of k; zeros where K or the outputs end.
__device__ __forceinline__ void fetch(uint4 (&weights)[2], const uint4 *tile, int block, bool there) {
    if (there) {
        weights[0] = load_weights(tile + block * 64);
        weights[1] = load_weights(tile + block * 64 + 32);
    } else {
        weights[0] = weights[1] = {0u, 0u, 0u, 0u};
    }
}

// Multiplies and calls `finish(row, output, sum)` for each result, bias added.
template <int most_rows, class Finish>
__device__ __forceinline__ void multiply(const Product &product, const Finish &finish) {
    constexpr int columns = most_rows / 8;  // operands of eight rows
    DYNAMIC_SHARED(unsigned char, shared);
    int *is_last = reinterpret_cast<int *>(shared);
    half *activations = reinterpret_cast<half *>(shared + 16);  // two chunks
    float *sums = reinterpret_cast<float *>(shared + 16);       // (R, 68), in their place when all is multiplied
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int group = warp / kTiles, split = static_cast<int>(blockIdx.y), splits = static_cast<int>(gridDim.y);
    const int blocks = (product.inputs + kBlock - 1) / kBlock, chunks = (product.inputs + kChunk - 1) / kChunk;
    const int begin = split * product.chunks_of_split, end = min(begin + product.chunks_of_split, chunks);
    const int tile = static_cast<int>(blockIdx.x) * kTiles + warp % kTiles;
    const bool there = tile * 16 < product.outputs;
    const uint4 *weights = product.weights + static_cast<size_t>(there ? tile : 0) * blocks * 64 + lane;

    uint4 flight[kOwnBlocks][2];
    const int first = group * kOwnBlocks;
#pragma unroll
    for (int i = 0; i < kOwnBlocks; i++) {
        const int block = begin * kBlocks + first + i;
        fetch(flight[i], weights, block, there && block < blocks);
    }
    launch_dependents();
    wait_for_prerequisites();
    stage<most_rows>(activations, product, begin);
    tc::copy_async_commit();

    tc::FragmentC c[columns];
#pragma unroll
    for (int t = 0; t < columns; t++) c[t] = {{0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll 1
    for (int chunk = begin; chunk < end; chunk++) {
        const half *staged = activations + ((chunk - begin) & 1) * most_rows * kStride;
        if (chunk + 1 < end)
            stage<most_rows>(activations + ((chunk + 1 - begin) & 1) * most_rows * kStride, product, chunk + 1);
        tc::copy_async_commit();
        tc::copy_async_wait<1>();
        __syncthreads();
        const half *mine = staged + (lane / 4) * kStride + first * kBlock + (lane % 4) * 8;
#pragma unroll
        for (int i = 0; i < kOwnBlocks; i++) {
            const tc::FragmentA even = {{flight[i][0].x, flight[i][0].y, flight[i][0].z, flight[i][0].w}};
            const tc::FragmentA odd = {{flight[i][1].x, flight[i][1].y, flight[i][1].z, flight[i][1].w}};
#pragma unroll
            for (int t = 0; t < columns; t++) {
                const uint4 x = *reinterpret_cast<const uint4 *>(mine + t * 8 * kStride + i * kBlock);
                tc::mma_m16n8k16(c[t], even, {{x.x, x.y}});
                tc::mma_m16n8k16(c[t], odd, {{x.z, x.w}});
            }
            const int block = (chunk + 1) * kBlocks + first + i;
            fetch(flight[i], weights, block, there && chunk + 1 < end && block < blocks);
        }
        __syncthreads();  // everyone has read the chunk
    }
    tc::copy_async_wait<0>();

    float *own = sums + (lane % 4) * 2 * kSumStride + (warp % kTiles) * 16 + lane / 4;
#pragma unroll
    for (int part = 1; part >= 0; part--) {  // the second group's sums, then the first's with them
        if (group == part) {
#pragma unroll
            for (int t = 0; t < columns; t++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float *to = own + (t * 8 + i % 2) * kSumStride + (i / 2) * 8;
                    *to = part == 1 ? c[t].r[i] : c[t].r[i] + *to;
                }
        }
        __syncthreads();
    }

    if (splits > 1) {
        const size_t slot = static_cast<size_t>(most_rows) * kOutputs;
        float *slots = product.partials + blockIdx.x * splits * slot;
        for (int i = thread; i < product.rows * kOutputs; i += kThreads)
            slots[split * slot + i] = sums[i / kOutputs * kSumStride + i % kOutputs];
        __threadfence();  // the slot before the ticket
        __syncthreads();
        if (thread == 0) {
            *is_last = atomicAdd(product.tickets + blockIdx.x, 1) == splits - 1;
            if (*is_last) product.tickets[blockIdx.x] = 0;
        }
        __syncthreads();
        if (!*is_last) return;
        __threadfence();  // the ticket before the others' slots
        for (int i = thread; i < product.rows * kOutputs; i += kThreads) {
            float sum = 0.0f;
            for (int part = 0; part < splits; part++) sum += __ldcg(slots + part * slot + i);
            sums[i / kOutputs * kSumStride + i % kOutputs] = sum;  // only this thread reads it
        }
    }
    for (int i = thread; i < product.rows * kOutputs; i += kThreads) {
        const int row = i / kOutputs, n = static_cast<int>(blockIdx.x) * kOutputs + i % kOutputs;
        if (n >= product.outputs) continue;
        float sum = sums[row * kSumStride + i % kOutputs];
        if (product.bias != nullptr) sum += product.bias[n];
        finish(row, n, sum);
    }
}

}  // namespace dense_rows

#define DENSE_ROWS(name, most_rows, type, store)                                                                       \
    extern "C" __global__ void __launch_bounds__(dense_rows::kThreads, 2) dense_rows_##name##_##most_rows(             \
        const uint4 *weights, const float *bias, float *partials, int32_t *tickets, int outputs, int inputs, int rows, \
        int chunks_of_split, const half *x, type *y) {                                                                 \
        dense_rows::multiply<most_rows>({weights, bias, partials, tickets, outputs, inputs, rows, chunks_of_split, x}, \
                                        [=](int row, int n, float sum) {                                               \
                                            type &result = y[static_cast<size_t>(row) * outputs + n];                  \
                                            result = store;                                                            \
                                        });                                                                            \
    }
#define DENSE_ROWS_OF(most_rows)                                  \
    DENSE_ROWS(linear, most_rows, half, __float2half_rn(sum))     \
    DENSE_ROWS(gelu, most_rows, half, __float2half_rn(gelu(sum))) \
    DENSE_ROWS(logits, most_rows, float, sum)                     \
    DENSE_ROWS(residual, most_rows, float, result + sum)
DENSE_ROWS_OF(16)
DENSE_ROWS_OF(32)
DENSE_ROWS_OF(64)
