// Convolutions of bfloat16 with float32 sums in the tiles of AMX: 16 pixels x 32 channels times 32 channels x 16
// outputs.
//
// Dot products of AVX-512 (vdpbf16ps) were tried for processors without tiles: on one with both they took 1.06 s for
// the f16 decoder, where float32 takes 0.70 and tiles 0.11.
#include "conv.hpp"
#include "strips.hpp"

namespace {

constexpr int kDepth = 32;
constexpr int kTileElements = 16 * kDepth;

struct Bf16 {
    using Element = uint16_t;
    static constexpr int kHalves = 2;
    static void put(uint16_t *to, const F16 *v) {
        const __m512bh both = _mm512_cvtne2ps_pbh(v[1], v[0]);
        memcpy(to, &both, sizeof both);
    }
};

// Within 2^-14, where a bfloat16 has 2^-9.
struct Fast {
    static F16 quotient(F16 x, F16 y) { return mul(x, _mm512_rcp14_ps(y)); }
};

struct alignas(64) TileConfig {
    uint8_t palette, start, reserved[14];
    uint16_t columns[16];
    uint8_t rows[16];
};

// Not on the stack: GCC takes only the first 8 bytes for what is read, and leaves the others out.
const TileConfig kTileConfig = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

void set_tiles() {
    _tile_loadconfig(&kTileConfig);
}

void release_tiles() {
    _tile_release();
}

struct Sixteen {  // outputs of one row
    const uint16_t *x;
    size_t to;
    int count;
};

inline void finish(const cpu::ConvTask &t, const Sixteen &s, int vector, const float *sums) {
    const F16 bias = load(t.bias + vector * kLanes);
    const size_t at = s.to + vector * t.out_block_stride;
    for (int p = 0; p < s.count; p++) {
        const size_t here = at + p * t.out_pixel_stride;
        const F16 y = add(load(sums + p * kLanes), bias);
        store(t.out + here, t.add ? add(y, load(t.add + here)) : y);
    }
}

template <int V>
void sum_tiles(const cpu::ConvTask &t, const Sixteen &first, const Sixteen &second) {
    const uint16_t *w = (const uint16_t *)t.weights;
    const size_t stride = t.pixel_stride * sizeof(uint16_t);
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (V == 2) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int b = 0; b < t.blocks; b++)
        for (int tap = 0; tap < t.taps; tap++, w += V * kTileElements) {
            const size_t at = b * t.block_stride + t.tap_offsets[tap];
            _tile_loadd(6, w, 64);
            _tile_loadd(4, first.x + at, stride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, second.x + at, stride);
            _tile_dpbf16ps(1, 5, 6);
            if constexpr (V == 2) {
                _tile_loadd(7, w + kTileElements, 64);
                _tile_dpbf16ps(2, 4, 7);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    alignas(64) float sums[4][16 * kLanes];
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    if constexpr (V == 2) {
        _tile_stored(2, sums[2], 64);
        _tile_stored(3, sums[3], 64);
    }
    for (int v = 0; v < V; v++) {
        finish(t, first, v, sums[2 * v]);
        finish(t, second, v, sums[2 * v + 1]);
    }
}

void conv(const cpu::ConvTask &t) {
    const int pieces = (t.columns + 15) / 16, all = pieces * t.rows;
    auto piece = [&](int i) {
        const int r = i / pieces, x = i % pieces * 16;
        return Sixteen{(const uint16_t *)t.strip + r * t.row_stride + x * t.pixel_stride,
                       r * t.out_row_stride + x * t.out_pixel_stride, t.columns - x < 16 ? t.columns - x : 16};
    };
    for (int i = 0; i < all; i += 2) {
        const Sixteen first = piece(i);
        Sixteen second = i + 1 < all ? piece(i + 1) : first;
        if (i + 1 == all) second.count = 0;
        t.vectors == 2 ? sum_tiles<2>(t, first, second) : sum_tiles<1>(t, first, second);
    }
}

}  // namespace

namespace cpu {

const ConvKernels conv_tables::kAmx = {"AMX bf16", kDepth, fill<Bf16, Fast>, conv, set_tiles, release_tiles, nullptr};

}  // namespace cpu
