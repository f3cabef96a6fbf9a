// How weights packed by kernels/packing.py are read: 16 bytes a lane, once.
#pragma once

#include "portable.cuh"

__device__ __forceinline__ uint4 load_weights(const uint4 *from) {
#ifdef __CUDACC__
    uint4 value;  // read once: no place in L1
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(from));
    return value;
#else
    return *from;
#endif
}
