// Scalar twins of csrc/tensor_core.cuh: lanes meet, and one of them computes for all by the fragment maps given there.
#pragma once
#include "cuda_cpu.h"

namespace cusim {

inline float half_of(uint64_t word, int which) {
    return from_half_bits(uint16_t(word >> (16 * which)));
}

// Hardware adds a group's products and the accumulator without rounding to nearest; the pessimistic twin truncates.
inline float truncated(double sum) {
    float value = float(sum);
    if (std::fabs(double(value)) > std::fabs(sum) && std::isfinite(value)) value = std::nextafter(value, 0.f);
    return value;
}

// in: registers of A from 0, of B from 4, of C from 6 as two floats a word.
template <int K>
inline void multiply_lanes(Thread *lanes, unsigned) {
    float a[16][K], b[K][8];
    for (int lane = 0; lane < 32; lane++) {
        const uint64_t *in = lanes[lane].in;
        int g = lane / 4, c = lane % 4 * 2;
        for (int i = 0; i < 2; i++) {
            for (int part = 0; part < K / 8; part++) {
                a[g][c + i + 8 * part] = half_of(in[2 * part], i);
                a[g + 8][c + i + 8 * part] = half_of(in[2 * part + 1], i);
                b[c + i + 8 * part][g] = half_of(in[4 + part], i);
            }
        }
    }
    double d[16][8];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            d[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + (i & 1)] = get<float>(lanes[lane].in[6 + i / 2] >> (32 * (i & 1)));
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < K; k++)
            for (int column = 0; column < 8; column++) d[row][column] += double(a[row][k]) * b[k][column];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            put(lanes[lane].out[i], truncated(d[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + (i & 1)]));
}

// in: an address. out: one register a matrix.
template <int matrices, bool transposed>
inline void load_lanes(Thread *lanes, unsigned) {
    for (int m = 0; m < matrices; m++) {
        uint16_t value[8][8];
        int uses[8] = {};
        for (int row = 0; row < 8; row++) {
            Thread &t = lanes[m * 8 + row];
            const char *p = get<const char *>(t.in[0]);
            if (uintptr_t(p) & 15) fail(t, t.site, "ldmatrix: the address is not a multiple of 16");
            if (p < block->shared || p + 16 > block->shared + block->shared_bytes)
                fail(t, t.site, "ldmatrix: the address lies outside of the block's shared memory");
            memcpy(value[row], p, 16);
            uses[(p - block->shared) / 16 % 8]++;
        }
        block->bank_conflicts += *std::max_element(uses, uses + 8) - 1;
        for (int lane = 0; lane < 32; lane++) {
            int g = lane / 4, c = lane % 4 * 2;
            uint16_t low = transposed ? value[c][g] : value[g][c],
                     high = transposed ? value[c + 1][g] : value[g][c + 1];
            lanes[lane].out[m] = uint32_t(low) | uint32_t(high) << 16;
        }
    }
}

template <int matrices, bool transposed>
inline void load_matrices(uint32_t *r, const void *row, Site site) {
    Thread &t = self();
    put(t.in[0], row);
    wait_for_warp(~0u, load_lanes<matrices, transposed>, "ldmatrix", site);
    for (int i = 0; i < matrices; i++) r[i] = uint32_t(t.out[i]);
}

}  // namespace cusim

namespace tc {

template <int K>
inline void multiply(FragmentC &c, const FragmentA &a, const FragmentB &b, cusim::Site site) {
    cusim::Thread &t = cusim::self();
    for (int i = 0; i < K / 4; i++) t.in[i] = a.r[i];
    for (int i = 0; i < K / 8; i++) t.in[4 + i] = b.r[i];
    memcpy(&t.in[6], c.r, sizeof c.r);
    cusim::wait_for_warp(~0u, cusim::multiply_lanes<K>, "mma", site);
    for (int i = 0; i < 4; i++) c.r[i] = cusim::get<float>(t.out[i]);
}
inline void mma_m16n8k16(FragmentC &c, const FragmentA &a, const FragmentB &b, CUSIM_SITE) {
    multiply<16>(c, a, b, {file, line});
}
inline void mma_m16n8k8(FragmentC &c, const FragmentA &a, const FragmentB &b, CUSIM_SITE) {
    multiply<8>(c, a, b, {file, line});
}
inline void load_matrices_x4(uint32_t (&r)[4], const void *row, CUSIM_SITE) {
    cusim::load_matrices<4, false>(r, row, {file, line});
}
inline void load_matrices_x4_transposed(uint32_t (&r)[4], const void *row, CUSIM_SITE) {
    cusim::load_matrices<4, true>(r, row, {file, line});
}
inline void load_matrices_x2(uint32_t (&r)[2], const void *row, CUSIM_SITE) {
    cusim::load_matrices<2, false>(r, row, {file, line});
}
inline void load_matrices_x2_transposed(uint32_t (&r)[2], const void *row, CUSIM_SITE) {
    cusim::load_matrices<2, true>(r, row, {file, line});
}

// The copy is put off until it is waited for, so that a wait that is one group short shows.
inline void copy_async_16(void *shared, const void *global, bool valid = true, CUSIM_SITE) {
    cusim::Thread &t = cusim::self();
    char *to = static_cast<char *>(shared);
    cusim::Site site{file, line};
    if ((uintptr_t(shared) | uintptr_t(global)) & 15)
        cusim::fail(t, site, "cp.async: an address is not a multiple of 16");
    if (to < cusim::block->shared || to + 16 > cusim::block->shared + cusim::block->shared_bytes)
        cusim::fail(t, site, "cp.async: the destination lies outside of the block's shared memory");
#if defined(__SANITIZE_ADDRESS__)
    if (valid)  // so that the sanitizer names this line
        for (int i = 0; i < 16; i += 8) (void)*(static_cast<const volatile uint64_t *>(global) + i / 8);
#endif
    memset(shared, 0xff, 16);  // whatever is read before the wait is garbage
    t.copies.push_back({shared, global, valid, site});
    t.uncommitted++;
}
inline void copy_async_commit() {
    cusim::Thread &t = cusim::self();
    t.group_sizes.push_back(t.uncommitted);
    t.uncommitted = 0;
}
template <int pending>
inline void copy_async_wait() {
    cusim::Thread &t = cusim::self();
    while (t.group_sizes.size() > size_t(pending)) {
        unsigned count = t.group_sizes.front();
        for (unsigned i = 0; i < count; i++) {
            if (t.copies[i].valid)
                memcpy(t.copies[i].shared, t.copies[i].global, 16);
            else
                memset(t.copies[i].shared, 0, 16);
        }
        t.copies.erase(t.copies.begin(), t.copies.begin() + count);
        t.group_sizes.erase(t.group_sizes.begin());
    }
}

}  // namespace tc
