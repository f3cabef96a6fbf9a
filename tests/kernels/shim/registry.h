// Kernels by name: what the generated glue of shim.py lists, and the two functions that Python calls.
#pragma once
#include "cuda_cpu.h"

namespace cusim {

// One letter a parameter, as shim.py knows them.
template <class T>
constexpr char letter() {
    static_assert(std::is_pointer<T>::value || std::is_arithmetic<T>::value,
                  "a kernel takes pointers and numbers only");
    if (std::is_pointer<T>::value) return 'P';
    if (std::is_same<T, float>::value) return 'f';
    if (std::is_same<T, double>::value) return 'd';
    if (sizeof(T) == 4) return std::is_signed<T>::value ? 'i' : 'I';
    if (sizeof(T) == 8) return std::is_signed<T>::value ? 'q' : 'Q';
    return '?';
}

struct Kernel {
    const char *name;
    std::string signature;
    unsigned max_threads;
    void (*function)();
    void (*call)(void (*function)(), void **arguments);
};

template <class... A, size_t... I>
inline void call_with(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A> *>(arguments[I])...);
}

inline std::vector<Kernel> kernels;

template <class... A>
inline bool add(const char *name, void (*kernel)(A...), unsigned max_threads) {
    Kernel entry{name,
                 {letter<A>()...},
                 max_threads,
                 reinterpret_cast<void (*)()>(kernel),
                 [](void (*function)(), void **arguments) {
                     call_with(reinterpret_cast<void (*)(A...)>(function), arguments, std::index_sequence_for<A...>());
                 }};
    kernels.push_back(entry);
    return true;
}

constexpr unsigned first_bound(unsigned threads, unsigned = 0, unsigned = 0) {
    return threads;
}

inline const Kernel *find(const char *name) {
    for (const Kernel &kernel : kernels)
        if (!strcmp(kernel.name, name)) return &kernel;
    return nullptr;
}

}  // namespace cusim

#ifdef CUSIM_MAIN
#define CUSIM_EXPORT extern "C" __attribute__((visibility("default")))
CUSIM_EXPORT const char *cusim_name(unsigned index) {
    return index < cusim::kernels.size() ? cusim::kernels[index].name : nullptr;
}

CUSIM_EXPORT const char *cusim_signature(unsigned index) {
    return cusim::kernels[index].signature.c_str();
}

// Returns 0, or 1 with the reason in `error`.
CUSIM_EXPORT int cusim_launch(const char *name, const unsigned *grid, const unsigned *threads, size_t shared_bytes,
                              void **arguments, uint64_t seed, long *bank_conflicts, char *error, size_t error_bytes) {
    try {
        const cusim::Kernel &kernel = *cusim::find(name);
        dim3 block(threads[0], threads[1], threads[2]);
        if (kernel.max_threads && block.x * block.y * block.z > kernel.max_threads)
            throw std::runtime_error("a block of " + std::to_string(block.x * block.y * block.z) +
                                     " threads, its launch bounds allow " + std::to_string(kernel.max_threads));
        struct Body {
            const cusim::Kernel *kernel;
            void **arguments;
        } body{&kernel, arguments};
        cusim::run_grid(
            dim3(grid[0], grid[1], grid[2]), block, shared_bytes, seed,
            [](void *data) {
                Body &b = *static_cast<Body *>(data);
                b.kernel->call(b.kernel->function, b.arguments);
            },
            &body, bank_conflicts);
        return 0;
    } catch (const std::exception &failure) {
        snprintf(error, error_bytes, "%s: %s", name, failure.what());
        return 1;
    }
}
#endif
