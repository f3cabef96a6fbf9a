// Programmatic dependent launch: a kernel may start while the one before it in the stream still runs, and must then
// wait before it touches what that one writes. Compiled in by TRT_VQGAN_PROGRAMMATIC_LAUNCH for sm_90 and newer, and of
// effect only where the launch asks for it; otherwise both functions are empty.
//
// Every kernel of the decode step calls both, in every thread that stays: a kernel that waited for its predecessor ends
// after it, so each may rely on all that came before. Weights are no kernel's output and may be read before the wait.
#pragma once
#include "portable.cuh"

#if defined(__CUDACC__) && defined(TRT_VQGAN_PROGRAMMATIC_LAUNCH) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define TRT_VQGAN_WAITS_ON_GRID 1
#endif

// Lets the next kernel of the stream start when every block has called this or ended.
__device__ __forceinline__ void launch_dependents() {
#ifdef TRT_VQGAN_WAITS_ON_GRID
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Returns when the kernels before have ended and their writes can be read.
__device__ __forceinline__ void wait_for_prerequisites() {
#ifdef TRT_VQGAN_WAITS_ON_GRID
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
