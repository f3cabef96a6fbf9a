// sample_codes: draws each picture's next code from its logits and advances the picture's decode state.
//
// Grid   one block a picture, (B).
// Block  256 threads (up to 1024 codes), 1024 threads (up to 16384, or any number with `streamed`); thread t holds the
//        keys of consecutive codes, so that ranks and cumulative weights of threads are in index order.
// Bytes  4 V a picture (8 V with guidance) read once, and one embedding row; `streamed` reads the logits again in each
//        of about a dozen passes, from L2.
// Limit  latency: about 25 block-wide barriers.
// Reference  kernels/reference/decode_state.py, `sample_step`: equal in every bit. All that decides is integer; the
//        floating-point operations are single roundings (__fadd_rn, __fmul_rn: never fused).
//
// How: codes are compared by keys, unsigned numbers in the order of the logits (-0 as +0). The k-th largest key, and
// the key at which the mass first exceeds top_p, are found alike: a histogram over 256 bins of 1/8 halving of
// likelihood, then four of 256 bins for the bytes of the keys inside the bin that was hit. The first spreads the
// atomics, which a byte of the exponent would not. Then a scan in index order draws.
#include "portable.cuh"
#include "programmatic_launch.cuh"

namespace {

// One row of kernels/reference/decode_state.py, SAMPLING_ROW.
struct SamplingRow {
    uint64_t seed;
    float rate;  // log2(e) / temperature
    int32_t top_k;
    float top_p;
    int32_t greedy;
    float guidance_scale;
    int32_t codebook_size;  // only so many logits are drawn from, at most V
};

constexpr int kBins = 256;
constexpr int kUnusable = -2;                // written as the code where the logits hold NaN, +inf or only -inf
constexpr uint32_t kMinusInf = 0x007fffffu;  // the keys of -inf and +inf; that of NaN is above, 0 stands for no code
constexpr uint32_t kPlusInf = 0xff800000u;

struct Shared {
    uint64_t per_warp[32];
    uint64_t above;       // amount above the digit's bin
    uint32_t low[kBins];  // amounts, the lowest 15 bits and the rest apart: 65536 amounts of 2^30 fit
    uint32_t high[kBins];
    uint32_t digit;
    int32_t code;
};

__device__ __forceinline__ uint32_t key_of(float logit) {
    if (logit != logit) return 0xffffffffu;
    uint32_t bits = __float_as_uint(logit);
    if (bits == 0x80000000u) bits = 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float logit_of(uint32_t key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// floor(2^30 2^exponent), bit by bit as the reference's `integer_weight`.
__device__ __forceinline__ uint32_t integer_weight(float exponent) {
    exponent = fmaxf(exponent, -40.0f);
    float whole = rintf(exponent);
    float fraction = __fadd_rn(exponent, -whole);
    float power = 1.535336188e-4f;
    power = __fadd_rn(__fmul_rn(power, fraction), 1.339887440e-3f);
    power = __fadd_rn(__fmul_rn(power, fraction), 9.618437357e-3f);
    power = __fadd_rn(__fmul_rn(power, fraction), 5.550332548e-2f);
    power = __fadd_rn(__fmul_rn(power, fraction), 2.402264791e-1f);
    power = __fadd_rn(__fmul_rn(power, fraction), 6.931472028e-1f);
    power = __fadd_rn(__fmul_rn(power, fraction), 1.0f);
    uint32_t mantissa = static_cast<uint32_t>(__fmul_rn(power, 16777216.0f));
    int shift = static_cast<int>(whole) + 6;
    return shift >= 0 ? mantissa << shift : -shift > 31 ? 0u : mantissa >> -shift;
}

// How likely a key is, relative to the row's maximum.
struct Likelihood {
    float maximum;
    float rate;

    // Makes the compiler compute weights again from here on, rather than keep those of all keys in registers.
    __device__ __forceinline__ void forget() {
#ifdef __CUDACC__
        asm volatile("" : "+f"(rate));
#endif
    }
    __device__ __forceinline__ float exponent(uint32_t key) const {
        return __fmul_rn(__fadd_rn(logit_of(key), -maximum), rate);
    }
    __device__ __forceinline__ uint32_t weight(uint32_t key) const { return integer_weight(exponent(key)); }
    // 255 for the maximum, falling with the key; every operation is monotonic after rounding too.
    __device__ __forceinline__ uint32_t bin(uint32_t key) const {
        return kBins - 1 - static_cast<uint32_t>(fminf(__fmul_rn(exponent(key), -8.0f), kBins - 1.0f));
    }
};

// The logits of one picture, combined with those without its condition where there is guidance.
struct Logits {
    const float *given;
    const float *without;  // null without guidance
    float scale;
    int count;

    __device__ __forceinline__ uint32_t key(int code) const {
        if (code >= count) return 0;
        float logit = given[code];
        if (without != nullptr) {
            float base = without[code];
            logit = __fadd_rn(base, __fmul_rn(scale, __fadd_rn(logit, -base)));
        }
        return key_of(logit);
    }
};

// The keys of this thread's codes, `first` and on, held in registers.
template <int kItems>
struct Keys {
    uint32_t key[kItems];
    int first;

    __device__ __forceinline__ void load(const Logits &logits) {
        first = static_cast<int>(threadIdx.x) * kItems;
#pragma unroll
        for (int i = 0; i < kItems; i++) key[i] = logits.key(first + i);
    }
    __device__ __forceinline__ static constexpr int count() { return kItems; }
    __device__ __forceinline__ uint32_t at(int i) const { return key[i]; }
};

// The same, read again at each use: for more codes than registers hold.
template <>
struct Keys<0> {
    Logits logits;
    int first;
    int items;

    __device__ __forceinline__ void load(const Logits &source) {
        logits = source;
        items = (source.count + static_cast<int>(blockDim.x) - 1) / static_cast<int>(blockDim.x);
        first = static_cast<int>(threadIdx.x) * items;
    }
    __device__ __forceinline__ int count() const { return items; }
    __device__ __forceinline__ uint32_t at(int i) const { return logits.key(first + i); }
};

__device__ __forceinline__ uint64_t block_maximum(Shared *shared, uint64_t value) {
    for (int offset = 16; offset; offset >>= 1) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, value, offset);
        value = other > value ? other : value;
    }
    if (threadIdx.x % 32 == 0) shared->per_warp[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) {
        value = shared->per_warp[warp] > value ? shared->per_warp[warp] : value;
    }
    __syncthreads();
    return value;
}

// Returns the sum over all threads before this one; `total` gets that over all.
__device__ __forceinline__ uint64_t block_exclusive_sum(Shared *shared, uint64_t value, uint64_t &total) {
    unsigned lane = threadIdx.x % 32;
    uint64_t inclusive = value;
    for (unsigned offset = 1; offset < 32; offset <<= 1) {
        uint64_t below = __shfl_up_sync(0xffffffffu, inclusive, offset);
        if (lane >= offset) inclusive += below;
    }
    if (lane == 31) shared->per_warp[threadIdx.x / 32] = inclusive;
    __syncthreads();
    uint64_t before = inclusive - value;
    total = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) {
        if (warp < threadIdx.x / 32) before += shared->per_warp[warp];
        total += shared->per_warp[warp];
    }
    __syncthreads();
    return before;
}

// Goes down the bins of the histogram: finds the one in which the amount first exceeds `budget`, into shared->digit,
// and the amount above it, into shared->above. One warp; lane 0 takes the eight highest bins.
__device__ __forceinline__ void find_digit(Shared *shared, uint64_t above, uint64_t budget) {
    unsigned lane = threadIdx.x % 32;
    int highest = kBins - 1 - static_cast<int>(lane) * 8;
    uint64_t mine = 0;
    for (int i = 0; i < 8; i++)
        mine += shared->low[highest - i] + (static_cast<uint64_t>(shared->high[highest - i]) << 15);
    uint64_t inclusive = mine;
    for (unsigned offset = 1; offset < 32; offset <<= 1) {
        uint64_t below = __shfl_up_sync(0xffffffffu, inclusive, offset);
        if (lane >= offset) inclusive += below;
    }
    uint64_t before = above + inclusive - mine;
    for (int i = 0; i < 8; i++) {
        uint64_t amount = shared->low[highest - i] + (static_cast<uint64_t>(shared->high[highest - i]) << 15);
        if (before <= budget && before + amount > budget) {
            shared->digit = static_cast<uint32_t>(highest - i);
            shared->above = before;
        }
        before += amount;
    }
}

// Returns the key at which the amounts of all keys from `lowest` up, taken from the largest down, first exceed
// `budget`, which is below their total; `above` gets the amount of larger keys. The amount of a key is its weight,
// or 1.
template <bool kByWeight, int kItems>
__device__ __forceinline__ uint32_t crossing_key(Shared *shared, const Keys<kItems> &keys, Likelihood likelihood,
                                                 uint32_t lowest, uint64_t budget, uint64_t &above) {
    uint32_t bin = 0, prefix = 0, mask = 0;
    above = 0;
#pragma unroll 1
    for (int shift = 32; shift >= 0; shift -= 8) {
        likelihood.forget();
        if (threadIdx.x < kBins) {
            shared->low[threadIdx.x] = 0;
            shared->high[threadIdx.x] = 0;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < keys.count(); i++) {
            uint32_t key = keys.at(i);
            if (key < lowest || (key & mask) != prefix) continue;
            uint32_t digit = likelihood.bin(key);
            if (shift < 32) {
                if (digit != bin) continue;
                digit = key >> shift & 255u;
            }
            uint32_t amount = kByWeight ? likelihood.weight(key) : 1u;
            if (amount & 0x7fffu) atomicAdd(&shared->low[digit], amount & 0x7fffu);
            if (kByWeight && amount >> 15) atomicAdd(&shared->high[digit], amount >> 15);
        }
        __syncthreads();
        if (threadIdx.x < 32) find_digit(shared, above, budget);
        __syncthreads();
        above = shared->above;
        if (shift == 32) {
            bin = shared->digit;
        } else {
            prefix |= shared->digit << shift;
            mask |= 255u << shift;
        }
    }
    return prefix;
}

// 64 random bits of Philox4x32-10 for the counter (position, picture, 0, 0).
__device__ __forceinline__ uint64_t philox_random(uint64_t seed, uint32_t picture, uint32_t position) {
    uint32_t c0 = position, c1 = picture, c2 = 0, c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        uint32_t high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return static_cast<uint64_t>(c0) << 32 | c1;
}

// Returns the code drawn, the same in all threads.
template <int kItems>
__device__ __forceinline__ int draw(Shared *shared, const Logits &logits, const SamplingRow &sampling, uint32_t picture,
                                    uint32_t position) {
    Keys<kItems> keys;
    keys.load(logits);
    uint64_t best = 0;
#pragma unroll
    for (int i = 0; i < keys.count(); i++) {
        // the lowest index among equal keys
        uint64_t candidate = static_cast<uint64_t>(keys.at(i)) << 32 | ~static_cast<uint32_t>(keys.first + i);
        best = candidate > best ? candidate : best;
    }
    best = block_maximum(shared, best);
    uint32_t largest = static_cast<uint32_t>(best >> 32);
    if (largest >= kPlusInf || largest <= kMinusInf) return kUnusable;
    if (sampling.greedy) return static_cast<int>(~static_cast<uint32_t>(best));

    Likelihood likelihood = {logit_of(largest), sampling.rate};
    uint64_t above = 0;
    uint32_t lowest = 1;
    if (sampling.top_k < logits.count) {
        uint64_t others = static_cast<uint64_t>(sampling.top_k) - 1;
        lowest = crossing_key<false>(shared, keys, likelihood, lowest, others, above);
    }
    uint32_t cut = lowest, ties = 0xffffffffu;  // kept: keys above the cut and the first `ties` equal to it
    if (sampling.top_p < 1.0f) {
        uint64_t mine = 0, total;
#pragma unroll
        for (int i = 0; i < keys.count(); i++) {
            if (keys.at(i) >= lowest) mine += likelihood.weight(keys.at(i));
        }
        block_exclusive_sum(shared, mine, total);
        uint64_t budget = static_cast<uint64_t>(static_cast<double>(sampling.top_p) * static_cast<double>(total));
        if (budget < total) {
            cut = crossing_key<true>(shared, keys, likelihood, lowest, budget, above);
            ties = static_cast<uint32_t>((budget - above) / likelihood.weight(cut)) + 1;
        }
    }

    uint64_t equal = 0, unused;
#pragma unroll
    for (int i = 0; i < keys.count(); i++) equal += keys.at(i) == cut;
    const uint32_t first_rank = static_cast<uint32_t>(block_exclusive_sum(shared, equal, unused));
    uint64_t mine = 0, total;
    uint32_t rank = first_rank;
    likelihood.forget();
#pragma unroll
    for (int i = 0; i < keys.count(); i++) {
        uint32_t key = keys.at(i);
        if (key > cut || (key == cut && rank++ < ties)) mine += likelihood.weight(key);
    }
    uint64_t cumulative = block_exclusive_sum(shared, mine, total);
    uint64_t target = __umul64hi(philox_random(sampling.seed, picture, position), total);
    if (cumulative <= target && target < cumulative + mine) {  // one thread
        rank = first_rank;
        bool found = false;
        likelihood.forget();
#pragma unroll
        for (int i = 0; i < keys.count(); i++) {
            uint32_t key = keys.at(i);
            if (key > cut || (key == cut && rank++ < ties)) cumulative += likelihood.weight(key);
            if (!found && cumulative > target) {
                found = true;
                shared->code = keys.first + i;
            }
        }
    }
    __syncthreads();
    return shared->code;
}

__device__ __forceinline__ float table_entry(const void *table, int is_float, size_t index) {
    if (is_float) return static_cast<const float *>(table)[index];
    return __half2float(static_cast<const half *>(table)[index]);
}

template <int kItems>
__device__ __forceinline__ void sample_codes(const float *logits, int vocabulary, const SamplingRow *sampling_rows,
                                             const uint32_t *pictures, const uint32_t *code_positions,
                                             const int32_t *forced, int32_t *codes, int num_codes, int32_t *columns,
                                             const int32_t *ends, int32_t *lengths, int guided,
                                             const void *token_embedding, const void *position_embedding,
                                             int tables_are_float, float *x, int hidden, int num_positions) {
    DYNAMIC_SHARED(Shared, shared);
    const int picture = static_cast<int>(blockIdx.x), batch = static_cast<int>(gridDim.x);
    launch_dependents();
    wait_for_prerequisites();
    const int column = columns[picture];
    if (column >= ends[picture]) return;
    const size_t place = static_cast<size_t>(picture) * num_codes + column;
    int code = forced[place];
    if (code < 0) {
        const SamplingRow sampling = sampling_rows[picture];
        const float *given = logits + static_cast<size_t>(picture) * vocabulary;
        const float *without = guided ? given + static_cast<size_t>(batch) * vocabulary : nullptr;
        code = draw<kItems>(shared, {given, without, sampling.guidance_scale, min(sampling.codebook_size, vocabulary)},
                            sampling, pictures[picture], code_positions[column]);
    }
    const int length = lengths[picture] + 1;
    __syncthreads();  // all have read the state
    if (threadIdx.x == 0) {
        codes[place] = code;
        columns[picture] = column + 1;
        lengths[picture] = length;
        if (guided) lengths[picture + batch] = length;
    }
    if (length >= num_positions) return;  // the model's last position: there is no next input
    const size_t token = code < 0 ? 0 : static_cast<size_t>(code);
    float *next = x + static_cast<size_t>(picture) * hidden;
    for (int i = static_cast<int>(threadIdx.x); i < hidden; i += static_cast<int>(blockDim.x)) {
        float value =
            __fadd_rn(table_entry(token_embedding, tables_are_float, token * hidden + i),
                      table_entry(position_embedding, tables_are_float, static_cast<size_t>(length) * hidden + i));
        next[i] = value;
        if (guided) next[static_cast<size_t>(batch) * hidden + i] = value;
    }
}

}  // namespace

#define SAMPLE_CODES_KERNEL(name, threads, items)                                                                      \
    extern "C" __global__ void __launch_bounds__(threads, 1024 / threads)                                              \
        name(const float *logits, int vocabulary, const SamplingRow *sampling, const uint32_t *pictures,               \
             const uint32_t *code_positions, const int32_t *forced, int32_t *codes, int num_codes, int32_t *columns,   \
             const int32_t *ends, int32_t *lengths, int guided, const void *token_embedding,                           \
             const void *position_embedding, int tables_are_float, float *x, int hidden, int num_positions) {          \
        sample_codes<items>(logits, vocabulary, sampling, pictures, code_positions, forced, codes, num_codes, columns, \
                            ends, lengths, guided, token_embedding, position_embedding, tables_are_float, x, hidden,   \
                            num_positions);                                                                            \
    }

SAMPLE_CODES_KERNEL(sample_codes_1024, 256, 4)
SAMPLE_CODES_KERNEL(sample_codes_16384, 1024, 16)
SAMPLE_CODES_KERNEL(sample_codes_streamed, 1024, 0)
