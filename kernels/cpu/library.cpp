// The functions that other languages call. None throws; those that can fail return 0.
#include <new>

#include "instructions.hpp"
#include "transformer.hpp"

#define CPU_EXPORT __attribute__((visibility("default")))

extern "C" {

// instructions: as for `choose`. Null where the processor lacks them.
CPU_EXPORT void *cpu_open(const cpu::Sizes *sizes, int threads, const char *instructions) {
    const cpu::Kernels *kernels = cpu::choose(instructions);
    if (!kernels) return nullptr;
    try {
        return new cpu::Transformer(*sizes, threads, *kernels);
    } catch (...) {  // no memory, or no thread to be had
        return nullptr;
    }
}

CPU_EXPORT void cpu_close(void *model) {
    delete (cpu::Transformer *)model;
}

CPU_EXPORT const char *cpu_instructions(void *model) {
    return ((cpu::Transformer *)model)->kernels().name;
}

CPU_EXPORT uint64_t cpu_packed_bytes(int outputs, int inputs, int bits, int block) {
    return cpu::packed_bytes(outputs, inputs, bits, block);
}

CPU_EXPORT int cpu_reserve(void *model, uint64_t bytes) {
    return ((cpu::Transformer *)model)->reserve(bytes);
}

CPU_EXPORT int cpu_pack(void *model, int index, const cpu::StoredMatrix *stored, const float *bias) {
    try {
        return ((cpu::Transformer *)model)->pack(index, *stored, bias);
    } catch (const std::bad_alloc &) {
        return 0;
    }
}

CPU_EXPORT void cpu_set_norm(void *model, int norm, const float *weight, const float *bias) {
    ((cpu::Transformer *)model)->set_norm(norm, weight, bias);
}

CPU_EXPORT void cpu_set_table(void *model, int which, const cpu::Table *table) {
    ((cpu::Transformer *)model)->set_table(which, *table);
}

CPU_EXPORT int cpu_run(void *model, const cpu::Run *run) {
    try {
        ((cpu::Transformer *)model)->run(*run);
        return 1;
    } catch (const std::bad_alloc &) {
        return 0;
    }
}
}
