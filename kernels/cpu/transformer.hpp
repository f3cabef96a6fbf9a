// The GPT of a bundle on the processor: prefill and decode steps over a cache, the whole of one run in one call.
//
// All threads go through the same layers side by side. Between two barriers each takes panels of a matrix, heads or
// rows, one after the other, and computes them whole: so no number depends on how many threads there are.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "kernels.hpp"
#include "packing.hpp"
#include "thread_pool.hpp"

namespace cpu {

struct Sizes {
    int32_t vocabulary, positions, layers, heads, width;
};

// A table of which single rows are read: 32 bits, or 8 bits with a float16 scale a row. The memory is the caller's.
struct Table {
    const float *values;
    const int8_t *codes;
    const uint16_t *scales;
};

// What one run is to do. Caches, for all layers: keys (layer, row, head, capacity / 16, channel, 16) and values (layer,
// row, head, capacity, head size rounded up to 16), floats or float16. They may have more rows than the run, which
// takes the first.
struct Run {
    int32_t batch, tokens;
    int32_t unmasked;  // leading positions that see each other both ways
    int32_t wanted;
    const int64_t *ids;      // (batch, tokens)
    const int64_t *starts;   // (batch), the position of each row's first token
    const int64_t *indices;  // (wanted), which of the tokens get logits
    void *keys, *values;
    int64_t capacity, cache_rows;
    int64_t number_bytes;  // of a cache: 4, or 2 for float16
    float *logits;         // (batch, wanted, vocabulary)
};

class Transformer {
  public:
    Transformer(const Sizes &sizes, int threads, const Kernels &kernels);

    const Sizes sizes;
    const Kernels &kernels() const { return kernels_; }

    bool reserve(size_t bytes) { return arena_.reserve(bytes); }

    // Matrix 4 i + 0 ... 3: attention's queries, keys and values, its output, the MLP's two, of layer i; after them the
    // head. False where what was reserved is full.
    bool pack(int index, const StoredMatrix &stored, const float *bias);
    void set_norm(int norm, const float *weight, const float *bias);           // 2 i, 2 i + 1 of layer i; then the last
    void set_table(int which, const Table &table) { tables_[which] = table; }  // 0 tokens, 1 positions

    // Callers of several threads take turns.
    void run(const Run &run);

  private:
    struct Norm {
        std::vector<float> weight, bias;
    };
    struct Layer {
        Norm norms[2];
        Matrix qkv, proj, expand, shrink;
    };
    struct Inputs {  // of a product
        std::vector<float> normed, scales;
        std::vector<int32_t> sums;
        std::vector<int8_t> q;
    };
    struct Buffers {  // of all threads, each writing rows, panels or heads of its own
        std::vector<float> x, chosen, qkv, attended, hidden;
        Inputs inputs;
    };
    struct Own {  // of one thread
        std::vector<float> scores, tile;
        Inputs inputs;
    };

    void resize(int rows, int chosen, int longest);
    void work(int thread);
    void forward(int thread, int first, int last);
    void embed(int thread, int first, int count);
    Rows normed(int thread, const float *x, int count, const Norm &norm, const Matrix &next);
    Rows plain(int thread, const float *x, size_t stride, int count, const Matrix &next);
    void quantize(Inputs &in, const float *x, int m, const Matrix &next) const;
    Rows rows_of(const Inputs &in, const float *x, size_t stride) const;
    void product(int thread, const Matrix &matrix, const Rows &rows, int count, Finish finish, float *out,
                 size_t stride, int columns);
    void attention(int thread, int layer, int first, int batch, bool shorten);
    void append(int layer, int first, int row, int head);
    void attend(int thread, int layer, int first, int row, int head, int begin, int end, bool shorten);
    HeadCache cache(int layer, int row, int head) const;

    const Kernels &kernels_;
    const bool near_;
    Arena arena_;
    std::vector<Layer> layers_;
    Norm final_norm_;
    Matrix head_{};
    Table tables_[2] = {};
    std::deque<std::vector<float>> biases_;
    int head_size_, value_stride_;
    size_t width_stride_, qkv_stride_, hidden_stride_, q_stride_, block_stride_;

    std::mutex mutex_;
    const Run *run_ = nullptr;
    int group_ = 0;  // rows of the batch that go through the layers together
    Buffers buffers_;
    std::vector<Own> own_;
    ThreadPool pool_;  // the last, so that its threads end first
};

}  // namespace cpu
