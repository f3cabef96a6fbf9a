// Tensor-core products, their operand loads, and asynchronous copies to shared memory: PTX on a GPU (sm_80 and newer);
// under g++ the scalar twins of tests/kernels/shim/tensor_core_cpu.h.
//
// Fragments as in the PTX manual, "Matrix Fragments for mma.m16n8k16 with floating point type"; g = lane / 4, c = lane
// % 4:
//   A (16 x 16, row-major): r[0] = (g, 2c..2c+1), r[1] = (g+8, 2c..), r[2] = (g, 2c+8..), r[3] = (g+8, 2c+8..)
//   B (16 x 8, column-major): r[0] = (k = 2c..2c+1, n = g), r[1] = (k = 2c+8.., n = g)
//   C (16 x 8): r[0], r[1] = (g, 2c), (g, 2c+1); r[2], r[3] = (g+8, 2c), (g+8, 2c+1)
// For m16n8k8, A has r[0], r[1] and B has r[0] only.
#pragma once
#include "portable.cuh"

namespace tc {

struct FragmentA {
    uint32_t r[4];
};
struct FragmentB {
    uint32_t r[2];
};
struct FragmentC {
    float r[4];
};

}  // namespace tc

#ifdef __CUDACC__
namespace tc {

// c += a b.
__device__ __forceinline__ void mma_m16n8k16(FragmentC &c, const FragmentA &a, const FragmentB &b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
                 : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}

// c += a b with half as many columns of a: reads a.r[0], a.r[1] and b.r[0].
__device__ __forceinline__ void mma_m16n8k8(FragmentC &c, const FragmentA &a, const FragmentB &b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
                 : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
                 : "r"(a.r[0]), "r"(a.r[1]), "r"(b.r[0]));
}

// Four 8 x 8 matrices of halves: lanes 8i to 8i+7 give the addresses of matrix i's rows, 16 bytes each, aligned to 16.
__device__ __forceinline__ void load_matrices_x4(uint32_t (&r)[4], const void *row) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_x4_transposed(uint32_t (&r)[4], const void *row) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Two 8 x 8 matrices: the addresses are those of lanes 0 to 15; the other lanes' must be valid too.
__device__ __forceinline__ void load_matrices_x2(uint32_t (&r)[2], const void *row) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1},[%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_x2_transposed(uint32_t (&r)[2], const void *row) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}

// Copies 16 bytes from global to shared memory in the background, both aligned to 16; writes zeros where not `valid`
// (the source is not read then, but must be an address). Finished only after copy_async_wait, and seen by the other
// threads of the block only after a barrier behind that.
__device__ __forceinline__ void copy_async_16(void *shared, const void *global, bool valid = true) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
}

// Makes one group of this thread's copies since the last commit; it may be empty.
__device__ __forceinline__ void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `pending` of this thread's latest groups are unfinished.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace tc
#else
#include "tensor_core_cpu.h"
#endif
