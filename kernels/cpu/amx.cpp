// Products of 8- and 4-bit codes with many rows in the tiles of AMX, at up to twice the rate of VNNI.
//
// The integers of a block are exact, whichever instructions add them up, and its float is added to the same
// accumulator in the same order as in products.hpp: so the bits are the same, and single rows may go that way.
#include "amx.hpp"

#include "finish.hpp"

namespace {

constexpr int kMaxRows = 16;       // of a tile; the more, the better: storing a tile takes the same time for any number
constexpr int kDepth = 512;        // inputs of a panel (16 KiB) that stay in the first cache level for many rows
constexpr int kAheadBytes = 4096;  // as kAheadFar in products.hpp
constexpr int kLine = 4 * kPanel;  // bytes of four inputs of a panel

// Tiles 0 to 3 hold sums (in two pairs, so that one is added up while the other is stored), 4 and 5 rows, 6 and 7
// codes.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};

    TileConfig(int count, int block) {
        for (int i = 0; i < 8; i++) {
            bytes[i] = i == 4 || i == 5 ? block : 64;
            rows[i] = i < 6 ? count : block / 4;
        }
    }
};

struct Operands {  // of one group of rows, from the first block of a step on
    const int8_t *q;
    size_t q_stride;
    const float *scales;
    const int32_t *sums;
    size_t block_stride;
    const uint8_t *codes;   // 4 inputs a line
    size_t codes_step;      // bytes from block to block
    const uint8_t *packed;  // where the blocks' scales lie
    size_t packed_step;
    int blocks, block;
    size_t ahead;
};

// Sums of block b in integers: (rows, 16) for one half of the panel or both. The numbers of tiles must be literals.
template <int H, bool Signed>
inline void sum_block(const Operands &o, int b, int32_t (*sums)[kMaxRows * kLanes]) {
    const int8_t *q = o.q + size_t(b) * o.block;
    const uint8_t *codes = o.codes + b * o.codes_step;
#define CPU_SUM(multiply, rows, low, high) \
    _tile_zero(low);                       \
    _tile_loadd(rows, q, o.q_stride);      \
    _tile_loadd(6, codes, kLine);          \
    multiply(low, rows, 6);                \
    if (H == 2) {                          \
        _tile_zero(high);                  \
        _tile_loadd(7, codes + 64, kLine); \
        multiply(high, rows, 7);           \
        _tile_stored(high, sums[1], 64);   \
    }                                      \
    _tile_stored(low, sums[0], 64)
    if (b & 1) {
        if (Signed) {
            CPU_SUM(_tile_dpbssd, 5, 2, 3);
        } else {
            CPU_SUM(_tile_dpbsud, 5, 2, 3);
        }
    } else {
        if (Signed) {
            CPU_SUM(_tile_dpbssd, 4, 0, 1);
        } else {
            CPU_SUM(_tile_dpbsud, 4, 0, 1);
        }
    }
#undef CPU_SUM
}

// H halves of tile (R, 32) += rows (R, blocks) times blocks of codes: signed, or unsigned ones where 128 stands for 0.
template <int R, int H, bool Signed>
void multiply_group(const Operands &o, int half, float *tile) {
    alignas(64) int32_t sums[2][H][kMaxRows * kLanes];
    F16 total[R * H];
#pragma GCC unroll 16
    for (int i = 0; i < R * H; i++) total[i] = load(tile + i / H * kPanel + i % H * kLanes);
    sum_block<H, Signed>(o, 0, sums[0]);
    for (int b = 0; b < o.blocks; b++) {
        const uint8_t *packed = o.packed + b * o.packed_step;
        if (o.ahead)
            for (size_t i = 0; i < o.packed_step; i += 64) prefetch_far(packed + o.ahead + i);
        if (b + 1 < o.blocks) sum_block<H, Signed>(o, b + 1, sums[(b + 1) & 1]);
        F16 scales[H];
        for (int h = 0; h < H; h++) scales[h] = load_halves((const uint16_t *)packed + (half + h) * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < R * H; i++) {
            const int r = i / H, h = i % H;
            I16 sum = _mm512_load_si512(sums[b & 1][h] + r * kLanes);
            if (!Signed) sum = _mm512_add_epi32(sum, splat_int(-128 * o.sums[r * o.block_stride + b]));
            total[i] = fma(to_float(sum), mul(scales[h], splat(o.scales[r * o.block_stride + b])), total[i]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R * H; i++) store(tile + i / H * kPanel + i % H * kLanes, total[i]);
}

template <int R>
void multiply_rows(int rows, bool with_sign, Operands &o, float *tile) {
    if (rows == R) {
        constexpr int H = R <= 8 ? 2 : 1;  // what registers hold
        for (int half = 0; half < 2; half += H) {
            if (with_sign)
                multiply_group<R, H, true>(o, half, tile + half * kLanes);
            else
                multiply_group<R, H, false>(o, half, tile + half * kLanes);
            o.codes += 64;
            o.ahead = 0;  // has been asked for
        }
    } else if constexpr (R < kMaxRows) {
        multiply_rows<R + 1>(rows, with_sign, o, tile);
    }
}

// Codes of blocks as signed bytes, 4 inputs a line.
void unpack(const uint8_t *packed, size_t step, int bits, int blocks, int block, uint8_t *to) {
    const int lines = block * bits / 32;
    for (int b = 0; b < blocks; b++) {
        const uint8_t *from = packed + b * step + 2 * kPanel;
        for (int i = 0; i < 2 * lines; i++, from += 64) {
            const Bytes codes = load_codes(from);
            if (bits == 8) {
                _mm512_store_si512(to + 64 * i, _mm512_xor_si512(codes, _mm512_set1_epi8(-128)));
            } else {
                uint8_t *line = to + (i >> 1) * 2 * kLine + (i & 1) * 64;
                const __m512i zero = _mm512_set1_epi8(8);
                _mm512_store_si512(line, _mm512_sub_epi8(low_nibbles(codes), zero));
                _mm512_store_si512(line + kLine, _mm512_sub_epi8(high_nibbles(codes), zero));
            }
        }
        to += size_t(block) * kPanel;
    }
    asm volatile("" ::: "memory");  // tiles are loaded behind the compiler's back
}

void multiply(const cpu::PanelTask &t) {
    const cpu::Matrix &m = *t.matrix;
    const cpu::Rows &in = *t.rows;
    const int rows = t.last - t.first;
    const int groups = (rows + kMaxRows - 1) / kMaxRows;
    const bool direct = m.bits == 8 && groups == 1;
    const int step = direct ? m.blocks : kDepth / m.block;
    const size_t block_bytes = m.panel_bytes / m.blocks;
    alignas(64) uint8_t codes[kDepth * kPanel];
    // Smaller groups read a row of the next one too; the last is never smaller.
    const TileConfig config((rows + groups - 1) / groups, m.block);
    asm volatile("" ::"r"(&config) : "memory");  // GCC 12 takes only its first 8 bytes for read
    _tile_loadconfig(&config);
    for (int first = 0; first < m.blocks; first += step) {
        const int count = m.blocks - first < step ? m.blocks - first : step;
        const uint8_t *packed = m.data + t.panel * m.panel_bytes + first * block_bytes;
        if (!direct) unpack(packed, block_bytes, m.bits, count, m.block, codes);
        for (int g = 0; g < groups; g++) {
            const int begin = rows * g / groups, end = rows * (g + 1) / groups;
            const size_t row = t.first + begin, place = row * in.block_stride + first;
            Operands o{};
            o.q = in.q + row * in.q_stride + size_t(first) * m.block;
            o.q_stride = in.q_stride;
            o.scales = in.scales + place;
            o.sums = in.sums + place;
            o.block_stride = in.block_stride;
            o.codes = direct ? packed + 2 * kPanel : codes;
            o.codes_step = direct ? block_bytes : size_t(m.block) * kPanel;
            o.packed = packed;
            o.packed_step = block_bytes;
            o.blocks = count;
            o.block = m.block;
            o.ahead = direct ? kAheadBytes : g + 1 == groups ? count * block_bytes : 0;
            multiply_rows<1>(end - begin, !direct, o, t.tile + begin * kPanel);
        }
    }
    _tile_release();
}

}  // namespace

namespace cpu {

void amx_panel(const PanelTask &t) {
    constexpr int kFewestRows = 12;  // with fewer, VNNI is as fast: codes come no faster, and tiles are half empty
    if (t.matrix->bits == 32 || t.last - t.first < kFewestRows) return kAvx512.panel(t);
    begin_tile(t);
    multiply(t);
    finish_tile(t);
}

}  // namespace cpu
