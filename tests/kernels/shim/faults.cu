// Small kernels for the tests of the shim: each is right, or wrong in the one way its define or name says.
#include "tensor_core.cuh"

// Sums of rows of x (rows, 64); 64 threads, one block a row, 256 bytes of shared memory.
extern "C" __global__ void __launch_bounds__(64) row_sums(const float *x, float *sums, int rows) {
    DYNAMIC_SHARED(float, buffer);
    int row = blockIdx.x, thread = threadIdx.x;
    if (row >= rows) return;
    float value = x[row * 64 + thread];
    for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(~0u, value, offset);
    if (thread % 32 == 0) buffer[thread / 32] = value;
#ifndef MISSING_BARRIER
    __syncthreads();
#endif
    if (thread == 0) sums[row] = buffer[0] + buffer[1];
}

extern "C" __global__ void __launch_bounds__(64) divergent_barrier(int *out) {
    if (threadIdx.x < 48) __syncthreads();
    out[threadIdx.x] = 1;
}

extern "C" __global__ void __launch_bounds__(64) two_barriers(int *out) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

extern "C" __global__ void __launch_bounds__(32) divergent_warp(int *out) {
    if (threadIdx.x < 16) __syncwarp();
    if (threadIdx.x >= 16) __syncwarp(0xffff0000u);
    out[threadIdx.x] = 1;
}

extern "C" __global__ void __launch_bounds__(32) exited_lanes(int *out) {
    if (threadIdx.x >= 16) return;
    __syncwarp();  // the others have gone
    out[threadIdx.x] = 1;
}

extern "C" __global__ void __launch_bounds__(32) shuffle_from_outside(int *out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1, 20);
}

extern "C" __global__ void __launch_bounds__(32) mask_of_others(int *out) {
    out[threadIdx.x] = __any_sync(0xffu, 1);
}

// Copies 32 rows of 16 bytes through shared memory, in two groups; `offset` bytes into the source and the buffer.
extern "C" __global__ void __launch_bounds__(32) copy_rows(const unsigned char *in, unsigned char *out, int offset) {
    DYNAMIC_SHARED(unsigned char, buffer);
    unsigned char *mine = buffer + offset + threadIdx.x * 16;
    tc::copy_async_16(mine, in + offset + threadIdx.x * 16);
    tc::copy_async_commit();
    tc::copy_async_commit();
#ifdef WAIT_SHORT
    tc::copy_async_wait<2>();
#elif !defined(NO_WAIT)
    tc::copy_async_wait<0>();
#endif
    for (int i = 0; i < 16; i++) out[threadIdx.x * 16 + i] = mine[i];
#ifdef WAIT_SHORT
    tc::copy_async_wait<0>();
#endif
}

// One 8-row matrix load of the block's shared memory, `stride` bytes a row, from byte `offset`.
extern "C" __global__ void __launch_bounds__(32) load_rows(unsigned *out, int stride, int offset) {
    DYNAMIC_SHARED(unsigned char, buffer);
    for (int i = threadIdx.x; i < 32 * 16; i += 32) buffer[i] = i / 16;
    __syncwarp();
    unsigned r[4];
    tc::load_matrices_x4(r, buffer + offset + threadIdx.x % 8 * stride);
    out[threadIdx.x] = r[0];
}

// d (16, 8) = a (16, K) b (K, 8) with a row-major, b column-major (8, K); both loaded by ldmatrix. K is 16 or 8.
template <int K>
__device__ __forceinline__ void product(const half *a, const half *b, float *d) {
    DYNAMIC_SHARED(half, buffer);
    for (int i = threadIdx.x; i < 16 * K; i += 32) buffer[i] = a[i];
    for (int i = threadIdx.x; i < 8 * K; i += 32) buffer[16 * K + i] = b[i];
    __syncwarp();
    int lane = threadIdx.x;
    tc::FragmentA fa;
    tc::FragmentB fb;
    if (K == 16) {
        tc::load_matrices_x4(fa.r, buffer + (lane & 15) * 16 + (lane >> 4) * 8);
        tc::load_matrices_x2(fb.r, buffer + 256 + (lane & 7) * 16 + (lane >> 3 & 1) * 8);
    } else {
        unsigned r[2];
        tc::load_matrices_x2(r, buffer + (lane & 15) * 8);
        fa.r[0] = r[0], fa.r[1] = r[1];
        tc::load_matrices_x2(r, buffer + 128 + (lane & 7) * 8);
        fb.r[0] = r[0];
    }
    tc::FragmentC c = {{0.f, 0.f, 0.f, 0.f}};
    if (K == 16)
        tc::mma_m16n8k16(c, fa, fb);
    else
        tc::mma_m16n8k8(c, fa, fb);
    for (int i = 0; i < 4; i++) d[(lane / 4 + 8 * (i / 2)) * 8 + lane % 4 * 2 + (i & 1)] = c.r[i];
}
extern "C" __global__ void __launch_bounds__(32) product_16(const half *a, const half *b, float *d) {
    product<16>(a, b, d);
}
extern "C" __global__ void __launch_bounds__(32) product_8(const half *a, const half *b, float *d) {
    product<8>(a, b, d);
}

// out (8, 8) = in (8, 8) transposed.
extern "C" __global__ void __launch_bounds__(32) transpose_8(const half *in, half *out) {
    DYNAMIC_SHARED(half, buffer);
    for (int i = threadIdx.x; i < 64; i += 32) buffer[i] = in[i];
    __syncwarp();
    unsigned r[4];
    tc::load_matrices_x4_transposed(r, buffer + threadIdx.x % 8 * 8);
    reinterpret_cast<unsigned *>(out)[threadIdx.x] = r[0];
}

extern "C" __global__ void __launch_bounds__(32) read_at(const float *x, float *out, int index) {
    out[threadIdx.x] = x[index + threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(32) write_shared_at(float *out, int index) {
    DYNAMIC_SHARED(float, buffer);
    buffer[index + threadIdx.x] = 1.f;
    out[threadIdx.x] = buffer[index + threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(32) read_vector_at(const float *x, float4 *out, int index) {
    out[threadIdx.x] = *reinterpret_cast<const float4 *>(x + index);
}

// The last block to arrive adds up; wrong without counting, right in any order of blocks with it.
extern "C" __global__ void __launch_bounds__(32) last_block(const int *in, int *slots, int *ticket, int *out) {
    if (threadIdx.x == 0) {
        slots[blockIdx.x] = in[blockIdx.x];
        __threadfence();
#ifdef NO_TICKET
        bool last = blockIdx.x == gridDim.x - 1;
#else
        bool last = atomicAdd(ticket, 1) == int(gridDim.x) - 1;
#endif
        if (last) {
            int sum = 0;
            for (int i = 0; i < int(gridDim.x); i++) sum += slots[i];
            *out = sum;
        }
    }
}

extern "C" __global__ void __launch_bounds__(32) types(int i, unsigned u, float f, unsigned long long q, double *out) {
    if (threadIdx.x == 0) {
        out[0] = i;
        out[1] = u;
        out[2] = f;
        out[3] = double(q);
    }
}
