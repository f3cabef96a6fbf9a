// Puts numbers into a cache of float16 and takes them out again: half_check INSTRUCTIONS, floats on standard input, 16
// at a time; of each 16 the halves of values and of keys, then the floats that attention to them alone gives, on
// standard output. Status 3 where the processor lacks the instructions.
#include <cstdio>

#include "instructions.hpp"

int main(int argc, char **argv) {
    const cpu::Kernels *kernels = argc == 2 ? cpu::choose(argv[1]) : nullptr;
    if (!kernels) return 3;
    constexpr int kSize = 16;
    float row[kSize];
    while (fread(row, sizeof row, 1, stdin) == 1) {
        uint16_t keys[kSize * 16] = {}, values[16 * kSize] = {}, first_keys[kSize];
        const float query[kSize] = {};
        float out[kSize], scores[16];
        cpu::AttentionTask task{};
        task.count = 1;
        task.query[0] = query;
        task.out[0] = out;
        task.visible[0] = 1;
        task.cache = {keys, values, kSize, kSize, true};
        task.scores = scores;
        kernels->append(task.cache, 0, row, row);
        for (int d = 0; d < kSize; d++) first_keys[d] = keys[d * 16];
        for (uint16_t &key : keys) key = 0;  // whose products with 0 might be none
        kernels->attend(task);
        if (fwrite(values, 2, kSize, stdout) + fwrite(first_keys, 2, kSize, stdout) + fwrite(out, 4, kSize, stdout) !=
            3 * kSize)
            return 1;
    }
    return 0;
}
