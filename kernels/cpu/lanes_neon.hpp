// Sixteen lanes in four registers of 64-bit ARM's NEON. The terms are told in lanes.hpp.
#pragma once

#include <arm_neon.h>

namespace {

struct F16 {
    float32x4_t a, b, c, d;
};
struct I16 {
    int32x4_t a, b, c, d;
};

inline F16 splat(float x) {
    const float32x4_t v = vdupq_n_f32(x);
    return {v, v, v, v};
}
inline F16 load(const float *p) {
    return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
inline void store(float *p, F16 x) {
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
inline float32x4_t keep_quarter_below(float32x4_t x, int n, float other) {
    const int32x4_t lanes = vcombine_s32(vcreate_s32(0x100000000), vcreate_s32(0x300000002));
    return vbslq_f32(vcltq_s32(lanes, vdupq_n_s32(n)), x, vdupq_n_f32(other));
}
inline F16 keep_below(F16 x, int n, float other) {
    return {keep_quarter_below(x.a, n, other), keep_quarter_below(x.b, n - 4, other),
            keep_quarter_below(x.c, n - 8, other), keep_quarter_below(x.d, n - 12, other)};
}
inline F16 load_part(const float *p, int n, float other) {
    if (n >= kLanes) return load(p);
    float lanes[kLanes];
    store(lanes, splat(other));
    for (int i = 0; i < n; i++) lanes[i] = p[i];
    return load(lanes);
}
inline void store_part(float *p, F16 x, int n) {
    if (n >= kLanes) return store(p, x);
    float lanes[kLanes];
    store(lanes, x);
    for (int i = 0; i < n; i++) p[i] = lanes[i];
}
inline F16 add(F16 x, F16 y) {
    return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
inline F16 sub(F16 x, F16 y) {
    return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
}
inline F16 mul(F16 x, F16 y) {
    return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
inline F16 divide(F16 x, F16 y) {
    return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}
inline F16 fma(F16 x, F16 y, F16 z) {
    return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
// Not vmaxq_f32 and vminq_f32, which take a NaN wherever it stands: as on other processors the second is taken then.
inline F16 larger(F16 x, F16 y) {
    return {vbslq_f32(vcgtq_f32(x.a, y.a), x.a, y.a), vbslq_f32(vcgtq_f32(x.b, y.b), x.b, y.b),
            vbslq_f32(vcgtq_f32(x.c, y.c), x.c, y.c), vbslq_f32(vcgtq_f32(x.d, y.d), x.d, y.d)};
}
inline F16 smaller(F16 x, F16 y) {
    return {vbslq_f32(vcltq_f32(x.a, y.a), x.a, y.a), vbslq_f32(vcltq_f32(x.b, y.b), x.b, y.b),
            vbslq_f32(vcltq_f32(x.c, y.c), x.c, y.c), vbslq_f32(vcltq_f32(x.d, y.d), x.d, y.d)};
}
inline F16 magnitude(F16 x) {
    return {vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)};
}
inline float32x4_t quarter_with_sign_of(float32x4_t x, float32x4_t s) {
    const uint32x4_t sign = vandq_u32(vreinterpretq_u32_f32(s), vdupq_n_u32(0x80000000u));
    return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(x), sign));
}
inline F16 with_sign_of(F16 x, F16 s) {
    return {quarter_with_sign_of(x.a, s.a), quarter_with_sign_of(x.b, s.b), quarter_with_sign_of(x.c, s.c),
            quarter_with_sign_of(x.d, s.d)};
}
inline F16 where_below(F16 x, F16 y, F16 then, F16 otherwise) {
    return {vbslq_f32(vcltq_f32(x.a, y.a), then.a, otherwise.a), vbslq_f32(vcltq_f32(x.b, y.b), then.b, otherwise.b),
            vbslq_f32(vcltq_f32(x.c, y.c), then.c, otherwise.c), vbslq_f32(vcltq_f32(x.d, y.d), then.d, otherwise.d)};
}
inline I16 to_int(F16 x) {
    return {vcvtnq_s32_f32(x.a), vcvtnq_s32_f32(x.b), vcvtnq_s32_f32(x.c), vcvtnq_s32_f32(x.d)};
}
inline F16 to_float(I16 x) {
    return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)};
}
inline float32x4_t quarter_times_power_of_two(float32x4_t x, int32x4_t n) {
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(n, 23)));
}
inline F16 times_power_of_two(F16 x, I16 n) {
    return {quarter_times_power_of_two(x.a, n.a), quarter_times_power_of_two(x.b, n.b),
            quarter_times_power_of_two(x.c, n.c), quarter_times_power_of_two(x.d, n.d)};
}
inline F16 load_halves(const uint16_t *p) {
    const float16x8_t low = vreinterpretq_f16_u16(vld1q_u16(p)), high = vreinterpretq_f16_u16(vld1q_u16(p + 8));
    return {vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)),
            vcvt_high_f32_f16(high)};
}
inline void store_halves(uint16_t *p, F16 x) {
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.a), x.b)));
    vst1q_u16(p + 8, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.c), x.d)));
}
inline void to_array(float *p, F16 x) {
    store(p, x);
}
inline I16 splat_int(int32_t x) {
    const int32x4_t v = vdupq_n_s32(x);
    return {v, v, v, v};
}
inline void store_bytes(int8_t *p, I16 x) {
    const int16x8_t low = vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b));
    const int16x8_t high = vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

struct Bytes {
    int8x16_t a, b, c, d;
};
inline int8x16_t load_quarter(const uint8_t *p) {
    return vreinterpretq_s8_u8(vld1q_u8(p));
}
inline Bytes load_codes(const uint8_t *p) {
    return {load_quarter(p), load_quarter(p + 16), load_quarter(p + 32), load_quarter(p + 48)};
}
// All bytes are signed here: dot products of unsigned with signed ones came to ARM later.
constexpr int kByteZero = 0;
inline Bytes load_bytes(const uint8_t *p) {
    const Bytes x = load_codes(p);
    const int8x16_t bit = vdupq_n_s8(-128);
    return {veorq_s8(x.a, bit), veorq_s8(x.b, bit), veorq_s8(x.c, bit), veorq_s8(x.d, bit)};
}
inline Bytes low_nibbles(Bytes x) {
    const int8x16_t m = vdupq_n_s8(15);
    return {vandq_s8(x.a, m), vandq_s8(x.b, m), vandq_s8(x.c, m), vandq_s8(x.d, m)};
}
inline int8x16_t high_nibbles_of_quarter(int8x16_t x) {
    return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(x), 4));
}
inline Bytes high_nibbles(Bytes x) {
    return {high_nibbles_of_quarter(x.a), high_nibbles_of_quarter(x.b), high_nibbles_of_quarter(x.c),
            high_nibbles_of_quarter(x.d)};
}
#if defined(CPU_NEON_DOT)
inline int32x4_t dot4_quarter(int32x4_t acc, int8x16_t codes, int8x16_t x) {
    return vdotq_s32(acc, codes, x);
}
#else
inline int32x4_t dot4_quarter(int32x4_t acc, int8x16_t codes, int8x16_t x) {
    // x is -127 ... 127, so that two products are at most 32512 and stay within 16 bits
    const int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(x)), high = vmull_high_s8(codes, x);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
}
#endif
inline I16 dot4(I16 acc, Bytes codes, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    const int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(four));
    return {dot4_quarter(acc.a, codes.a, v), dot4_quarter(acc.b, codes.b, v), dot4_quarter(acc.c, codes.c, v),
            dot4_quarter(acc.d, codes.d, v)};
}

}  // namespace
