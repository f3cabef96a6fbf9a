// CUDA's half and half2, and the intrinsics our kernels use. Conversions are explicit, so what compiles here does so
// there.
#pragma once
#include <cstdint>
#include <cstring>

struct alignas(2) __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};
typedef __half half;
typedef __half2 half2;

namespace cusim {
inline float from_half_bits(uint16_t bits) {
    uint32_t word = uint32_t(bits & 0x7fff) << 13;
    float value;
    memcpy(&value, &word, 4);
    value *= 0x1p112f;  // exact, subnormals too
    memcpy(&word, &value, 4);
    if ((bits & 0x7c00) == 0x7c00) word |= 0x7f800000;
    word |= uint32_t(bits & 0x8000) << 16;
    memcpy(&value, &word, 4);
    return value;
}
inline __half to_half(float value) {
    _Float16 h = static_cast<_Float16>(value);  // to nearest, ties to even
    __half result;
    memcpy(&result.bits, &h, 2);
    return result;
}
inline __half to_half(double value) {
    _Float16 h = static_cast<_Float16>(value);
    __half result;
    memcpy(&result.bits, &h, 2);
    return result;
}
}  // namespace cusim

inline float __half2float(__half h) {
    return cusim::from_half_bits(h.bits);
}
inline __half __float2half(float f) {
    return cusim::to_half(f);
}
inline __half __float2half_rn(float f) {
    return cusim::to_half(f);
}
inline __half __ushort_as_half(unsigned short bits) {
    return {bits};
}
inline unsigned short __half_as_ushort(__half h) {
    return h.bits;
}
inline float __low2float(__half2 h) {
    return __half2float(h.x);
}
inline float __high2float(__half2 h) {
    return __half2float(h.y);
}
inline __half __low2half(__half2 h) {
    return h.x;
}
inline __half __high2half(__half2 h) {
    return h.y;
}
inline __half2 __halves2half2(__half a, __half b) {
    return {a, b};
}
inline __half2 __half2half2(__half a) {
    return {a, a};
}
inline __half2 __float2half2_rn(float f) {
    return {cusim::to_half(f), cusim::to_half(f)};
}
inline __half2 __floats2half2_rn(float a, float b) {
    return {cusim::to_half(a), cusim::to_half(b)};
}
// Sums and products of halves are exact in float or double, so one rounding follows.
inline __half __hadd(__half a, __half b) {
    return cusim::to_half(__half2float(a) + __half2float(b));
}
inline __half __hsub(__half a, __half b) {
    return cusim::to_half(__half2float(a) - __half2float(b));
}
inline __half __hmul(__half a, __half b) {
    return cusim::to_half(__half2float(a) * __half2float(b));
}
inline __half __hfma(__half a, __half b, __half c) {
    return cusim::to_half(double(__half2float(a)) * __half2float(b) + __half2float(c));
}
inline __half2 __hadd2(__half2 a, __half2 b) {
    return {__hadd(a.x, b.x), __hadd(a.y, b.y)};
}
inline __half2 __hsub2(__half2 a, __half2 b) {
    return {__hsub(a.x, b.x), __hsub(a.y, b.y)};
}
inline __half2 __hmul2(__half2 a, __half2 b) {
    return {__hmul(a.x, b.x), __hmul(a.y, b.y)};
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
    return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
inline bool __hisnan(__half h) {
    return (h.bits & 0x7fff) > 0x7c00;
}
