// Compiled once for each instruction set, with CPU_TABLE as the name of the function; see build.py for the options.
//
// All that a draw depends on is either one float operation after another on a single logit (-ffp-contract=off, so that
// no product and sum become one) or sums and comparisons of integers: hence the same codes with any instructions. The
// loops are plain C++ that compilers turn into vectors.
//
// Logits become integers that rise with them, "keys". Top-k and top-p each keep the keys above a cut, and top-p the
// first few of those equal to it; a cut is found by counting keys by their leading digits, from the largest down.
//
// No templates of the standard library: their code, shared by all of a library's files, would be that of some
// instruction set.
#include "sampler.hpp"

#include <cstddef>
#include <cstring>

namespace {

using cpu::DrawScratch;
using std::size_t;

constexpr int32_t kPlusInf = 0x7f800000;
constexpr int32_t kMinusInf = int32_t(0x807fffff);  // keys of NaN lie beyond the two
constexpr size_t kBlock = cpu::kDrawBlock;
constexpr size_t kFew = 24;             // keys that are sorted rather than counted
constexpr int kShifts[] = {21, 10, 0};  // of the digits of a key, 11 bits each

inline int32_t key_of(float logit) {
    logit += 0.0f;  // makes -0 a +0
    int32_t bits;
    memcpy(&bits, &logit, 4);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

inline float logit_of(int32_t key) {
    key ^= (key >> 31) & 0x7fffffff;
    float logit;
    memcpy(&logit, &key, 4);
    return logit;
}

// floor(2**30 * 2**((logit - maximum) * rate)), as the definition has it: every operation is rounded on its own.
inline int32_t weight_of(float logit, float maximum, float rate) {
    constexpr uint32_t kLowestExponent = 0xc2200000;  // -40, far below the -31 at which a weight becomes 0
    constexpr float kRounding = 12582912.0f;          // added, it leaves a whole number: halves go to the even one
    float exponent = (logit - maximum) * rate;
    uint32_t
        bits;  // of a number that isn't above 0: they rise as it falls, and compilers make vectors of their minimum
    memcpy(&bits, &exponent, 4);
    bits = bits < kLowestExponent ? bits : kLowestExponent;
    memcpy(&exponent, &bits, 4);
    const float shifted = exponent + kRounding;
    const float fraction = exponent - (shifted - kRounding);
    float power = 1.535336188e-4f;
    power = power * fraction + 1.339887440e-3f;
    power = power * fraction + 9.618437357e-3f;
    power = power * fraction + 5.550332548e-2f;
    power = power * fraction + 2.402264791e-1f;
    power = power * fraction + 6.931472028e-1f;
    power = power * fraction + 1.0f;
    // 2**(whole + 30) put together from its bits; the product is exact and the conversion cuts it off, as shifts would
    int32_t whole;
    memcpy(&whole, &shifted, 4);
    const int32_t scale_bits = (whole - 0x4b400000 + 127 + 30) * (1 << 23);
    float scale;
    memcpy(&scale, &scale_bits, 4);
    return int32_t(power * scale);
}

// Fills `keys` and returns the largest, or kPlusInf or kMinusInf where nothing can be drawn.
int32_t make_keys(const float *logits, size_t codes, int32_t *keys) {
    int32_t most = INT32_MIN, least = INT32_MAX;
    for (size_t i = 0; i < codes; i++) {
        const int32_t key = key_of(logits[i]);
        keys[i] = key;
        most = key > most ? key : most;
        least = key < least ? key : least;
    }
    return least < kMinusInf ? kPlusInf : most;
}

size_t first_equal(const int32_t *keys, int32_t key) {
    size_t i = 0;
    while (keys[i] != key) i++;
    return i;
}

inline uint32_t digit_of(int32_t key, int shift) {
    return (uint32_t(key) ^ 0x80000000u) >> shift & (cpu::kDrawDigits - 1);
}

struct Crossing {
    int32_t key;
    uint64_t above;  // the amount of larger keys
};

// Returns the key at which the amounts of all keys, taken from the largest down, first exceed `budget`, which is below
// their sum. The amount of a key is its weight, or 1 where `weights` is null.
Crossing crossing_key(const DrawScratch &scratch, const int32_t *keys, const int32_t *weights, size_t count,
                      uint64_t budget) {
    uint64_t above = 0, *counted = scratch.counted;
    int32_t *near_keys = scratch.near_keys, *near_weights = scratch.near_weights;
    for (int shift : kShifts) {
        if (count <= kFew) break;
        memset(counted, 0, cpu::kDrawDigits * sizeof *counted);
        for (size_t i = 0; i < count; i++) counted[digit_of(keys[i], shift)] += weights ? uint32_t(weights[i]) : 1;
        uint32_t digit = cpu::kDrawDigits - 1;
        for (; above + counted[digit] <= budget; digit--) above += counted[digit];
        size_t near = 0;
        for (size_t i = 0; i < count; i++) {  // what is read may be what is written, but not before it was read
            const int32_t key = keys[i], weight = weights ? weights[i] : 1;
            near_keys[near] = key;
            near_weights[near] = weight;
            near += digit_of(key, shift) == digit;
        }
        keys = near_keys;
        weights = near_weights;
        count = near;
        if (!shift) return {keys[0], above};  // all are equal
    }
    for (size_t i = 0; i < count; i++) {  // sorts, the largest first
        const int32_t key = keys[i], weight = weights ? weights[i] : 1;
        size_t to = i;
        for (; to && near_keys[to - 1] < key; to--) {
            near_keys[to] = near_keys[to - 1];
            near_weights[to] = near_weights[to - 1];
        }
        near_keys[to] = key;
        near_weights[to] = weight;
    }
    for (size_t first = 0;;) {
        uint64_t amount = 0;
        size_t end = first;
        for (; end < count && near_keys[end] == near_keys[first]; end++) amount += uint32_t(near_weights[end]);
        if (above + amount > budget) return {near_keys[first], above};
        above += amount;
        first = end;
    }
}

// Gives keys below `lowest` no weight; returns the sum.
uint64_t make_weights(const float *logits, const int32_t *keys, size_t codes, float maximum, float rate, int32_t lowest,
                      int32_t *weights) {
    uint64_t total = 0;
    for (size_t i = 0; i < codes; i++) weights[i] = weight_of(logits[i], maximum, rate);
    for (size_t i = 0; i < codes; i++) {
        const int32_t weight = keys[i] < lowest ? 0 : weights[i];
        weights[i] = weight;
        total += uint32_t(weight);
    }
    return total;
}

// Keeps the keys above the cut and, in their order, equal ones until the weight before one exceeds the budget.
void cut_weights(const int32_t *keys, size_t codes, Crossing cut, uint64_t budget, int32_t *weights) {
    int32_t equal = 0;
    for (size_t i = 0; i < codes; i++) {
        weights[i] = keys[i] < cut.key ? 0 : weights[i];
        equal += keys[i] == cut.key;
    }
    if (equal == 1) return;
    const uint64_t weight = uint32_t(weights[first_equal(keys, cut.key)]);
    const uint64_t kept = (budget - cut.above) / weight + 1;
    if (kept >= uint64_t(equal)) return;
    uint64_t rank = 0;
    for (size_t i = 0; i < codes; i++)
        if (keys[i] == cut.key && rank++ >= kept) weights[i] = 0;
}

// Returns the first code whose cumulative weight exceeds random * total / 2**64.
size_t draw(const int32_t *weights, size_t codes, uint64_t random, uint64_t *sums) {
    uint64_t total = 0;
    for (size_t start = 0, block = 0; start < codes; start += kBlock, block++) {
        const size_t count = codes - start < kBlock ? codes - start : kBlock;
        uint64_t sum = 0;
        for (size_t i = 0; i < count; i++) sum += uint32_t(weights[start + i]);
        sums[block] = sum;
        total += sum;
    }
    uint64_t target = uint64_t((unsigned __int128)random * total >> 64);
    size_t block = 0;
    while (target >= sums[block]) target -= sums[block++];
    size_t code = block * kBlock;
    while (target >= uint32_t(weights[code])) target -= uint32_t(weights[code++]);
    return code;
}

}  // namespace

namespace cpu {

int64_t draw_tables::CPU_TABLE(const DrawTask &task, const DrawScratch &scratch) {
    const size_t codes = size_t(task.codes);
    int32_t *keys = scratch.keys, *weights = scratch.weights;
    for (int64_t row = 0; row < task.rows; row++) {
        const float *logits = task.logits + row * task.row_stride;
        const int32_t largest = make_keys(logits, codes, keys);
        if (largest >= kPlusInf || largest <= kMinusInf) return row;
        if (task.greedy) {
            task.drawn[row] = int64_t(first_equal(keys, largest));
            continue;
        }
        int32_t lowest = INT32_MIN;
        if (task.top_k < task.codes) lowest = crossing_key(scratch, keys, nullptr, codes, uint64_t(task.top_k) - 1).key;
        const uint64_t total = make_weights(logits, keys, codes, logit_of(largest), task.rate, lowest, weights);
        if (task.top_p < 1.0f) {
            const uint64_t budget = uint64_t(double(task.top_p) * double(total));
            if (budget < total)
                cut_weights(keys, codes, crossing_key(scratch, keys, weights, codes, budget), budget, weights);
        }
        task.drawn[row] = int64_t(draw(weights, codes, task.random[row * task.random_stride], scratch.sums));
    }
    return kAllDrawn;
}

}  // namespace cpu
