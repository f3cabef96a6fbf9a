// gather_codes: codebook entries of codes, the decoder's input.
// Reference: trt_vqgan.kernels.reference.gather_codes.gather_codes.
// Grid: elements / (256 x elements of a unit). Block: 256, a unit a thread. Moves an entry's bytes twice a code; limit:
// memory. Kernels differ in the unit they copy: 16 bytes where entries are a multiple of that, else 2.
#include "portable.cuh"

namespace {

// table (size, units), out (rows, units). A code outside of the codebook makes NaN, never a read outside of the table.
template <class Unit>
__device__ __forceinline__ void gather(const int *__restrict__ codes, const Unit *__restrict__ table,
                                       Unit *__restrict__ out, int rows, int units, int size, Unit outside) {
    const long long index = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
    if (index >= static_cast<long long>(rows) * units) return;
    const int code = codes[index / units];
    const bool valid = code >= 0 && code < size;
    out[index] = valid ? table[static_cast<long long>(code) * units + index % units] : outside;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256)
    gather_codes_16(const int *codes, const uint4 *table, uint4 *out, int rows, int units, int size) {
    gather(codes, table, out, rows, units, size, make_uint4(~0u, ~0u, ~0u, ~0u));
}

extern "C" __global__ void __launch_bounds__(256)
    gather_codes_2(const int *codes, const uint16_t *table, uint16_t *out, int rows, int units, int size) {
    gather(codes, table, out, rows, units, size, static_cast<uint16_t>(0xffff));
}
