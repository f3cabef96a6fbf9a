// Sixteen lanes as vectors of GCC and Clang, which every processor has in some way. The terms are told in lanes.hpp.
#pragma once

namespace {

typedef float F16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));

inline F16 splat(float x) {
    return F16{} + x;
}
inline F16 load(const float *p) {
    F16 x;
    memcpy(&x, p, sizeof x);
    return x;
}
inline F16 keep_below(F16 x, int n, float other) {
    for (int i = 0; i < kLanes; i++) x[i] = i < n ? x[i] : other;
    return x;
}
inline F16 load_part(const float *p, int n, float other) {
    F16 x = splat(other);
    for (int i = 0; i < kLanes && i < n; i++) x[i] = p[i];
    return x;
}
inline void store(float *p, F16 x) {
    memcpy(p, &x, sizeof x);
}
inline void store_part(float *p, F16 x, int n) {
    for (int i = 0; i < kLanes && i < n; i++) p[i] = x[i];
}
inline F16 add(F16 a, F16 b) {
    return a + b;
}
inline F16 sub(F16 a, F16 b) {
    return a - b;
}
inline F16 mul(F16 a, F16 b) {
    return a * b;
}
inline F16 divide(F16 a, F16 b) {
    return a / b;
}
inline F16 fma(F16 a, F16 b, F16 c) {
    return a * b + c;
}
inline F16 larger(F16 a, F16 b) {
    return a > b ? a : b;
}
inline F16 smaller(F16 a, F16 b) {
    return a < b ? a : b;
}
inline F16 magnitude(F16 a) {
    return (F16)((I16)a & 0x7fffffff);
}
inline F16 with_sign_of(F16 a, F16 s) {
    return (F16)((I16)a | ((I16)s & int32_t(0x80000000u)));
}
inline F16 where_below(F16 a, F16 b, F16 then, F16 otherwise) {
    return a < b ? then : otherwise;
}
inline I16 to_int(F16 a) {
    // adding 1.5 x 2^23 rounds to a whole number, ties to even, whose bits are then the low ones; |a| < 2^22
    const F16 shifted = a + 12582912.0f;
    return (I16)shifted - 0x4b400000;
}
inline F16 to_float(I16 a) {
    return __builtin_convertvector(a, F16);
}
inline F16 times_power_of_two(F16 a, I16 n) {
    return (F16)((I16)a + (n << 23));
}
inline F16 load_halves(const uint16_t *p) {
    F16 x;
    for (int i = 0; i < kLanes; i++) x[i] = half_to_float(p[i]);
    return x;
}
inline void store_halves(uint16_t *p, F16 x) {
    for (int i = 0; i < kLanes; i++) p[i] = float_to_half(x[i]);
}
inline void to_array(float *p, F16 x) {
    store(p, x);
}
inline I16 splat_int(int32_t x) {
    return I16{} + x;
}
inline void store_bytes(int8_t *p, I16 a) {
    for (int i = 0; i < kLanes; i++) p[i] = int8_t(a[i]);
}

struct Bytes {
    uint8_t b[64];
};
inline Bytes load_codes(const uint8_t *p) {
    Bytes x;
    memcpy(&x, p, sizeof x);
    return x;
}
constexpr int kByteZero = 128;
inline Bytes load_bytes(const uint8_t *p) {
    return load_codes(p);
}
inline Bytes low_nibbles(Bytes x) {
    for (int i = 0; i < 64; i++) x.b[i] &= 15;
    return x;
}
inline Bytes high_nibbles(Bytes x) {
    for (int i = 0; i < 64; i++) x.b[i] >>= 4;
    return x;
}
inline I16 dot4(I16 acc, Bytes codes, const int8_t *x) {
    int32_t sums[kLanes];
    for (int i = 0; i < kLanes; i++) {
        const uint8_t *c = codes.b + 4 * i;
        sums[i] = c[0] * x[0] + c[1] * x[1] + c[2] * x[2] + c[3] * x[3];
    }
    I16 sum;
    memcpy(&sum, sums, sizeof sum);
    return acc + sum;
}

}  // namespace
