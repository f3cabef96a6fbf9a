// What a host asks for and gets: the arguments of `Pipeline.generate` (runtime/pipeline.py says what each is).
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "arrays.hpp"

namespace trt_vqgan {

struct Progress {
    std::int64_t done_codes = 0;
    std::int64_t total_codes = 0;
    std::int64_t pictures_done = 0;
};

// A picture while it is made: codes (h, w), -1 where none is drawn yet; image (H, W, C), grey there.
struct Preview {
    std::int64_t picture = 0;
    std::int64_t done_codes = 0;
    View<std::int64_t> codes;
    View<std::uint8_t> image;
};

using ClassId = std::variant<std::int64_t, std::string>;
using Pixels = std::variant<Input<std::uint8_t>, Input<float>>;  // (B, H, W, C), or (B, C, H, W) in [-1, 1]
using Labels = std::variant<Input<std::uint8_t>, Input<std::int32_t>, Input<std::int64_t>>;

struct Request {
    std::optional<std::int64_t> n;
    std::uint64_t seed = 0;

    // the condition: at most one of these
    std::vector<ClassId> class_id;
    std::optional<Input<std::int64_t>> condition_codes;
    std::optional<Input<float>> depth;
    std::optional<Labels> segmentation;
    std::optional<Input<float>> coordinates;
    std::optional<std::string> layout;  // JSON
    std::optional<Pixels> image;
    bool shift_labels = false;
    std::string fit = "crop";

    // what stays of a picture
    std::optional<Input<std::uint8_t>> init;
    std::optional<Input<std::uint8_t>> keep;  // not 0 where it stays
    std::optional<Input<std::int64_t>> kept_codes;
    std::optional<double> resample;
    bool paste = false;

    // how codes are drawn; the bundle's defaults where nothing is said
    std::optional<double> guidance;
    std::optional<double> temperature;
    std::optional<std::int64_t> top_k;
    std::optional<double> top_p;
    bool greedy = false;

    std::optional<std::int64_t> batch_size;
    std::int64_t first_picture = 0;

    // Called on the thread that generates, without the interpreter lock; false cancels. What they throw leaves
    // `generate` as it is.
    std::function<bool(const Progress &)> on_progress;
    std::function<bool(const Preview &)> on_preview;
    std::optional<std::int64_t> preview_every;

    // pictures larger than the training size
    std::optional<std::array<std::int64_t, 2>> size;  // width, height
    std::string window_plan = "exact";
    std::int64_t window_shift = 1;
    std::optional<std::int64_t> memory_bytes;
    bool decode_tiles = false;
};

struct Result {
    View<std::uint8_t> images;  // (N, H, W, C)
    View<std::int64_t> codes;   // (N, h, w)
    std::optional<View<std::int64_t>> classes;
};

}  // namespace trt_vqgan
