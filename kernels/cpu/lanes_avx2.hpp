// Sixteen lanes in two registers of AVX2. The terms are told in lanes.hpp.
#pragma once

#include <immintrin.h>

namespace {

struct F16 {
    __m256 a, b;
};
struct I16 {
    __m256i a, b;
};

inline F16 splat(float x) {
    return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline F16 load(const float *p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline __m256i lanes_below(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline F16 keep_below(F16 x, int n, float other) {
    const __m256 o = _mm256_set1_ps(other);
    return {_mm256_blendv_ps(o, x.a, _mm256_castsi256_ps(lanes_below(n))),
            _mm256_blendv_ps(o, x.b, _mm256_castsi256_ps(lanes_below(n - 8)))};
}
inline F16 load_part(const float *p, int n, float other) {
    return keep_below({_mm256_maskload_ps(p, lanes_below(n)), _mm256_maskload_ps(p + 8, lanes_below(n - 8))}, n, other);
}
inline void store(float *p, F16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline void store_part(float *p, F16 x, int n) {
    _mm256_maskstore_ps(p, lanes_below(n), x.a);
    _mm256_maskstore_ps(p + 8, lanes_below(n - 8), x.b);
}
inline F16 add(F16 x, F16 y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline F16 sub(F16 x, F16 y) {
    return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline F16 mul(F16 x, F16 y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline F16 divide(F16 x, F16 y) {
    return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline F16 fma(F16 x, F16 y, F16 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F16 larger(F16 x, F16 y) {
    return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline F16 smaller(F16 x, F16 y) {
    return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline F16 magnitude(F16 x) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(bit, x.a), _mm256_andnot_ps(bit, x.b)};
}
inline F16 with_sign_of(F16 x, F16 s) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return {_mm256_or_ps(x.a, _mm256_and_ps(bit, s.a)), _mm256_or_ps(x.b, _mm256_and_ps(bit, s.b))};
}
inline F16 where_below(F16 x, F16 y, F16 then, F16 otherwise) {
    return {_mm256_blendv_ps(otherwise.a, then.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
            _mm256_blendv_ps(otherwise.b, then.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
inline I16 to_int(F16 x) {
    return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
inline F16 to_float(I16 x) {
    return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
inline F16 times_power_of_two(F16 x, I16 n) {
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x.a), _mm256_slli_epi32(n.a, 23))),
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x.b), _mm256_slli_epi32(n.b, 23)))};
}
inline F16 load_halves(const uint16_t *p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
inline void store_halves(uint16_t *p, F16 x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
inline void to_array(float *p, F16 x) {
    store(p, x);
}
inline I16 splat_int(int32_t x) {
    return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
inline void store_bytes(int8_t *p, I16 x) {
    int32_t lanes[kLanes];
    _mm256_storeu_si256((__m256i *)lanes, x.a);
    _mm256_storeu_si256((__m256i *)(lanes + 8), x.b);
    for (int i = 0; i < kLanes; i++) p[i] = int8_t(lanes[i]);
}

struct Bytes {
    __m256i a, b;
};
inline Bytes load_codes(const uint8_t *p) {
    return {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
constexpr int kByteZero = 128;
inline Bytes load_bytes(const uint8_t *p) {
    return load_codes(p);
}
inline Bytes low_nibbles(Bytes x) {
    const __m256i m = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
inline Bytes high_nibbles(Bytes x) {
    const __m256i m = _mm256_set1_epi8(15);
    return {_mm256_and_si256(_mm256_srli_epi16(x.a, 4), m), _mm256_and_si256(_mm256_srli_epi16(x.b, 4), m)};
}
inline __m256i dot4_half(__m256i acc, __m256i codes, __m256i x) {
    // maddubs saturates beyond 32767, so that the bytes go through 16 bits in two halves, the even ones and the odd
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(codes, low), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(x, 8));
    return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
inline I16 dot4(I16 acc, Bytes codes, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    const __m256i v = _mm256_set1_epi32(four);
    return {dot4_half(acc.a, codes.a, v), dot4_half(acc.b, codes.b, v)};
}

}  // namespace
