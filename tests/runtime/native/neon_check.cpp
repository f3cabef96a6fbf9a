// Writes what the CPU kernels make of made-up inputs: neon_check INSTRUCTIONS FOLDER, a file in the folder for each
// kernel and shape, and the instructions' name on standard output. Where instructions compute the same bits, on
// whatever processors, the files are the same. Status 3 where the processor lacks them.
//
// Inputs are whole numbers over powers of two, so that no library function has a part in them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "conv.hpp"
#include "conv_packing.hpp"
#include "instructions.hpp"
#include "network.hpp"
#include "packing.hpp"
#include "sampler.hpp"
#include "transformer.hpp"

extern "C" {
void *sampler_choose(const char *instructions);
int64_t sampler_draw(void *sampler, const cpu::DrawTask *task);
}

namespace {

std::string instructions, folder;
uint64_t state = 1;

uint32_t random_bits() {  // Knuth's MMIX generator, its upper half
    state = state * 6364136223846793005u + 1442695040888963407u;
    return uint32_t(state >> 32);
}

float between(float low, float high) {
    return low + (high - low) * (float(random_bits() >> 8) / 16777216.0f);
}

std::vector<float> floats(size_t count, float low, float high) {
    std::vector<float> v(count);
    for (float &x : v) x = between(low, high);
    return v;
}

template <typename T>
void write(const std::string &name, const std::vector<T> &v) {
    const std::string path = folder + "/" + name;
    FILE *file = fopen(path.c_str(), "wb");
    if (!file || fwrite(v.data(), sizeof(T), v.size(), file) != v.size() || fclose(file)) {
        fprintf(stderr, "neon_check: %s can't be written\n", path.c_str());
        exit(1);
    }
}

void require(bool fine, const char *what) {
    if (fine) return;
    fprintf(stderr, "neon_check: %s failed\n", what);
    exit(1);
}

// A stored matrix and what it points to.
struct Weights {
    std::vector<float> values;
    std::vector<uint8_t> codes;
    std::vector<uint16_t> scales;
    cpu::StoredMatrix stored;

    Weights(int outputs, int inputs, int bits, int block) {
        const size_t blocks = (inputs + block - 1) / block;
        if (bits == 32) {
            values = floats(size_t(outputs) * inputs, -0.25f, 0.25f);
        } else {
            codes.resize(outputs * blocks * block * bits / 8);
            for (uint8_t &c : codes) c = uint8_t(random_bits() >> 24);
            // the largest product of a block: codes that stand for -128 or -8 throughout, and 127 in the other
            std::fill(codes.begin(), codes.begin() + block * bits / 8, 0);
            scales.resize(outputs * blocks);
            for (uint16_t &s : scales) s = uint16_t(0x1400 + random_bits() % 0x0c00);  // 2^-10 ... 2^-7
            scales.back() = 0;
        }
        stored = {outputs, inputs, bits, block, bits == 32 ? (const void *)values.data() : codes.data(), scales.data()};
    }
};

void write_panels(const cpu::Kernels &kernels, int bits, int block, int inputs) {
    constexpr int outputs = 70, most = 13;
    const Weights weights(outputs, inputs, bits, block);
    const int blocks = (inputs + block - 1) / block, width = blocks * block;
    cpu::ThreadPool pool(1);
    cpu::Arena arena;
    cpu::Matrix matrix;
    require(arena.reserve(cpu::packed_bytes(outputs, inputs, bits, block)), "memory");
    require(cpu::pack(weights.stored, arena, pool, matrix), "packing");
    std::vector<float> bias = floats(matrix.panels() * cpu::kPanel, -6.0f, 6.0f);
    matrix.bias = bias.data();
    std::vector<float> x(size_t(most) * width, 0.0f);
    for (int r = 0; r < most; r++)
        for (int i = 0; i < inputs; i++) x[r * width + i] = r ? between(-2.0f, 2.0f) : 1.5f;  // 127 throughout
    std::vector<int8_t> q(x.size());
    std::vector<float> scales(most * blocks);
    std::vector<int32_t> sums(most * blocks);
    for (int r = 0; r < most && bits != 32; r++)
        kernels.quantize_row(&x[r * width], blocks, block, &q[r * width], &scales[r * blocks], &sums[r * blocks]);
    const cpu::Rows rows = {x.data(),    size_t(width), q.data(),      scales.data(),
                            sums.data(), size_t(width), size_t(blocks)};
    std::vector<float> tile(most * cpu::kPanel);
    for (int count = 1; count <= most; count++) {
        std::vector<float> out(size_t(3) * most * outputs);
        for (int finish = 0; finish < 3; finish++) {
            float *to = &out[size_t(finish) * most * outputs];
            for (int i = 0; i < most * outputs; i++) to[i] = float(i % 7);
            for (int p = 0; p < matrix.panels(); p++)
                kernels.panel(
                    {&matrix, p, &rows, most - count, most, cpu::Finish(finish), to, outputs, outputs, tile.data()});
        }
        write("panel_bits" + std::to_string(bits) + "_block" + std::to_string(block) + "_rows" + std::to_string(count),
              out);
    }
}

template <typename Number>
void write_attention(const cpu::Kernels &kernels, int head_size) {
    constexpr int queries = 5, positions = 210, padded = 224;
    const int stride = (head_size + 15) / 16 * 16;
    const std::vector<float> query = floats(size_t(queries) * head_size, -1.0f, 1.0f);
    std::vector<Number> keys(size_t(padded) * head_size), values(size_t(padded) * stride);
    std::vector<float> out(size_t(queries) * head_size, 0.0f), scores(size_t(cpu::kMostQueries) * padded);
    const int visible[queries] = {1, 17, 64, 209, positions};
    cpu::AttentionTask task{};
    task.cache = {keys.data(), values.data(), head_size, stride, sizeof(Number) == 2};
    task.scores = scores.data();
    for (int i = 0; i < positions; i++) {
        const std::vector<float> key = floats(head_size, -2.0f, 2.0f), value = floats(head_size, -1.0f, 1.0f);
        kernels.append(task.cache, i, key.data(), value.data());
    }
    for (int first = 0; first < queries; first += task.count) {
        task.count = std::min(kernels.max_queries, queries - first);
        for (int k = 0; k < task.count; k++) {
            task.query[k] = &query[size_t(first + k) * head_size];
            task.out[k] = &out[size_t(first + k) * head_size];
            task.visible[k] = visible[first + k];
        }
        kernels.attend(task);
    }
    const std::string name = std::to_string(head_size) + "_" + std::to_string(sizeof(Number));
    write("attention_" + name, out);
    write("keys_" + name, keys);
    write("values_" + name, values);
}

void write_rows(const cpu::Kernels &kernels) {
    for (int width : {1, 60, 768}) {
        const std::vector<float> x = floats(width, -3.0f, 5.0f), weight = floats(width, -1.0f, 1.0f);
        const std::vector<float> bias = floats(width, -1.0f, 1.0f);
        std::vector<float> out(width);
        kernels.layer_norm(x.data(), weight.data(), bias.data(), width, out.data());
        write("layer_norm_" + std::to_string(width), out);
    }
    for (int block : {32, 64}) {
        constexpr int blocks = 6;
        std::vector<float> x = floats(blocks * block, -4.0f, 4.0f), scales(blocks);
        for (int i = 0; i < block; i++) {
            x[i] = 0.0f;
            x[block + i] *= 1e-38f;               // sums of these are no normal numbers
            x[2 * block + i] = float(i) - 15.5f;  // many halves between two whole numbers
        }
        x[2 * block] = 127.0f;
        std::vector<int8_t> q(x.size());
        std::vector<int32_t> sums(blocks);
        kernels.quantize_row(x.data(), blocks, block, q.data(), scales.data(), sums.data());
        write("quantize_row_" + std::to_string(block), q);
        write("quantize_row_" + std::to_string(block) + "_scales", scales);
        write("quantize_row_" + std::to_string(block) + "_sums", sums);
    }
}

void write_pictures_rows(const cpu::RowKernels &kernels) {
    for (int columns : {1, 37}) {
        const std::vector<float> x = floats(size_t(columns) * cpu::kBlock, 0.9f, 1.1f);
        std::vector<float> found(cpu::kMoments);
        kernels.moments({x.data(), columns, found.data()});
        write("moments_" + std::to_string(columns), found);
    }
    for (int keys : {1, 16, 70}) {
        std::vector<float> scores = floats(80, -60.0f, 60.0f);
        kernels.softmax({scores.data(), cpu::kBlock, keys, 0.75f});
        scores.resize((keys + 15) / 16 * 16);
        write("softmax_" + std::to_string(keys), scores);
    }
}

struct Layer {
    cpu::Network &network;
    int next = 0;

    int conv(int outputs, int inputs, int side, cpu::ConvMode mode) {
        const float size = 1.0f / float(inputs);
        const std::vector<float> weights = floats(size_t(outputs) * inputs * side * side, -size, size);
        const std::vector<float> bias = floats(outputs, -0.5f, 0.5f);
        require(network.add_conv({outputs, inputs, side, mode}, weights.data(), bias.data()), "a convolution");
        return next++;
    }
};

void run_network(const std::string &name, cpu::Network &network, int channels, int height, int width, int out_channels,
                 int out_height, int out_width) {
    const std::vector<float> in = floats(size_t(channels) * height * width, -1.0f, 1.0f);
    std::vector<float> out(size_t(out_channels) * out_height * out_width);
    require(network.run(in.data(), channels, height, width, out.data()), "a network");
    write(name, out);
}

void write_convolutions(const cpu::ConvChoice &choice) {
    constexpr int inputs = 24, height = 18, width = 22;
    for (int outputs : {3, 48})
        for (int mode = 0; mode < 3; mode++)
            for (int side : {1, 3}) {
                if (side == 1 && mode != cpu::kSame) continue;
                cpu::Network network(2, *choice.convs, *choice.floats, *choice.rows);
                Layer layer{network};
                const int conv = layer.conv(outputs, inputs, side, cpu::ConvMode(mode));
                network.add_step({cpu::kConvolve, 0, 1, conv, -1, 0, -1, -1, -1});
                const int times = mode == cpu::kDouble ? 2 : 1, parts = mode == cpu::kHalve ? 2 : 1;
                run_network("conv_mode" + std::to_string(mode) + "_side" + std::to_string(side) + "_outputs" +
                                std::to_string(outputs),
                            network, inputs, height, width, outputs, height * times / parts, width * times / parts);
            }
}

// A residual block, attention, a smaller picture and a larger one.
void write_network(const cpu::ConvChoice &choice) {
    constexpr int channels = 64, height = 14, width = 10;
    cpu::Network network(2, *choice.convs, *choice.floats, *choice.rows);
    Layer layer{network};
    const int first = layer.conv(channels, 3, 3, cpu::kSame), same = layer.conv(channels, channels, 3, cpu::kSame);
    const int query = layer.conv(channels, channels, 1, cpu::kSame),
              key = layer.conv(channels, channels, 1, cpu::kSame);
    const int value = layer.conv(channels, channels, 1, cpu::kSame), last = layer.conv(3, channels, 3, cpu::kSame);
    const int halve = layer.conv(channels, channels, 3, cpu::kHalve);
    const int twice = layer.conv(channels, channels, 3, cpu::kDouble);
    const std::vector<float> weight = floats(channels, 0.5f, 1.5f), bias = floats(channels, -0.5f, 0.5f);
    network.add_norm(channels, weight.data(), bias.data());
    const cpu::Step steps[] = {
        {cpu::kConvolve, 0, 1, first, -1, 0, -1, -1, -1}, {cpu::kConvolve, 1, 2, same, 0, 1, -1, -1, -1},
        {cpu::kConvolve, 2, 3, same, 0, 1, 1, -1, -1},    {cpu::kConvolve, 3, 4, query, 0, 0, -1, -1, -1},
        {cpu::kConvolve, 3, 5, key, 0, 0, -1, -1, -1},    {cpu::kConvolve, 3, 6, value, 0, 0, -1, -1, -1},
        {cpu::kAttend, 4, 7, -1, -1, 0, -1, 5, 6},        {cpu::kConvolve, 7, 8, halve, 0, 1, -1, -1, -1},
        {cpu::kConvolve, 8, 9, twice, 0, 1, -1, -1, -1},  {cpu::kShrink, 9, 10, -1, -1, 0, -1, -1, -1},
        {cpu::kRepeat, 10, 11, -1, -1, 0, -1, -1, -1},    {cpu::kConvolve, 11, 12, last, 0, 1, -1, -1, -1},
    };
    for (const cpu::Step &step : steps) network.add_step(step);
    run_network("network", network, 3, height, width, 3, height, width);
}

void write_transformer(const cpu::Kernels &kernels, int bits) {
    constexpr int vocabulary = 50, positions = 40, layers = 2, heads = 3, width = 72, block = 32;
    constexpr int batch = 3, tokens = 30, capacity = 64, value_stride = 32, head_size = width / heads;
    cpu::Transformer model({vocabulary, positions, layers, heads, width}, 2, kernels);
    const int shapes[4][2] = {{3 * width, width}, {width, width}, {4 * width, width}, {width, 4 * width}};
    std::vector<Weights> matrices;
    for (int i = 0; i < layers; i++)
        for (const auto &shape : shapes) matrices.emplace_back(shape[0], shape[1], bits, block);
    matrices.emplace_back(vocabulary, width, bits, block);
    size_t bytes = 0;
    for (const Weights &m : matrices) bytes += cpu::packed_bytes(m.stored.outputs, m.stored.inputs, bits, block) + 64;
    require(model.reserve(bytes), "memory");
    for (size_t i = 0; i < matrices.size(); i++)
        require(model.pack(int(i), matrices[i].stored, floats(4 * width, -0.1f, 0.1f).data()), "packing");
    for (int i = 0; i <= 2 * layers; i++) {
        const std::vector<float> weight = floats(width, 0.5f, 1.5f), bias = floats(width, -0.1f, 0.1f);
        model.set_norm(i, weight.data(), bias.data());
    }
    const std::vector<float> places = floats(positions * width, -1.0f, 1.0f);
    std::vector<int8_t> codes(vocabulary * width);
    for (int8_t &c : codes) c = int8_t(random_bits() >> 24);
    const std::vector<uint16_t> scales(vocabulary, 0x2000);
    model.set_table(0, {nullptr, codes.data(), scales.data()});
    model.set_table(1, {places.data(), nullptr, nullptr});
    const int number_bytes = bits == 32 ? 4 : 2;
    const size_t cached = size_t(layers) * batch * heads * capacity * number_bytes;
    std::vector<uint8_t> keys(cached * head_size), values(cached * value_stride);
    std::vector<float> logits(size_t(batch) * tokens * vocabulary), step(size_t(batch) * vocabulary);
    std::vector<int64_t> ids(batch * tokens), starts(batch, 0), indices(tokens);
    for (int64_t &id : ids) id = random_bits() % vocabulary;
    for (int t = 0; t < tokens; t++) indices[t] = t;
    model.run({batch, tokens, 4, tokens, ids.data(), starts.data(), indices.data(), keys.data(), values.data(),
               capacity, batch, number_bytes, logits.data()});
    starts.assign(batch, tokens);
    model.run({batch, 1, 4, 1, ids.data(), starts.data(), indices.data(), keys.data(), values.data(), capacity, batch,
               number_bytes, step.data()});
    write("transformer_bits" + std::to_string(bits), logits);
    write("transformer_bits" + std::to_string(bits) + "_step", step);
}

void write_draws() {
    constexpr int rows = 40, codes = 1000;
    const std::vector<float> logits = floats(size_t(rows) * codes, -8.0f, 8.0f);
    std::vector<uint64_t> random(rows);
    for (uint64_t &r : random) r = uint64_t(random_bits()) << 32 | random_bits();
    void *sampler = sampler_choose(instructions.c_str());
    require(sampler, "choosing a sampler");
    for (int top_k : {1, 20, codes})
        for (float top_p : {0.5f, 1.0f}) {
            std::vector<int64_t> drawn(rows);
            cpu::DrawTask task{};
            task.logits = logits.data();
            task.rows = rows;
            task.codes = task.row_stride = codes;
            task.random = random.data();
            task.random_stride = 1;
            task.top_k = top_k;
            task.rate = 1.442695f;
            task.top_p = top_p;
            task.drawn = drawn.data();
            require(sampler_draw(sampler, &task) == cpu::kAllDrawn, "drawing");
            write("draws_k" + std::to_string(top_k) + (top_p < 1.0f ? "_p" : ""), drawn);
        }
}

}  // namespace

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: neon_check INSTRUCTIONS FOLDER\n");
        return 2;
    }
    instructions = arguments[1];
    folder = arguments[2];
    const cpu::Kernels *kernels = cpu::choose(instructions.c_str());
    const cpu::ConvChoice choice = cpu::choose_conv(instructions.c_str(), false);
    if (!kernels || !choice.convs) return 3;
    printf("%s, %s\n", kernels->name, choice.convs->name);
    write_panels(*kernels, 32, 32, 600);
    for (int bits : {8, 4})
        for (int block : {32, 64}) write_panels(*kernels, bits, block, 1100);
    for (int head_size : {24, 64, 104}) {
        write_attention<float>(*kernels, head_size);
        write_attention<uint16_t>(*kernels, head_size);
    }
    write_rows(*kernels);
    write_pictures_rows(*choice.rows);
    write_convolutions(choice);
    write_network(choice);
    for (int bits : {32, 8, 4}) write_transformer(*kernels, bits);
    write_draws();
    return 0;
}
