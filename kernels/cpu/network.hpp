// A network of convolutions, norms and attention over one picture: a VQGAN's encoder or decoder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "conv.hpp"
#include "conv_packing.hpp"
#include "memory.hpp"
#include "thread_pool.hpp"

namespace cpu {

enum StepKind { kConvolve, kAttend, kShrink, kRepeat };  // the last two: the mean of 2x2 pixels, each pixel twice

// One step. Values are numbered; 0 is the picture that comes in, and each step makes a new one. What the last makes is
// the result. -1 stands for none.
struct Step {
    int32_t kind;
    int32_t in, out;
    int32_t conv, norm, swish, add;  // of a convolution: what is done to `in` before, and added after
    int32_t key, value;              // of attention, beside `in`, its queries
};

class Network {
  public:
    // `convs` computes convolutions, `floats` attention.
    Network(int threads, const ConvKernels &convs, const ConvKernels &floats, const RowKernels &rows);

    const char *instructions() const { return convs_.name; }

    // All three return false where memory is lacking.
    bool add_conv(const ConvSizes &sizes, const float *weights, const float *bias);
    void add_norm(int channels, const float *weight, const float *bias);
    void add_step(const Step &step) { steps_.push_back(step); }

    // Bytes that a run over a picture of this size takes beside the weights.
    size_t run_bytes(int channels, int height, int width);

    // in: floats (channels, height, width); out likewise, of the size that the steps make of it. False where memory is
    // lacking. Callers of several threads take turns.
    bool run(const float *in, int channels, int height, int width, float *out);

  private:
    struct Norm {
        std::vector<float> weight, bias;
    };
    struct Value {
        int channels = 0, height = 0, width = 0;
        int cell = 0;  // columns that have moments together; whole rows where nothing else is said
        bool normalised = false;
        int last_use = 0;
        size_t at = 0, moments_at = 0;  // floats in the arena
        float *data = nullptr, *moments = nullptr;

        int blocks() const { return (channels + kBlock - 1) / kBlock; }
        int cells() const { return (width + cell - 1) / cell; }
        size_t plane() const { return size_t(height) * width * kBlock; }
        size_t floats() const { return blocks() * plane(); }
        size_t moment_floats() const { return normalised ? size_t(height) * cells() * blocks() * kMoments : 0; }
    };
    struct Tiling {         // of a convolution: its picture in tiles, its panels in groups
        int rows, columns;  // before doubling; rows is an upper bound
        int row_tiles, column_tiles, groups;
    };
    struct Plan {
        std::vector<Value> values;
        std::vector<Tiling> tilings;             // a step
        std::vector<size_t> keys_at, packed_at;  // a step: attention's packed keys and values
        size_t floats = 0, strip_bytes = 0, transformed = 0, products = 0, scores = 0;
        int channels = 0;  // of the widest value, padded
    };
    struct Own {  // of one thread
        Memory strip, scores;
        Memory transformed, products;  // of the strip in Winograd's form, and of a panel
        std::vector<float> center, scale, shift;
        int tile = -1;  // of the strip
    };

    Plan plan(int channels, int height, int width) const;
    Tiling tiling(const Conv &conv, int height, int width) const;
    int queries_a_task(int positions) const;

    void work(int thread);
    void load(int thread);
    void store(int thread);
    void convolve(int thread, const Step &step, const Tiling &tiling);
    void convolve_panel(const Step &step, int panel, const void *strip, int strip_columns, size_t block_stride, int y0,
                        int x0, int rows, int columns);
    void multiply_tiles(Own &own, const Step &step, int panel, int y0, int x0, int rows, int columns);
    void normalise(int thread, const Value &value, const Norm &norm);
    void attend(int thread, const Step &step, size_t index);
    void attend_queries(Own &own, const Value &query, const Value &out, const float *keys, const float *packed,
                        int first, int count);
    void resample(int thread, const Step &step);
    void cell_moments(const Value &value, int row, int cell, int block) const;

    const ConvKernels &convs_, &floats_;
    const RowKernels &rows_;
    std::vector<Conv> layers_;
    std::vector<Norm> norms_;
    std::vector<Step> steps_;
    int threads_;

    std::mutex mutex_;
    Plan plan_;
    Memory arena_;
    const float *in_ = nullptr;
    float *out_ = nullptr;
    std::vector<double> means_, squares_;  // of the channels of what is being normalised
    std::vector<float> zeros_;
    std::vector<Own> own_;
    ThreadPool pool_;  // the last, so that its threads end first
};

}  // namespace cpu
