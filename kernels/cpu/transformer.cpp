#include "transformer.hpp"

#include <algorithm>

#include "half.hpp"
#include "instructions.hpp"

namespace cpu {

namespace {

constexpr int kGroupRows = 768;  // rows that go through the layers together; their buffers stay in the caches
constexpr int kTaskRows = 384;   // rows of one piece of a product
constexpr int kAlone = 2;        // rows that every thread normalises for itself, which costs less than waiting
constexpr int kQueriesATask = 24;
constexpr double kAloneUs = 40;  // a layer's time on one thread that isn't worth five meetings of several

int rounded(int n, int to) {
    return (n + to - 1) / to * to;
}

// off the powers of two, so that the rows of a block don't meet in one place of the first cache level
size_t row_stride(int n) {
    return rounded(n, 64) + 16;
}

}  // namespace

Transformer::Transformer(const Sizes &s, int threads, const Kernels &kernels)
    : sizes(s), kernels_(kernels), near_(fetches_near()), layers_(s.layers), own_(threads), pool_(threads) {
    head_size_ = s.width / s.heads;
    value_stride_ = rounded(head_size_, 16);
    width_stride_ = row_stride(s.width);
    qkv_stride_ = row_stride(3 * s.width);
    hidden_stride_ = row_stride(4 * s.width);
    q_stride_ = rounded(4 * s.width, 64) + 64;
    block_stride_ = q_stride_ / 32;
}

bool Transformer::pack(int index, const StoredMatrix &stored, const float *bias) {
    Layer &layer = layers_[std::min(index / 4, sizes.layers - 1)];
    Matrix *places[] = {&layer.qkv, &layer.proj, &layer.expand, &layer.shrink};
    Matrix &matrix = index == 4 * sizes.layers ? head_ : *places[index % 4];
    if (!cpu::pack(stored, arena_, pool_, matrix)) return false;
    biases_.emplace_back(matrix.panels() * kPanel, 0.0f);
    if (bias) std::copy(bias, bias + stored.outputs, biases_.back().begin());
    matrix.bias = biases_.back().data();
    return true;
}

void Transformer::set_norm(int norm, const float *weight, const float *bias) {
    Norm &place = norm == 2 * sizes.layers ? final_norm_ : layers_[norm / 2].norms[norm % 2];
    place.weight.assign(weight, weight + sizes.width);
    place.bias.assign(bias, bias + sizes.width);
}

void Transformer::run(const Run &run) {
    std::lock_guard<std::mutex> lock(mutex_);
    run_ = &run;
    const int64_t longest = *std::max_element(run.starts, run.starts + run.batch) + run.tokens;
    group_ = std::max(1, std::min(int(run.batch), kGroupRows / run.tokens));
    resize(group_ * run.tokens, group_ * std::max(run.wanted, 1), int(std::max<int64_t>(longest, run.unmasked)));
    // at 20 GB/s and 150 GFLOP/s
    const double weights = 12.0 * sizes.width * sizes.width, rows = double(group_) * run.tokens;
    const double us = std::max(weights * layers_[0].expand.bits / 8 / 20e3, 2 * weights * rows / 150e3);
    const bool alone = us < kAloneUs;
    pool_.run([](void *self, int thread) { ((Transformer *)self)->work(thread); }, this, alone);
    run_ = nullptr;
}

void Transformer::resize(int rows, int chosen, int longest) {
    Buffers &b = buffers_;
    // grown only, and zero at first: what lies between a row's end and its stride is read and must stay zero
    auto grow = [](auto &v, size_t size) {
        if (v.size() < size) v.resize(size);
    };
    grow(b.x, rows * width_stride_);
    grow(b.chosen, chosen * width_stride_);
    grow(b.attended, rows * width_stride_);
    grow(b.qkv, rows * qkv_stride_);
    grow(b.hidden, rows * hidden_stride_);
    grow(b.inputs.normed, rows * width_stride_);
    grow(b.inputs.q, rows * q_stride_);
    grow(b.inputs.scales, rows * block_stride_);
    grow(b.inputs.sums, rows * block_stride_);
    for (Own &own : own_) {
        grow(own.scores, kMostQueries * size_t(rounded(longest, 16)));
        grow(own.tile, size_t(std::min(rows, kTaskRows)) * kPanel);
        grow(own.inputs.normed, kAlone * width_stride_);
        grow(own.inputs.q, kAlone * q_stride_);
        grow(own.inputs.scales, kAlone * block_stride_);
        grow(own.inputs.sums, kAlone * block_stride_);
    }
}

void Transformer::work(int thread) {
    for (int first = 0; first < run_->batch; first += group_)
        forward(thread, first, std::min(first + group_, int(run_->batch)));
}

void Transformer::forward(int thread, int first, int last) {
    const int batch = last - first, count = batch * run_->tokens, chosen = batch * run_->wanted;
    Buffers &b = buffers_;
    embed(thread, first, count);
    for (int i = 0; i < sizes.layers; i++) {
        const Layer &layer = layers_[i];
        const bool shorten = i + 1 == sizes.layers;  // behind the last cache only wanted rows count
        const int rows = shorten ? chosen : count;
        float *x = shorten ? b.chosen.data() : b.x.data();
        product(thread, layer.qkv, normed(thread, b.x.data(), count, layer.norms[0], layer.qkv), count, Finish::kStore,
                b.qkv.data(), qkv_stride_, rounded(3 * sizes.width, kPanel));
        attention(thread, i, first, batch, shorten);
        if (!rows) return;
        const size_t narrow = width_stride_, wide = hidden_stride_;
        const int columns = rounded(sizes.width, kPanel);
        product(thread, layer.proj, plain(thread, b.attended.data(), narrow, rows, layer.proj), rows, Finish::kAdd, x,
                narrow, columns);
        product(thread, layer.expand, normed(thread, x, rows, layer.norms[1], layer.expand), rows, Finish::kGelu,
                b.hidden.data(), wide, rounded(4 * sizes.width, kPanel));
        product(thread, layer.shrink, plain(thread, b.hidden.data(), wide, rows, layer.shrink), rows, Finish::kAdd, x,
                narrow, columns);
    }
    product(thread, head_, normed(thread, b.chosen.data(), chosen, final_norm_, head_), chosen, Finish::kStore,
            run_->logits + size_t(first) * run_->wanted * sizes.vocabulary, sizes.vocabulary, sizes.vocabulary);
}

void Transformer::embed(int thread, int first, int count) {
    auto add_row = [&](const Table &table, int64_t row, float *x) {
        const size_t start = size_t(row) * sizes.width;
        if (table.values) {
            for (int i = 0; i < sizes.width; i++) x[i] += table.values[start + i];
        } else {
            const float scale = half_to_float(table.scales[row]);
            for (int i = 0; i < sizes.width; i++) x[i] += float(table.codes[start + i]) * scale;
        }
    };
    for (int m; (m = pool_.take(thread, count)) >= 0;) {
        const int row = first + m / run_->tokens, t = m % run_->tokens;
        float *x = buffers_.x.data() + m * width_stride_;
        std::fill(x, x + sizes.width, 0.0f);
        add_row(tables_[0], run_->ids[size_t(row) * run_->tokens + t], x);
        add_row(tables_[1], run_->starts[row] + t, x);
    }
    pool_.finish_phase(thread);
}

Rows Transformer::normed(int thread, const float *x, int count, const Norm &norm, const Matrix &next) {
    const bool alone = count <= kAlone;
    Inputs &in = alone ? own_[thread].inputs : buffers_.inputs;
    auto one = [&](int m) {
        float *to = in.normed.data() + m * width_stride_;
        kernels_.layer_norm(x + m * width_stride_, norm.weight.data(), norm.bias.data(), sizes.width, to);
        if (next.bits != 32) quantize(in, to, m, next);
    };
    if (alone) {
        for (int m = 0; m < count; m++) one(m);
    } else {
        for (int m; (m = pool_.take(thread, count)) >= 0;) one(m);
        pool_.finish_phase(thread);
    }
    return rows_of(in, in.normed.data(), width_stride_);
}

Rows Transformer::plain(int thread, const float *x, size_t stride, int count, const Matrix &next) {
    const bool alone = count <= kAlone;
    Inputs &in = alone ? own_[thread].inputs : buffers_.inputs;
    if (next.bits != 32) {
        if (alone) {
            for (int m = 0; m < count; m++) quantize(in, x + m * stride, m, next);
        } else {
            for (int m; (m = pool_.take(thread, count)) >= 0;) quantize(in, x + m * stride, m, next);
            pool_.finish_phase(thread);
        }
    }
    return rows_of(in, x, stride);
}

void Transformer::quantize(Inputs &in, const float *x, int m, const Matrix &next) const {
    kernels_.quantize_row(x, next.blocks, next.block, in.q.data() + m * q_stride_, in.scales.data() + m * block_stride_,
                          in.sums.data() + m * block_stride_);
}

Rows Transformer::rows_of(const Inputs &in, const float *x, size_t stride) const {
    return {x, stride, in.q.data(), in.scales.data(), in.sums.data(), q_stride_, block_stride_};
}

void Transformer::product(int thread, const Matrix &matrix, const Rows &rows, int count, Finish finish, float *out,
                          size_t stride, int columns) {
    const int panels = matrix.panels(), pieces = (count + kTaskRows - 1) / kTaskRows;
    for (int i; (i = pool_.take(thread, panels * pieces)) >= 0;) {
        const int piece = i / panels;
        kernels_.panel({&matrix, i % panels, &rows, count * piece / pieces, count * (piece + 1) / pieces, finish, out,
                        stride, columns, own_[thread].tile.data(), near_});
    }
    pool_.finish_phase(thread);
}

void Transformer::attention(int thread, int layer, int first, int batch, bool shorten) {
    const int tokens = run_->tokens, queries = shorten ? run_->wanted : tokens;
    const int pairs = batch * sizes.heads;
    if (tokens > 1) {
        for (int i; (i = pool_.take(thread, pairs)) >= 0;) append(layer, first, i / sizes.heads, i % sizes.heads);
        pool_.finish_phase(thread);
    }
    const int groups = std::max(1, (queries + kQueriesATask - 1) / kQueriesATask);
    for (int i; (i = pool_.take(thread, pairs * groups)) >= 0;) {
        const int pair = i / groups, group = i % groups;
        const int row = pair / sizes.heads, head = pair % sizes.heads;
        if (tokens == 1) append(layer, first, row, head);
        attend(thread, layer, first, row, head, queries * group / groups, queries * (group + 1) / groups, shorten);
    }
    if (shorten) {
        // each of the rows that are left, beside its attention
        for (int m = thread; m < batch * queries; m += pool_.threads()) {
            const size_t from = size_t(m / queries) * tokens + run_->indices[m % queries];
            const float *x = buffers_.x.data() + from * width_stride_;
            std::copy(x, x + width_stride_, buffers_.chosen.data() + m * width_stride_);
        }
    }
    pool_.finish_phase(thread);
}

HeadCache Transformer::cache(int layer, int row, int head) const {
    const size_t positions =
        ((size_t(layer) * run_->cache_rows + row) * sizes.heads + head) * run_->capacity * run_->number_bytes;
    return {(uint8_t *)run_->keys + positions * head_size_, (uint8_t *)run_->values + positions * value_stride_,
            head_size_, value_stride_, run_->number_bytes == 2};
}

void Transformer::append(int layer, int first, int row, int head) {
    const HeadCache to = cache(layer, first + row, head);
    for (int t = 0; t < run_->tokens; t++) {
        const float *qkv = buffers_.qkv.data() + (size_t(row) * run_->tokens + t) * qkv_stride_ + head * head_size_;
        kernels_.append(to, run_->starts[first + row] + t, qkv + sizes.width, qkv + 2 * sizes.width);
    }
}

void Transformer::attend(int thread, int layer, int first, int row, int head, int begin, int end, bool shorten) {
    AttentionTask task{};
    task.cache = cache(layer, first + row, head);
    task.scores = own_[thread].scores.data();
    const int queries = shorten ? run_->wanted : run_->tokens;
    for (int next = begin; next < end; next += task.count) {
        task.count = std::min(kernels_.max_queries, end - next);
        for (int k = 0; k < task.count; k++) {
            const int64_t t = shorten ? run_->indices[next + k] : next + k;
            const size_t from = size_t(row) * run_->tokens + t, to = size_t(row) * queries + next + k;
            const int position = int(run_->starts[first + row] + t);
            task.query[k] = buffers_.qkv.data() + from * qkv_stride_ + head * head_size_;
            task.out[k] = buffers_.attended.data() + to * width_stride_ + head * head_size_;
            task.visible[k] = position < run_->unmasked ? std::max(position + 1, int(run_->unmasked)) : position + 1;
        }
        kernels_.attend(task);
    }
}

}  // namespace cpu
