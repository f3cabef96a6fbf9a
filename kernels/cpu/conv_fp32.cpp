// Convolutions in float32. Compiled once for each instruction set, with CPU_TABLE as the name of its tables.
#include "conv.hpp"
#include "strips.hpp"
#include "winograd.hpp"

namespace {

// Outputs that are summed at once: so many that their sums and one row of weights fill the registers.
#if defined(CPU_AVX512)
constexpr int kPixels = 14, kVectors = 2;
#elif defined(CPU_AVX2) || defined(CPU_NEON)
constexpr int kPixels = 6, kVectors = 1;
#else
constexpr int kPixels = 2, kVectors = 1;
#endif

struct Floats {
    using Element = float;
    static constexpr int kHalves = 1;
    static void put(float *to, const F16 *v) { store(to, v[0]); }
};

template <int P, int V>
void sum_block(const cpu::ConvTask &t, const float *x, int vector, float *out, const float *addend) {
    const int width = t.vectors * kLanes;
    F16 sum[P][V];
    for (int v = 0; v < V; v++)
        for (int p = 0; p < P; p++) sum[p][v] = load(t.bias + (vector + v) * kLanes);
    const float *w = (const float *)t.weights + vector * kLanes;
    for (int b = 0; b < t.blocks; b++, x += t.block_stride)
        for (int tap = 0; tap < t.taps; tap++) {
            const float *at = x + t.tap_offsets[tap];
            for (int c = 0; c < kLanes; c++, w += width) {
                F16 weight[V];
                for (int v = 0; v < V; v++) weight[v] = load(w + v * kLanes);
                for (int p = 0; p < P; p++) {
                    const F16 value = splat(at[p * kLanes + c]);
                    for (int v = 0; v < V; v++) sum[p][v] = fma(value, weight[v], sum[p][v]);
                }
            }
        }
    for (int v = 0; v < V; v++)
        for (int p = 0; p < P; p++) {
            const size_t at = v * t.out_block_stride + p * t.out_pixel_stride;
            store(out + at, addend ? add(sum[p][v], load(addend + at)) : sum[p][v]);
        }
}

template <int V, int P = kPixels>
void sum_pixels(int count, const cpu::ConvTask &t, const float *x, int vector, float *out, const float *addend) {
    if constexpr (P > 1)
        if (count < P) return sum_pixels<V, P - 1>(count, t, x, vector, out, addend);
    sum_block<P, V>(t, x, vector, out, addend);
}

template <int V>
void sum_rows(const cpu::ConvTask &t, int vector) {
    const int pieces = (t.columns + kPixels - 1) / kPixels;  // of nearly equal length
    for (int r = 0; r < t.rows; r++)
        for (int i = 0; i < pieces; i++) {
            const int first = t.columns * i / pieces, last = t.columns * (i + 1) / pieces;
            const size_t to = vector * t.out_block_stride + r * t.out_row_stride + first * t.out_pixel_stride;
            sum_pixels<V>(last - first, t, (const float *)t.strip + r * t.row_stride + first * kLanes, vector,
                          t.out + to, t.add ? t.add + to : nullptr);
        }
}

void conv(const cpu::ConvTask &t) {
    if constexpr (kVectors == 2)
        if (t.vectors == 2) return sum_rows<2>(t, 0);
    for (int v = 0; v < t.vectors; v++) sum_rows<1>(t, v);
}

void nothing() {}

}  // namespace

#if defined(CPU_AVX512)
#define CPU_NAME "AVX-512"
#elif defined(CPU_AVX2)
#define CPU_NAME "AVX2"
#elif defined(CPU_NEON)
#define CPU_NAME "NEON"
#else
#define CPU_NAME "plain C++"
#endif

namespace cpu {

const ConvKernels conv_tables::CPU_TABLE = {CPU_NAME, kLanes,  fill<Floats, Accurate>, conv,
                                            nothing,  nothing, kTileTransforms};
const RowKernels row_tables::CPU_TABLE = {moments, softmax};

}  // namespace cpu
