// What every kernel includes first. On a GPU: CUDA's half type and dynamic shared memory. Under g++: the test-only shim
// of tests/kernels/shim, on the include path of tests alone, so that the same source runs on a processor.
//
// Rules that make a source run on both: dynamic shared memory only (the shim has no __shared__); half through
// intrinsics (__half2float, __float2half_rn, ...), never through operators; tensor cores and cp.async through
// tensor_core.cuh; kernels are extern "C" with explicit __launch_bounds__ and scalar or pointer parameters.
#pragma once

#ifdef __CUDACC__

#ifdef __CUDACC_RTC__  // NVRTC has no C library
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned long long uintptr_t;
#else
#include <stdint.h>
#endif
#include <cuda_fp16.h>

// Declares `T *name`, the start of the block's dynamic shared memory.
extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
#define DYNAMIC_SHARED(T, name) T *name = reinterpret_cast<T *>(dynamic_shared_bytes)

#else
#include "cuda_cpu.h"
#endif

constexpr float kFloatMax = 3.402823466e+38f;
#define FLOAT_INFINITY __int_as_float(0x7f800000)
