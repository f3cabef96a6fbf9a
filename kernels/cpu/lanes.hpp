// Sixteen lanes at once, in the widest registers that the compiler was allowed: AVX-512, AVX2, NEON or whatever plain
// C++ vectors become (SSE2).
//
// Every routine above is written once in these terms. What they compute from finite numbers doesn't depend on the
// width, but for one thing: plain C++ rounds a product before it is added, the others don't (a fused multiply-add).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "half.hpp"

namespace {

constexpr int kLanes = 16;

inline void prefetch_near(const void *p) {
    __builtin_prefetch(p, 0, 3);
}
inline void prefetch_far(const void *p) {
    __builtin_prefetch(p, 0, 2);
}  // into the second level only

}  // namespace

#if defined(CPU_AVX512)
#include "lanes_avx512.hpp"
#elif defined(CPU_AVX2)
#include "lanes_avx2.hpp"
#elif defined(CPU_NEON)
#include "lanes_neon.hpp"
#else
#include "lanes_plain.hpp"
#endif

namespace {

// The sum of all lanes, by halves: lanes 0-7 plus 8-15, and so on.
inline float sum_lanes(F16 x) {
    float v[kLanes];
    to_array(v, x);
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

inline float largest_lane(F16 x) {
    float v[kLanes];
    to_array(v, x);
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
    return v[0];
}

}  // namespace
