// The functions of convolutional networks that other languages call. None throws; those that can fail return 0.
#include <new>

#include "network.hpp"

#define CPU_EXPORT __attribute__((visibility("default")))

extern "C" {

// instructions: as for `choose_conv`. Null where the processor lacks them.
CPU_EXPORT void *network_open(int threads, int bf16, const char *instructions) {
    const cpu::ConvChoice choice = cpu::choose_conv(instructions, bf16);
    if (!choice.convs) return nullptr;
    try {
        return new cpu::Network(threads, *choice.convs, *choice.floats, *choice.rows);
    } catch (...) {  // no memory, or no thread to be had
        return nullptr;
    }
}

CPU_EXPORT void network_close(void *network) {
    delete (cpu::Network *)network;
}

CPU_EXPORT const char *network_instructions(void *network) {
    return ((cpu::Network *)network)->instructions();
}

// The best instruction set that this processor has; null for none.
CPU_EXPORT const char *network_best(int bf16) {
    const cpu::ConvKernels *kernels = cpu::choose_conv("", bf16).convs;
    return kernels ? kernels->name : nullptr;
}

// weights: floats (outputs, inputs, side, side).
CPU_EXPORT int network_add_conv(void *network, const cpu::ConvSizes *sizes, const float *weights, const float *bias) {
    try {
        return ((cpu::Network *)network)->add_conv(*sizes, weights, bias);
    } catch (const std::bad_alloc &) {
        return 0;
    }
}

CPU_EXPORT int network_add_norm(void *network, int channels, const float *weight, const float *bias) {
    try {
        ((cpu::Network *)network)->add_norm(channels, weight, bias);
        return 1;
    } catch (const std::bad_alloc &) {
        return 0;
    }
}

CPU_EXPORT int network_add_step(void *network, const cpu::Step *step) {
    try {
        ((cpu::Network *)network)->add_step(*step);
        return 1;
    } catch (const std::bad_alloc &) {
        return 0;
    }
}

CPU_EXPORT uint64_t network_run_bytes(void *network, int channels, int height, int width) {
    try {
        return ((cpu::Network *)network)->run_bytes(channels, height, width);
    } catch (const std::bad_alloc &) {
        return 0;
    }
}

CPU_EXPORT int network_run(void *network, const float *in, int channels, int height, int width, float *out) {
    try {
        return ((cpu::Network *)network)->run(in, channels, height, width, out);
    } catch (const std::bad_alloc &) {
        return 0;
    }
}
}
