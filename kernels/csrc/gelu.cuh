// torch's nn.GELU: by the error function, not its approximation by tanh (which cuBLASLt's epilogue is).
#pragma once
#include "portable.cuh"

__device__ __forceinline__ float gelu(float x) {
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
}
