// float16 numbers, one at a time, where the processor has no instruction for them.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

inline float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
inline uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

inline float half_to_float(uint16_t h) {  // exact
    const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = uint32_t(h & 0x7fff) << 13;
    if (rest >= 0x0f800000) return float_of(sign | rest | 0x7f800000);       // infinite, or no number
    return float_of(sign | bits_of(float_of(rest) * float_of(0x77800000)));  // times 2^112
}

inline uint16_t float_to_half(float f) {  // to nearest, ties to even
    const uint16_t sign = (bits_of(f) >> 16) & 0x8000;
    const uint32_t bits = bits_of(f) & 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;
    if (bits >= 0x477ff000) return sign | 0x7c00;
    // below the normal numbers, where halves lie 2^-24 apart, as floats from 0.5 on do
    if (bits < 0x38800000) return sign | uint16_t(bits_of(float_of(bits) + 0.5f) - 0x3f000000);
    return sign | uint16_t((bits + 0xfff + (bits >> 13 & 1) - 0x38000000) >> 13);
}

}  // namespace
