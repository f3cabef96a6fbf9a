// Compiled once for each instruction set, with CPU_TABLE as the name of the table; see build.py for the options.
#include "kernels.hpp"

#include "attention.hpp"
#include "products.hpp"

#if defined(CPU_AVX512)
#define CPU_NAME "AVX-512 VNNI"
#elif defined(CPU_AVX2)
#define CPU_NAME "AVX2"
#elif defined(CPU_NEON_DOT)
#define CPU_NAME "NEON with dot products"
#elif defined(CPU_NEON)
#define CPU_NAME "NEON"
#else
#define CPU_NAME "plain C++"
#endif

namespace cpu {

const Kernels CPU_TABLE = {CPU_NAME, kMaxQueries, panel, attend, append, layer_norm, quantize_row};

}  // namespace cpu
