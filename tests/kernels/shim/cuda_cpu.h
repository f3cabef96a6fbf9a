// Test-only: the part of CUDA C++ that our kernels use, as C++17 for a processor. See README.md beside this file.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "half_cpu.h"
#include "scheduler.h"

#ifdef CUSIM_SCAN  // the preprocessor's output is searched for kernels
#define __global__ cusim_kernel_marker
#define __launch_bounds__(...) cusim_bounds_marker(__VA_ARGS__)
#else
#define __global__
#define __launch_bounds__(...)
#endif
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __constant__ static const
#define __align__(n) alignas(n)
#define __restrict__ __restrict
#define DYNAMIC_SHARED(T, name) T *name = reinterpret_cast<T *>(cusim::block->shared)

#define threadIdx (cusim::self().index)
#define blockIdx (cusim::block->index)
#define blockDim (cusim::block->block)
#define gridDim (cusim::block->grid)
constexpr int warpSize = 32;

#define CUSIM_VECTOR2(T, name, bytes)   \
    struct alignas(bytes) name {        \
        T x, y;                         \
    };                                  \
    inline name make_##name(T x, T y) { \
        return {x, y};                  \
    }
#define CUSIM_VECTOR4(T, name, bytes)             \
    struct alignas(bytes) name {                  \
        T x, y, z, w;                             \
    };                                            \
    inline name make_##name(T x, T y, T z, T w) { \
        return {x, y, z, w};                      \
    }
CUSIM_VECTOR2(float, float2, 8)
CUSIM_VECTOR4(float, float4, 16)
CUSIM_VECTOR2(int, int2, 8)
CUSIM_VECTOR4(int, int4, 16)
CUSIM_VECTOR2(unsigned, uint2, 8)
CUSIM_VECTOR4(unsigned, uint4, 16)
CUSIM_VECTOR2(unsigned char, uchar2, 2)
CUSIM_VECTOR4(unsigned char, uchar4, 4)
CUSIM_VECTOR2(unsigned short, ushort2, 4)
CUSIM_VECTOR4(unsigned short, ushort4, 8)
CUSIM_VECTOR2(unsigned long long, ulonglong2, 16)

inline float2 __half22float2(__half2 h) {
    return {__half2float(h.x), __half2float(h.y)};
}
inline __half2 __float22half2_rn(float2 f) {
    return __floats2half2_rn(f.x, f.y);
}

// ---- rendezvous: the default arguments name the caller's line
#define CUSIM_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace cusim {
template <class T>
inline void put(uint64_t &slot, T value) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "at most 8 bytes travel between lanes");
    slot = 0;
    memcpy(&slot, &value, sizeof(T));
}
template <class T>
inline T get(uint64_t slot) {
    T value;
    memcpy(&value, &slot, sizeof(T));
    return value;
}

inline void shuffle_lanes(Thread *lanes, unsigned mask) {  // in: value, source lane
    for (unsigned i = 0; i < kWarp; i++) {
        if (!(mask >> i & 1)) continue;
        unsigned source = unsigned(lanes[i].in[1]);
        if (!(mask >> source & 1))
            fail(lanes[i], lanes[i].site,
                 "shuffle: reads lane " + std::to_string(source) + ", which is not in the mask");
        lanes[i].out[0] = lanes[source].in[0];
    }
}
inline void ballot_lanes(Thread *lanes, unsigned mask) {
    uint64_t bits = 0;
    for (unsigned i = 0; i < kWarp; i++)
        if (mask >> i & 1) bits |= (lanes[i].in[0] & 1) << i;
    for (unsigned i = 0; i < kWarp; i++)
        if (mask >> i & 1) lanes[i].out[0] = bits;
}
inline void match_lanes(Thread *lanes, unsigned mask) {
    for (unsigned i = 0; i < kWarp; i++) {
        lanes[i].out[0] = 0;
        for (unsigned j = 0; j < kWarp; j++)
            if ((mask >> j & 1) && lanes[j].in[0] == lanes[i].in[0]) lanes[i].out[0] |= 1u << j;
    }
}
inline void sync_lanes(Thread *, unsigned) {}
template <class T>
inline T shuffle(unsigned mask, T value, unsigned source, Site site) {
    Thread &t = self();
    put(t.in[0], value);
    t.in[1] = source & 31;
    wait_for_warp(mask, shuffle_lanes, "shuffle", site);
    return get<T>(t.out[0]);
}
}  // namespace cusim

inline void __syncthreads(CUSIM_SITE) {
    cusim::wait_for_block({file, line}, 0);
}
inline int __syncthreads_and(int p, CUSIM_SITE) {
    cusim::wait_for_block({file, line}, p);
    return cusim::block->barrier_all;
}
inline int __syncthreads_or(int p, CUSIM_SITE) {
    cusim::wait_for_block({file, line}, p);
    return cusim::block->barrier_any;
}
inline int __syncthreads_count(int p, CUSIM_SITE) {
    cusim::wait_for_block({file, line}, p);
    return cusim::block->barrier_count;
}
inline void __syncwarp(unsigned mask = ~0u, CUSIM_SITE) {
    cusim::wait_for_warp(mask, cusim::sync_lanes, "__syncwarp", {file, line});
}
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUSIM_SITE) {
    int lane = cusim::self().lane;
    return cusim::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), {file, line});
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUSIM_SITE) {
    int lane = cusim::self().lane, source = lane ^ bits;
    bool inside = (source & ~(width - 1)) <= (lane & ~(width - 1));
    return cusim::shuffle(mask, value, inside ? source : lane, {file, line});
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUSIM_SITE) {
    int lane = cusim::self().lane;
    bool inside = (lane & (width - 1)) + int(delta) < width;
    return cusim::shuffle(mask, value, inside ? lane + delta : lane, {file, line});
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUSIM_SITE) {
    int lane = cusim::self().lane;
    bool inside = (lane & (width - 1)) >= int(delta);
    return cusim::shuffle(mask, value, inside ? lane - delta : lane, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int p, CUSIM_SITE) {
    cusim::self().in[0] = p != 0;
    cusim::wait_for_warp(mask, cusim::ballot_lanes, "ballot", {file, line});
    return unsigned(cusim::self().out[0]);
}
inline int __any_sync(unsigned mask, int p, CUSIM_SITE) {
    return __ballot_sync(mask, p, file, line) != 0;
}
inline int __all_sync(unsigned mask, int p, CUSIM_SITE) {
    return __ballot_sync(mask, p, file, line) == mask;
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, CUSIM_SITE) {
    cusim::put(cusim::self().in[0], value);
    cusim::wait_for_warp(mask, cusim::match_lanes, "match", {file, line});
    return unsigned(cusim::self().out[0]);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- memory
template <class T>
inline T __ldg(const T *p) {
    return *p;
}
template <class T>
inline T __ldcs(const T *p) {
    return *p;
}
template <class T>
inline T __ldcg(const T *p) {
    return *p;
}
template <class T>
inline void __stcs(T *p, T value) {
    *p = value;
}
template <class T>
inline void __stcg(T *p, T value) {
    *p = value;
}

// ---- atomics: one thread runs at a time
#define CUSIM_ATOMIC(name, expression) \
    template <class T>                 \
    inline T name(T *p, T value) {     \
        T old = *p;                    \
        *p = expression;               \
        return old;                    \
    }
CUSIM_ATOMIC(atomicAdd, old + value)
CUSIM_ATOMIC(atomicSub, old - value)
CUSIM_ATOMIC(atomicMax, std::max(old, value))
CUSIM_ATOMIC(atomicMin, std::min(old, value))
CUSIM_ATOMIC(atomicOr, old | value)
CUSIM_ATOMIC(atomicAnd, old &value)
CUSIM_ATOMIC(atomicXor, old ^ value)
CUSIM_ATOMIC(atomicExch, value)
template <class T>
inline T atomicCAS(T *p, T expected, T value) {
    T old = *p;
    if (old == expected) *p = value;
    return old;
}

// ---- arithmetic; compiled with -ffp-contract=off, so that no product and sum are fused
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fsub_rn(float a, float b) {
    return a - b;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __fmaf_rn(float a, float b, float c) {
    return std::fma(a, b, c);
}
inline float __fsqrt_rn(float a) {
    return std::sqrt(a);
}
inline double __dadd_rn(double a, double b) {
    return a + b;
}
inline double __dmul_rn(double a, double b) {
    return a * b;
}
inline float rsqrtf(float x) {
    return 1.f / std::sqrt(x);
}
inline float __fdividef(float a, float b) {
    return a / b;
}
inline float __frcp_rn(float a) {
    return 1.f / a;
}
inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline int __clz(int x) {
    return x ? __builtin_clz(unsigned(x)) : 32;
}
inline unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
    return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned(uint64_t(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned choice = selector >> (4 * i) & 15, byte = unsigned(bytes >> (8 * (choice & 7))) & 255;
        r |= (choice & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
    }
    return r;
}
namespace cusim {
template <class To, class From>
inline To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}
}  // namespace cusim
inline unsigned __float_as_uint(float f) {
    return cusim::bits_as<unsigned>(f);
}
inline float __uint_as_float(unsigned u) {
    return cusim::bits_as<float>(u);
}
inline int __float_as_int(float f) {
    return cusim::bits_as<int>(f);
}
inline float __int_as_float(int i) {
    return cusim::bits_as<float>(i);
}
inline long long __double_as_longlong(double d) {
    return cusim::bits_as<long long>(d);
}
inline double __longlong_as_double(long long i) {
    return cusim::bits_as<double>(i);
}
inline int __float2int_rn(float f) {
    return int(std::nearbyint(f));
}
inline int __float2int_rz(float f) {
    return int(f);
}
template <class A, class B>
inline std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
inline std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return T(a) < T(b) ? T(b) : T(a);
}
