#include "network.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace cpu {

namespace {

constexpr int kGroups = 32;
constexpr double kEpsilon = 1e-6;
constexpr size_t kStripBytes = 512 << 10;        // stays in the second cache level beside a panel of weights
constexpr size_t kTransformedBytes = 640 << 10;  // of a strip in Winograd's form, likewise
constexpr int kMostTiles = 64;
constexpr size_t kSlackBytes = 8 << 10;   // tiles of 16 pixels read beyond a strip's end
constexpr size_t kKeptBytes = 128 << 20;  // of the arena between runs
constexpr int kTasksAThread = 4;
constexpr int kQueries = 28;

int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

// Of tiles in Winograd's form. A line more, so that not all planes begin in the same place of the first cache level.
size_t plane_floats(int blocks, int tiles) {
    return (size_t(blocks) * tiles + 1) * kBlock;
}

// Places in the arena: the lowest gap that is large enough.
class Gaps {
  public:
    size_t take(size_t floats) {
        size_t at = 0, index = 0;
        for (; index < taken_.size() && taken_[index].first - at < floats; index++)
            at = taken_[index].first + taken_[index].second;
        taken_.insert(taken_.begin() + index, {at, floats});
        end_ = std::max(end_, at + floats);
        return at;
    }
    void give(size_t at, size_t floats) {
        for (size_t i = 0; i < taken_.size(); i++)
            if (taken_[i].first == at && taken_[i].second == floats) {
                taken_.erase(taken_.begin() + i);
                return;
            }
    }
    size_t end() const { return end_; }

  private:
    std::vector<std::pair<size_t, size_t>> taken_;
    size_t end_ = 0;
};

}  // namespace

Network::Network(int threads, const ConvKernels &convs, const ConvKernels &floats, const RowKernels &rows)
    : convs_(convs),
      floats_(floats),
      rows_(rows),
      threads_(threads),
      zeros_(2 * kBlock, 0.0f),
      own_(threads),
      pool_(threads) {}

bool Network::add_conv(const ConvSizes &sizes, const float *weights, const float *bias) {
    layers_.emplace_back();
    return pack_conv(sizes, weights, bias, convs_, pool_, layers_.back());
}

void Network::add_norm(int channels, const float *weight, const float *bias) {
    norms_.push_back({{weight, weight + channels}, {bias, bias + channels}});
}

// Tiles are as square as their width, a power of two, allows: the border is the least then. Neither width nor height
// depends on the number of threads where moments do.
Network::Tiling Network::tiling(const Conv &conv, int height, int width) const {
    const int step = conv.sizes.mode == kHalve ? 2 : 1, border = conv.sizes.side == 3 ? 2 : 0;
    const size_t pixel = size_t(conv.blocks) * convs_.depth * conv.element;
    Tiling t{};
    if (conv.tiles) {
        const int side = conv.tiles->step;
        const int most = std::max(4, std::min(kMostTiles, int(kTransformedBytes / (conv.tiles->planes() * pixel))));
        int columns = 2;
        while (columns * columns < most) columns *= 2;
        if (2 * width <= 3 * columns * side) columns = ceil_div(width, side);
        t.columns = columns * side;
        t.rows = std::min(ceil_div(height, side), std::max(1, most / columns)) * side;
    } else {
        const int pixels = int(kStripBytes / pixel) / (step * step);
        t.columns = 16;
        while (t.columns * t.columns < pixels) t.columns *= 2;
        if (2 * width <= 3 * t.columns) t.columns = width;
        t.rows = std::max(1, int(kStripBytes / pixel) / (step * t.columns + border) / step - border);
    }
    t.row_tiles = ceil_div(height, t.rows);
    t.column_tiles = ceil_div(width, t.columns);
    const int tiles = t.row_tiles * t.column_tiles;
    t.groups = std::min(conv.panels(), ceil_div(kTasksAThread * threads_, tiles));
    return t;
}

int Network::queries_a_task(int positions) const {
    return std::max(1, std::min(kQueries, ceil_div(positions, kTasksAThread * threads_)));
}

Network::Plan Network::plan(int channels, int height, int width) const {
    Plan p;
    const size_t count = steps_.size();
    p.values.resize(count + 1);
    p.tilings.resize(count);
    p.keys_at.resize(count);
    p.packed_at.resize(count);
    Value &first = p.values[0];
    first.channels = channels;
    first.height = height;
    first.width = width;
    first.cell = width;
    for (size_t i = 0; i < count; i++) {
        const Step &s = steps_[i];
        const Value &in = p.values[s.in];
        Value &out = p.values[s.out];
        out = in;
        out.normalised = false;
        out.last_use = int(i);
        if (s.kind == kConvolve) {
            const Conv &conv = layers_[s.conv];
            const int mode = conv.sizes.mode;
            out.channels = conv.sizes.outputs;
            if (mode == kHalve) out.height /= 2, out.width /= 2;
            const Tiling t = p.tilings[i] = tiling(conv, out.height, out.width);
            out.cell = t.columns;
            if (mode == kDouble) out.height *= 2, out.width *= 2, out.cell *= 2;
            const int step = mode == kHalve ? 2 : 1, border = conv.sizes.side == 3 ? 2 : 0;
            const size_t pixels = size_t(t.rows * step + border) * (t.columns * step + border);
            p.strip_bytes = std::max(p.strip_bytes, pixels * conv.blocks * convs_.depth * conv.element + kSlackBytes);
            if (conv.tiles) {
                const int side = conv.tiles->step, count = t.rows / side * (t.columns / side);
                p.transformed = std::max(p.transformed, conv.tiles->planes() * plane_floats(conv.blocks, count));
                p.products = std::max(p.products, conv.tiles->planes() * plane_floats(2, count));
            }
        } else {
            if (s.kind == kShrink) out.height /= 2, out.width /= 2;
            if (s.kind == kRepeat) out.height *= 2, out.width *= 2;
            out.cell = std::max(1, out.width);
        }
        if (s.norm >= 0) p.values[s.in].normalised = true;
        for (int used : {s.in, s.add, s.kind == kAttend ? s.key : -1, s.kind == kAttend ? s.value : -1})
            if (used >= 0) p.values[used].last_use = int(i);
    }
    p.values[steps_.back().out].last_use = int(count);
    Gaps gaps;
    auto place = [&](Value &v) {
        v.at = gaps.take(v.floats());
        v.moments_at = gaps.take(v.moment_floats());
        p.channels = std::max(p.channels, v.blocks() * kBlock);
    };
    place(first);
    for (size_t i = 0; i < count; i++) {
        const Step &s = steps_[i];
        Value &out = p.values[s.out];
        if (s.add >= 0 && s.add != s.in && p.values[s.add].last_use == int(i)) {  // in its place
            Value &added = p.values[s.add];
            out.at = added.at;
            out.moments_at = gaps.take(out.moment_floats());
            p.channels = std::max(p.channels, out.blocks() * kBlock);
            gaps.give(added.moments_at, added.moment_floats());
            added.last_use = -1;
        } else {
            place(out);
        }
        if (s.kind == kAttend) {
            const int positions = out.height * out.width, padded = ceil_div(positions, 2 * kBlock) * 2 * kBlock;
            const size_t floats = size_t(padded) * out.blocks() * kBlock;
            p.keys_at[i] = gaps.take(floats);
            p.packed_at[i] = gaps.take(floats);
            gaps.give(p.keys_at[i], floats);
            gaps.give(p.packed_at[i], floats);
            p.scores = std::max(p.scores, size_t(padded) * queries_a_task(positions));
        }
        for (Value &v : p.values)
            if (v.last_use == int(i) && v.channels) {
                gaps.give(v.at, v.floats());
                gaps.give(v.moments_at, v.moment_floats());
                v.last_use = -1;
            }
    }
    p.floats = gaps.end();
    return p;
}

size_t Network::run_bytes(int channels, int height, int width) {
    const Plan p = plan(channels, height, width);
    return p.floats * sizeof(float) +
           threads_ * (p.strip_bytes + (p.transformed + p.products + p.scores) * sizeof(float));
}

bool Network::run(const float *in, int channels, int height, int width, float *out) {
    std::lock_guard<std::mutex> lock(mutex_);
    plan_ = plan(channels, height, width);
    bool enough = arena_.reserve(plan_.floats * sizeof(float));
    for (Own &own : own_) {
        enough = enough && own.strip.reserve(plan_.strip_bytes) && own.scores.reserve(plan_.scores * sizeof(float)) &&
                 own.transformed.reserve(plan_.transformed * sizeof(float)) &&
                 own.products.reserve(plan_.products * sizeof(float));
        for (auto *v : {&own.center, &own.scale, &own.shift}) v->assign(plan_.channels, 0.0f);
    }
    if (!enough) return false;
    float *base = (float *)arena_.data();
    for (Value &v : plan_.values) {
        v.data = base + v.at;
        v.moments = base + v.moments_at;
    }
    means_.assign(plan_.channels, 0.0);
    squares_.assign(plan_.channels, 0.0);
    in_ = in;
    out_ = out;
    pool_.run([](void *self, int thread) { ((Network *)self)->work(thread); }, this);
    if (arena_.size() > kKeptBytes) arena_.release();
    return true;
}

void Network::work(int thread) {
    convs_.begin();
    load(thread);
    for (size_t i = 0; i < steps_.size(); i++) {
        const Step &step = steps_[i];
        if (step.kind == kConvolve)
            convolve(thread, step, plan_.tilings[i]);
        else if (step.kind == kAttend)
            attend(thread, step, i);
        else
            resample(thread, step);
    }
    store(thread);
    convs_.end();
}

void Network::load(int thread) {
    const Value &v = plan_.values[0];
    for (int i; (i = pool_.take(thread, v.height * v.blocks())) >= 0;) {
        const int y = i % v.height, block = i / v.height, count = std::min(kBlock, v.channels - block * kBlock);
        float *to = v.data + block * v.plane() + size_t(y) * v.width * kBlock;
        std::fill(to, to + size_t(v.width) * kBlock, 0.0f);
        for (int c = 0; c < count; c++) {
            const float *from = in_ + (size_t(block * kBlock + c) * v.height + y) * v.width;
            for (int x = 0; x < v.width; x++) to[x * kBlock + c] = from[x];
        }
        if (v.normalised) cell_moments(v, y, 0, block);
    }
    pool_.finish_phase(thread);
}

void Network::store(int thread) {
    const Value &v = plan_.values[steps_.back().out];
    for (int i; (i = pool_.take(thread, v.height)) >= 0;)
        for (int c = 0; c < v.channels; c++) {
            const float *from = v.data + c / kBlock * v.plane() + size_t(i) * v.width * kBlock + c % kBlock;
            float *to = out_ + (size_t(c) * v.height + i) * v.width;
            for (int x = 0; x < v.width; x++) to[x] = from[x * kBlock];
        }
    pool_.finish_phase(thread);
}

void Network::cell_moments(const Value &v, int row, int cell, int block) const {
    const int first = cell * v.cell, columns = std::min(v.cell, v.width - first);
    const float *x = v.data + block * v.plane() + (size_t(row) * v.width + first) * kBlock;
    rows_.moments({x, columns, v.moments + ((size_t(row) * v.cells() + cell) * v.blocks() + block) * kMoments});
}

// GroupNorm of 32 groups: moments of cells are joined to those of channels, and these to those of groups, in float64
// and in one order.
void Network::normalise(int thread, const Value &v, const Norm &norm) {
    const int cells = v.cells(), blocks = v.blocks();
    for (int block; (block = pool_.take(thread, blocks)) >= 0;) {
        double *means = means_.data() + block * kBlock, *squares = squares_.data() + block * kBlock;
        std::fill(means, means + kBlock, 0.0);
        std::fill(squares, squares + kBlock, 0.0);
        for (int pass = 0; pass < 2; pass++)
            for (int y = 0; y < v.height; y++)
                for (int cell = 0; cell < cells; cell++) {
                    const float *m = v.moments + ((size_t(y) * cells + cell) * blocks + block) * kMoments;
                    const double count = std::min(v.cell, v.width - cell * v.cell);
                    for (int c = 0; c < kBlock; c++) {
                        const double mean = double(m[c]) + m[kBlock + c];
                        if (pass == 0)
                            means[c] += count * mean / (double(v.height) * v.width);
                        else
                            squares[c] += m[2 * kBlock + c] + count * (mean - means[c]) * (mean - means[c]);
                    }
                }
    }
    pool_.finish_phase(thread);
    Own &own = own_[thread];
    const int members = v.channels / kGroups;
    const double pixels = double(v.height) * v.width;
    for (int group = 0; group < kGroups; group++) {
        const int first = group * members;
        double mean = 0, squares = 0;
        for (int c = first; c < first + members; c++) mean += means_[c] / members;
        for (int c = first; c < first + members; c++)
            squares += squares_[c] + pixels * (means_[c] - mean) * (means_[c] - mean);
        const double factor = 1 / std::sqrt(squares / (pixels * members) + kEpsilon);
        for (int c = first; c < first + members; c++) {
            // a rounded mean alone would be too rough where a group is nearly constant
            const float center = float(mean);
            own.center[c] = center;
            own.scale[c] = float(norm.weight[c] * factor);
            own.shift[c] = float(norm.bias[c] + (double(center) - mean) * norm.weight[c] * factor);
        }
    }
}

void Network::convolve(int thread, const Step &step, const Tiling &t) {
    const Conv &conv = layers_[step.conv];
    const Value &in = plan_.values[step.in], &out = plan_.values[step.out];
    Own &own = own_[thread];
    if (step.norm >= 0) normalise(thread, in, norms_[step.norm]);
    own.tile = -1;
    const int mode = conv.sizes.mode, stride = mode == kHalve ? 2 : 1, border = conv.sizes.side == 3 ? 1 : 0;
    const int height = mode == kDouble ? in.height : out.height, width = mode == kDouble ? in.width : out.width;
    const int tiles = t.row_tiles * t.column_tiles;
    for (int i; (i = pool_.take(thread, tiles * t.groups)) >= 0;) {
        const int tile = i / t.groups, group = i % t.groups;
        const int row_tile = tile / t.column_tiles, column_tile = tile % t.column_tiles;
        // in whole tiles of Winograd's form, else of nearly equal height
        const int y0 = conv.tiles ? row_tile * t.rows : int(int64_t(height) * row_tile / t.row_tiles);
        const int y1 = conv.tiles ? y0 + t.rows : int(int64_t(height) * (row_tile + 1) / t.row_tiles);
        const int x0 = column_tile * t.columns, rows = std::min(y1, height) - y0;
        const int columns = std::min(t.columns, width - x0);
        const int before = mode == kHalve ? 0 : border, after = border;
        const int whole = conv.tiles ? conv.tiles->step : 1;
        const int covered_rows = ceil_div(rows, whole) * whole, covered_columns = ceil_div(columns, whole) * whole;
        const int strip_rows = mode == kHalve ? 2 * covered_rows + 1 : covered_rows + before + after;
        const int strip_columns = mode == kHalve ? 2 * covered_columns + 1 : covered_columns + before + after;
        const size_t block_stride = size_t(strip_rows) * strip_columns * convs_.depth;
        if (own.tile != tile) {
            const bool normed = step.norm >= 0;
            convs_.fill({in.data, in.blocks(), in.height, in.width, stride * y0 - before, stride * x0 - before,
                         strip_rows, strip_columns, block_stride, normed ? own.center.data() : nullptr,
                         own.scale.data(), own.shift.data(), step.swish != 0, own.strip.data()});
            own.tile = tile;
            if (conv.tiles)
                convs_.tiles[conv.tiles->form].inputs(
                    {(const float *)own.strip.data(), conv.blocks, block_stride, size_t(strip_columns) * kBlock,
                     covered_rows / whole, covered_columns / whole, (float *)own.transformed.data(),
                     plane_floats(conv.blocks, covered_rows / whole * (covered_columns / whole))});
        }
        const int last = conv.panels() * (group + 1) / t.groups;
        for (int panel = conv.panels() * group / t.groups; panel < last; panel++) {
            if (conv.tiles)
                multiply_tiles(own, step, panel, y0, x0, rows, columns);
            else
                convolve_panel(step, panel, own.strip.data(), strip_columns, block_stride, y0, x0, rows, columns);
            if (!out.normalised) continue;
            const int twice = mode == kDouble ? 2 : 1;
            for (int y = twice * y0; y < twice * (y0 + rows); y++)
                for (int v = 0; v < conv.panel_vectors(panel); v++) cell_moments(out, y, column_tile, 2 * panel + v);
        }
    }
    pool_.finish_phase(thread);
}

void Network::convolve_panel(const Step &step, int panel, const void *strip, int strip_columns, size_t block_stride,
                             int y0, int x0, int rows, int columns) {
    const Conv &conv = layers_[step.conv];
    const Value &out = plan_.values[step.out];
    const size_t depth = convs_.depth;
    const int stride = conv.sizes.mode == kHalve ? 2 : 1, twice = conv.sizes.mode == kDouble ? 2 : 1;
    for (int kernel = 0; kernel < conv.kernels; kernel++) {
        ptrdiff_t offsets[kMaxTaps];
        for (int tap = 0; tap < conv.taps; tap++) {
            const int side = twice == 2 ? 2 : conv.sizes.side;
            const int y = tap / side + kernel / 2, x = tap % side + kernel % 2;
            offsets[tap] = (ptrdiff_t(y) * strip_columns + x) * ptrdiff_t(depth);
        }
        const size_t to =
            2 * panel * out.plane() + (size_t(twice * y0 + kernel / 2) * out.width + twice * x0 + kernel % 2) * kBlock;
        ConvTask task{};
        task.strip = strip;
        task.blocks = conv.blocks;
        task.block_stride = block_stride;
        task.row_stride = stride * strip_columns * depth;
        task.pixel_stride = stride * depth;
        task.taps = conv.taps;
        task.tap_offsets = offsets;
        task.weights = conv.weights(panel, kernel);
        task.bias = conv.bias.data() + 2 * panel * kBlock;
        task.vectors = conv.panel_vectors(panel);
        task.rows = rows;
        task.columns = columns;
        task.out = out.data + to;
        task.add = step.add >= 0 ? plan_.values[step.add].data + to : nullptr;
        task.out_block_stride = out.plane();
        task.out_row_stride = size_t(twice) * out.width * kBlock;
        task.out_pixel_stride = size_t(twice) * kBlock;
        convs_.conv(task);
    }
}

// The products of each plane are a convolution of 1x1 over the tiles.
void Network::multiply_tiles(Own &own, const Step &step, int panel, int y0, int x0, int rows, int columns) {
    const Conv &conv = layers_[step.conv];
    const Value &out = plan_.values[step.out];
    const int side = conv.tiles->step, twice = conv.sizes.mode == kDouble ? 2 : 1;
    const int tile_rows = ceil_div(rows, side), tile_columns = ceil_div(columns, side),
              tiles = tile_rows * tile_columns;
    const size_t in_plane = plane_floats(conv.blocks, tiles), out_plane = plane_floats(2, tiles);
    float *products = (float *)own.products.data();
    const ptrdiff_t here = 0;
    ConvTask task{};
    task.blocks = conv.blocks;
    task.block_stride = task.out_block_stride = size_t(tiles) * kBlock;
    task.pixel_stride = task.out_pixel_stride = kBlock;
    task.taps = 1;
    task.tap_offsets = &here;
    task.bias = zeros_.data();
    task.vectors = conv.panel_vectors(panel);
    task.rows = 1;
    task.columns = tiles;
    for (int plane = 0; plane < conv.tiles->planes(); plane++) {
        task.strip = (const float *)own.transformed.data() + plane * in_plane;
        task.weights = conv.weights(panel, conv.plane_kernel(plane));
        task.out = products + plane * out_plane;
        convs_.conv(task);
    }
    const size_t to = 2 * panel * out.plane() + (size_t(twice * y0) * out.width + twice * x0) * kBlock;
    convs_.tiles[conv.tiles->form].outputs({products, out_plane, task.vectors, tile_rows, tile_columns,
                                            conv.bias.data() + 2 * panel * kBlock, twice * rows, twice * columns,
                                            out.data + to, step.add >= 0 ? plan_.values[step.add].data + to : nullptr,
                                            out.plane(), size_t(out.width) * kBlock});
}

// Keys become the weights of a convolution of 1x1 that turns queries into scores, values those of one that turns scores
// into sums.
void Network::attend(int thread, const Step &step, size_t index) {
    const Value &query = plan_.values[step.in], &key = plan_.values[step.key], &value = plan_.values[step.value];
    const Value &out = plan_.values[step.out];
    const int positions = out.height * out.width, panels = ceil_div(positions, 2 * kBlock), blocks = out.blocks();
    const size_t plane = out.plane();
    float *keys = (float *)arena_.data() + plan_.keys_at[index],
          *packed = (float *)arena_.data() + plan_.packed_at[index];
    for (int panel; (panel = pool_.take(thread, panels)) >= 0;) {
        for (int j = 0; j < 2 * kBlock; j++) {
            const int n = panel * 2 * kBlock + j;
            for (int b = 0; b < blocks; b++) {
                float *to = keys + (size_t(panel) * blocks + b) * kBlock * 2 * kBlock + j;
                for (int c = 0; c < kBlock; c++)
                    to[c * 2 * kBlock] = n < positions ? key.data[b * plane + size_t(n) * kBlock + c] : 0.0f;
                float *beside = packed + (size_t(b / 2) * panels * 2 * kBlock + n) * 2 * kBlock + b % 2 * kBlock;
                for (int c = 0; c < kBlock; c++)
                    beside[c] = n < positions ? value.data[b * plane + size_t(n) * kBlock + c] : 0.0f;
            }
        }
    }
    pool_.finish_phase(thread);
    const int most = queries_a_task(positions), tasks = ceil_div(positions, most);
    for (int i; (i = pool_.take(thread, tasks)) >= 0;) {
        const int first = i * most, count = std::min(most, positions - first);
        attend_queries(own_[thread], query, out, keys, packed, first, count);
    }
    pool_.finish_phase(thread);
}

void Network::attend_queries(Own &own, const Value &query, const Value &out, const float *keys, const float *packed,
                             int first, int count) {
    const int positions = out.height * out.width, panels = ceil_div(positions, 2 * kBlock), blocks = out.blocks();
    const size_t plane = out.plane(), row = size_t(count) * kBlock;
    float *scores = (float *)own.scores.data();
    const ptrdiff_t here = 0;
    ConvTask task{};
    task.taps = 1;
    task.tap_offsets = &here;
    task.pixel_stride = kBlock;
    task.bias = zeros_.data();
    task.vectors = 2;
    task.rows = 1;
    task.columns = count;
    task.out_pixel_stride = kBlock;
    task.strip = query.data + size_t(first) * kBlock;
    task.blocks = blocks;
    task.block_stride = plane;
    task.out_block_stride = row;
    for (int panel = 0; panel < panels; panel++) {
        task.weights = keys + size_t(panel) * blocks * kBlock * 2 * kBlock;
        task.out = scores + 2 * panel * row;
        floats_.conv(task);
    }
    const float scale = float(1 / std::sqrt(double(out.channels)));
    for (int q = 0; q < count; q++) rows_.softmax({scores + q * kBlock, row, positions, scale});
    task.strip = scores;
    task.blocks = ceil_div(positions, kBlock);
    task.block_stride = row;
    task.out_block_stride = plane;
    for (int panel = 0; panel < blocks / 2; panel++) {
        task.weights = packed + size_t(panel) * panels * 2 * kBlock * 2 * kBlock;
        task.out = out.data + 2 * panel * plane + size_t(first) * kBlock;
        floats_.conv(task);
    }
}

void Network::resample(int thread, const Step &step) {
    const Value &in = plan_.values[step.in], &out = plan_.values[step.out];
    for (int i; (i = pool_.take(thread, out.height * out.blocks())) >= 0;) {
        const int y = i % out.height, block = i / out.height;
        const float *from = in.data + block * in.plane();
        float *to = out.data + block * out.plane() + size_t(y) * out.width * kBlock;
        for (int x = 0; x < out.width; x++, to += kBlock) {
            if (step.kind == kRepeat) {
                memcpy(to, from + (size_t(y / 2) * in.width + x / 2) * kBlock, kBlock * sizeof(float));
                continue;
            }
            const float *above = from + (size_t(2 * y) * in.width + 2 * x) * kBlock, *below = above + in.width * kBlock;
            for (int c = 0; c < kBlock; c++)
                to[c] = (above[c] + above[kBlock + c] + below[c] + below[kBlock + c]) * 0.25f;
        }
        if (out.normalised) cell_moments(out, y, 0, block);
    }
    pool_.finish_phase(thread);
}

}  // namespace cpu
