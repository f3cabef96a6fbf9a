#include "instructions.hpp"

#include <cstring>

#if defined(CPU_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "amx.hpp"
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace cpu {

namespace {

#if defined(CPU_AMX)
// Whether the processor has tiles of 8-bit integers and the system lets this process use them: Linux asks to be asked,
// since a thread that does needs 8 KiB more for its registers. Source: Documentation/arch/x86/xstate.rst of Linux.
bool tiles_allowed() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    constexpr unsigned kTiles = 1u << 24, kTilesOfBytes = 1u << 25;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kTiles) || !(d & kTilesOfBytes)) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

const Kernels *with_tiles() {
    static const Kernels kernels = [] {
        Kernels k = kAvx512;
        k.name = "AVX-512 VNNI, AMX";
        k.panel = amx_panel;
        return k;
    }();
    static const bool allowed = tiles_allowed();
    return allowed ? &kernels : nullptr;
}
#elif defined(__x86_64__)
const Kernels *with_tiles() {
    return nullptr;
}
#elif defined(__aarch64__)
bool has_dot_products() {
#if defined(__linux__)
    constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP
    return getauxval(AT_HWCAP) & kDotProducts;
#elif defined(__APPLE__)
    return true;
#else
    return false;
#endif
}
#endif

}  // namespace

const Kernels *choose(const char *name) {
    const auto wanted = [&](const char *set) { return !*name || !strcmp(name, set); };
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx512 && wanted("amx"))
        if (const Kernels *tiles = with_tiles()) return tiles;
    if (avx512 && wanted("avx512")) return &kAvx512;
    if (avx2 && wanted("avx2")) return &kAvx2;
#elif defined(__aarch64__)
    if (wanted("neondot") && has_dot_products()) return &kNeonDot;
    if (wanted("neon")) return &kNeon;
#endif
    return wanted("plain") ? &kPlain : nullptr;
}

bool fetches_near() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
#else
    return false;
#endif
}

}  // namespace cpu
