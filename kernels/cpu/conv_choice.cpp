#include "conv.hpp"

#include "instructions.hpp"

#if defined(CPU_AMX)
#include <cpuid.h>
#include <cstring>
#endif

namespace cpu {

namespace {

ConvChoice choose_fp32(const char *name) {
    const Kernels *same = choose(name);
    if (!same) return {};
    if (same == &kPlain) return {&conv_tables::kPlain, &conv_tables::kPlain, &row_tables::kPlain};
#if defined(__x86_64__)
    if (same == &kAvx2) return {&conv_tables::kAvx2, &conv_tables::kAvx2, &row_tables::kAvx2};
    return {&conv_tables::kAvx512, &conv_tables::kAvx512, &row_tables::kAvx512};
#elif defined(__aarch64__)
    return {&conv_tables::kNeon, &conv_tables::kNeon, &row_tables::kNeon};  // there are no bytes to multiply
#else
    return {};
#endif
}

}  // namespace

ConvChoice choose_conv(const char *name, bool bf16) {
    if (!bf16) return choose_fp32(name);
#if defined(CPU_AMX)
    constexpr unsigned kTilesOfBf16 = 1u << 22, kConversions = 1u << 5;
    unsigned a, b, c, d;
    const bool tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTilesOfBf16);
    const bool conversions = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kConversions);
    if (tiles && conversions && choose("amx") && (!*name || !strcmp(name, "amx")))
        return {&conv_tables::kAmx, &conv_tables::kAvx512, &row_tables::kAvx512};
#else
    (void)name;
#endif
    return {};
}

}  // namespace cpu
