// Sixteen lanes in one register of AVX-512, with the dot products of VNNI. The terms are told in lanes.hpp.
#pragma once

#include <immintrin.h>

namespace {

using F16 = __m512;
using I16 = __m512i;

inline F16 splat(float x) {
    return _mm512_set1_ps(x);
}
inline F16 load(const float *p) {
    return _mm512_loadu_ps(p);
}
inline __mmask16 lanes_below(int n) {
    return n >= 16 ? 0xffff : n <= 0 ? 0 : __mmask16((1u << n) - 1);
}
// The first n lanes from p, the others `other`.
inline F16 load_part(const float *p, int n, float other) {
    return _mm512_mask_loadu_ps(splat(other), lanes_below(n), p);
}
inline F16 keep_below(F16 x, int n, float other) {
    return _mm512_mask_mov_ps(splat(other), lanes_below(n), x);
}
inline void store(float *p, F16 x) {
    _mm512_storeu_ps(p, x);
}
inline void store_part(float *p, F16 x, int n) {
    _mm512_mask_storeu_ps(p, lanes_below(n), x);
}
inline F16 add(F16 a, F16 b) {
    return _mm512_add_ps(a, b);
}
inline F16 sub(F16 a, F16 b) {
    return _mm512_sub_ps(a, b);
}
inline F16 mul(F16 a, F16 b) {
    return _mm512_mul_ps(a, b);
}
inline F16 divide(F16 a, F16 b) {
    return _mm512_div_ps(a, b);
}
inline F16 fma(F16 a, F16 b, F16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
inline F16 larger(F16 a, F16 b) {
    return _mm512_max_ps(a, b);
}
inline F16 smaller(F16 a, F16 b) {
    return _mm512_min_ps(a, b);
}
inline F16 magnitude(F16 a) {
    return _mm512_abs_ps(a);
}
inline F16 with_sign_of(F16 a, F16 sign) {
    const __m512i bit = _mm512_set1_epi32(int(0x80000000u));
    return _mm512_castsi512_ps(
        _mm512_or_si512(_mm512_castps_si512(a), _mm512_and_si512(_mm512_castps_si512(sign), bit)));
}
inline F16 where_below(F16 a, F16 b, F16 then, F16 otherwise) {  // a < b ? then : otherwise
    return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), then);
}
inline I16 to_int(F16 a) {
    return _mm512_cvtps_epi32(a);
}  // to nearest, ties to even
inline F16 to_float(I16 a) {
    return _mm512_cvtepi32_ps(a);
}
inline F16 times_power_of_two(F16 a, I16 n) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(n, 23)));
}
inline F16 load_halves(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
inline void store_halves(uint16_t *p, F16 a) {  // to nearest, ties to even
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_bytes(int8_t *p, I16 a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}
inline void to_array(float *p, F16 x) {
    store(p, x);
}
inline I16 splat_int(int32_t x) {
    return _mm512_set1_epi32(x);
}

// 64 weight bytes: 4 consecutive ones of each of 16 outputs.
using Bytes = __m512i;
inline Bytes load_codes(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}
// The same of a matrix in 8 bits, whose codes may be changed for `dot4`, so that kByteZero stands for 0.
constexpr int kByteZero = 128;
inline Bytes load_bytes(const uint8_t *p) {
    return load_codes(p);
}
inline Bytes low_nibbles(Bytes b) {
    return _mm512_and_si512(b, _mm512_set1_epi8(15));
}
inline Bytes high_nibbles(Bytes b) {
    return _mm512_and_si512(_mm512_srli_epi16(b, 4), _mm512_set1_epi8(15));
}
// Each lane: acc + the product of its four bytes with those of x, which are -127 ... 127.
inline I16 dot4(I16 acc, Bytes codes, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(four));
}

}  // namespace
