// Cases of the C++ header that the example doesn't show: `cases NAME BUNDLE`. A failure is a line and status 1.
#include <cstdio>
#include <cstring>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <trt_vqgan/host.hpp>

std::size_t size_in_second_unit(const trt_vqgan::Result &result);

namespace {

namespace py = pybind11;
using trt_vqgan::Input;
using trt_vqgan::Pipeline;
using trt_vqgan::Request;
using trt_vqgan::Runtime;

void check(bool holds, const char *what, int line) {
    if (!holds) throw std::runtime_error("line " + std::to_string(line) + ": " + what);
}
#define CHECK(condition) check(condition, #condition, __LINE__)

template <class E, class Body>
std::string thrown(Body body) {
    try {
        body();
    } catch (const E &error) {
        return error.what();
    }
    throw std::runtime_error("nothing was thrown");
}

bool has(const std::string &text, const char *part) {
    return text.find(part) != std::string::npos;
}

template <class T>
std::vector<T> values(const trt_vqgan::View<T> &view) {
    return {view.begin(), view.end()};
}

Pipeline open(const std::string &bundle) {
    trt_vqgan::LoadOptions options;
    options.backend = "onnxruntime";
    options.device = "cpu";
    options.threads = 1;
    return Pipeline::open(bundle, options);
}

Request one_picture(std::uint64_t seed) {
    Request request;
    request.n = 1;
    request.seed = seed;
    return request;
}

void errors(const std::string &bundle) {
    CHECK(has(thrown<trt_vqgan::Error>([] { Pipeline::open("x"); }), "keep a trt_vqgan::Runtime"));
    Runtime runtime;
    CHECK(has(thrown<trt_vqgan::BundleError>([] { Pipeline::open("no/such/bundle"); }), "no/such/bundle"));
    const auto no_backend = [&] {
        trt_vqgan::LoadOptions options;
        options.backend = "abacus";
        Pipeline::open(bundle, options);
    };
    CHECK(has(thrown<trt_vqgan::BackendUnavailableError>(no_backend), "abacus"));
    const auto stream_on_cpu = [&] {
        trt_vqgan::LoadOptions options;
        options.device = "cpu";
        options.stream = nullptr;  // CUDA's default stream
        Pipeline::open(bundle, options);
    };
    CHECK(has(thrown<trt_vqgan::BackendUnavailableError>(stream_on_cpu), "which has no streams"));
    const Pipeline pipeline = open(bundle);
    const std::vector<std::int64_t> codes(4, -1);
    CHECK(thrown<trt_vqgan::ShapeError>([&] { pipeline.decode({codes.data(), {1, 2, 2}}); }) ==
          "decode: found codes from -1 to -1, wanted 0 to " + std::to_string(pipeline.info().codebook_size - 1));
    Request request = one_picture(0);
    request.class_id = {std::string("moon")};
    CHECK(has(thrown<trt_vqgan::ConditionError>([&] { pipeline.generate(request); }), "class 'moon' is unknown"));
    const auto disk_full = [] { trt_vqgan::detail::with_python([] { py::exec("raise OSError(28, 'no space')"); }); };
    CHECK(thrown<trt_vqgan::OtherError>(disk_full) == "OSError: [Errno 28] no space");
    request = one_picture(0);
    request.on_progress = [](const trt_vqgan::Progress &) -> bool { throw std::logic_error("the host's own"); };
    CHECK(thrown<std::logic_error>([&] { pipeline.generate(request); }) == "the host's own");
    pipeline.close();
    CHECK(has(thrown<trt_vqgan::BundleError>([&] { pipeline.generate(one_picture(0)); }), "closed"));
}

void views(const std::string &bundle) {
    {
        Runtime runtime, another;
        const std::vector<double> numbers(3);
        trt_vqgan::detail::with_python([] {
            const py::object array = py::module_::import("numpy").attr("arange")(6);
            const auto view = trt_vqgan::detail::view_of<std::int64_t>(array);
            CHECK(reinterpret_cast<std::uintptr_t>(view.data()) ==
                  array.attr("ctypes").attr("data").cast<std::uintptr_t>());
            CHECK(has(thrown<trt_vqgan::Error>([&] { trt_vqgan::detail::view_of<float>(array); }), "format"));
        });
        CHECK(trt_vqgan::detail::held_objects() == 0);
        trt_vqgan::View<std::uint8_t> picture;
        std::vector<std::uint8_t> before;
        {
            const Pipeline pipeline = open(bundle), copy = pipeline;
            Request request = one_picture(3);
            request.n = 2;
            trt_vqgan::Result result = copy.generate(request);
            CHECK(size_in_second_unit(result) == result.codes.size() && result.codes.size() > 0);
            CHECK(result.classes && result.classes->size() == 2 && (*result.classes)[1] == 1);
            picture = result.images.part(1);
            CHECK(picture.data() == result.images.data() + result.images.size() / 2);
            before = values(picture);
        }
        CHECK(trt_vqgan::detail::held_objects() == 1);  // pipeline and result are gone, the picture stays
        CHECK(values(picture) == before && !before.empty());
        std::thread([last = std::move(picture)] { CHECK(last.size() > 0); }).join();
        CHECK(trt_vqgan::detail::held_objects() == 0);
    }
    CHECK(!Py_IsInitialized());
    CHECK(has(thrown<trt_vqgan::Error>([] { Runtime again; }), "has ended"));
}

// What still is held keeps the interpreter, and another Runtime finds it.
void held_longer(const std::string &bundle) {
    auto runtime = std::make_unique<Runtime>();
    trt_vqgan::Result result = open(bundle).generate(one_picture(0));
    runtime.reset();
    CHECK(Py_IsInitialized());
    const Runtime again;
    CHECK(values(open(bundle).generate(one_picture(0)).codes) == values(result.codes));
}

// A host that is a Python program already: its interpreter is used and left alone.
void existing_interpreter(const std::string &bundle) {
    const py::scoped_interpreter own;
    py::list path = py::module_::import("sys").attr("path");
    {
        const Runtime runtime({"", {}});
        const auto here = open(bundle).generate(one_picture(5));  // with the interpreter lock held
        std::vector<std::int64_t> there;
        {
            const py::gil_scoped_release unlocked;
            std::thread([&] { there = values(open(bundle).generate(one_picture(5)).codes); }).join();
        }
        CHECK(values(here.codes) == there);
    }
    CHECK(Py_IsInitialized());
    CHECK(py::eval("1 + 1").cast<int>() == 2);
}

// Each argument arrives: a request and another one that must give the same, or a value that shows.
void requests(const std::string &bundle) {
    const Runtime runtime;
    const Pipeline pipeline = open(bundle);
    const trt_vqgan::ModelInfo info = pipeline.info();
    CHECK(info.backend == "onnxruntime" && info.bundle_id.size() == 16 && info.channels == 3);
    const std::int64_t side = info.resolution, grid = side / info.factor;

    Request request = one_picture(1);
    request.class_id = {std::int64_t{2}, std::string("0")};
    request.n.reset();
    const auto plain = pipeline.generate(request);
    CHECK(plain.codes.shape() == (trt_vqgan::Shape{2, grid, grid}));
    CHECK(values(*plain.classes) == (std::vector<std::int64_t>{2, 0}));

    const std::int64_t tokens[] = {2, 0};
    Request same = one_picture(1);
    same.n = 2;
    same.condition_codes = Input<std::int64_t>{tokens, {2, 1}};
    same.batch_size = 1;
    CHECK(values(pipeline.generate(same).codes) == values(plain.codes));

    same.n = 1;
    same.first_picture = 1;
    same.condition_codes = Input<std::int64_t>{tokens + 1, {1, 1}};
    CHECK(values(pipeline.generate(same).codes) == values(plain.codes.part(1)));

    same.top_k = 1;
    Request greedy = same;
    greedy.top_k.reset();
    greedy.greedy = true;
    greedy.temperature = 0.5;
    greedy.top_p = 0.9;
    CHECK(values(pipeline.generate(greedy).codes) == values(pipeline.generate(same).codes));

    // the left half stays
    std::vector<std::int64_t> kept = values(plain.codes.part(0));
    for (std::int64_t i = 0; i < grid * grid; i++)
        if (i % grid >= grid / 2) kept[i] = -1;
    Request half = one_picture(7);
    half.kept_codes = Input<std::int64_t>{kept.data(), {grid, grid}};
    const auto completed = pipeline.generate(half);
    for (std::int64_t i = 0; i < grid * grid; i++) CHECK(kept[i] < 0 || completed.codes[i] == kept[i]);

    const auto picture = plain.images.part(0);
    std::vector<std::uint8_t> mask(side * side, 0);
    for (std::int64_t y = 0; y < side; y++) std::memset(&mask[y * side], 7, side / 2);
    Request edit = one_picture(7);
    edit.init = picture;
    edit.keep = Input<std::uint8_t>{mask.data(), {side, side}};
    edit.paste = true;
    const auto pasted = pipeline.generate(edit);
    CHECK(std::memcmp(pasted.images.data(), picture.data(), 3 * 4) == 0);  // beyond the seam
    edit.resample = 0.3;
    CHECK(values(pipeline.generate(edit).codes) != values(pasted.codes));

    std::vector<std::int64_t> seen;
    Request watched = one_picture(1);
    watched.class_id = {std::int64_t{2}};
    watched.preview_every = grid * grid / 2;
    watched.on_preview = [&](const trt_vqgan::Preview &preview) {
        CHECK(preview.image.size() == static_cast<std::size_t>(side * side * 3) && preview.codes.size() > 0);
        seen.push_back(preview.done_codes);
        return true;
    };
    std::int64_t done = 0;
    watched.on_progress = [&](const trt_vqgan::Progress &progress) {
        done = progress.done_codes;
        CHECK(progress.total_codes == grid * grid);
        return true;
    };
    CHECK(values(pipeline.generate(watched).codes) == values(plain.codes.part(0)));
    CHECK(done == grid * grid && !seen.empty() && seen[0] == grid * grid / 2);

    Request wide = one_picture(1);
    wide.size = {2 * side, side};
    wide.window_plan = "plain";
    wide.window_shift = grid / 2;
    wide.memory_bytes = std::int64_t{1} << 30;
    wide.decode_tiles = true;
    CHECK(pipeline.generate(wide).images.shape() == (trt_vqgan::Shape{1, side, 2 * side, 3}));

    // memory of the host's
    const auto codes = pipeline.encode(Input<std::uint8_t>(plain.images));
    std::vector<std::int64_t> own(codes.size());
    pipeline.encode(Input<std::uint8_t>(plain.images), {own.data(), codes.shape()});
    CHECK(own == values(codes));
    const auto decoded = pipeline.decode(codes);
    std::vector<std::uint8_t> pixels(decoded.size());
    pipeline.decode(codes, {pixels.data(), decoded.shape()}, true);
    CHECK(pixels == values(decoded));  // a picture of one tile
    std::vector<float> floats(static_cast<std::size_t>(3 * side * side), 0.25f);
    CHECK(pipeline.encode(Input<float>{floats.data(), {1, 3, side, side}}).size() ==
          static_cast<std::size_t>(grid * grid));
}

// The refusals name what was given, so it arrived.
void foreign_conditions(const std::string &bundle) {
    const Runtime runtime;
    const Pipeline pipeline = open(bundle);
    const std::vector<float> map(16, 0.5f);
    const std::vector<std::uint8_t> labels(16, 1);
    const auto refusal = [&](const Request &request) {
        return thrown<trt_vqgan::Error>([&] { pipeline.generate(request); });
    };
    Request request = one_picture(0);
    request.depth = Input<float>{map.data(), {4, 4}};
    CHECK(has(refusal(request), "takes no depth"));
    request = one_picture(0);
    request.segmentation = Input<std::uint8_t>{labels.data(), {4, 4}};
    CHECK(has(refusal(request), "takes no segmentation"));
    request = one_picture(0);
    request.coordinates = Input<float>{map.data(), {1, 1, 4, 4}};
    CHECK(has(refusal(request), "takes no coordinates"));
    request = one_picture(0);
    request.layout = "[]";
    CHECK(has(refusal(request), "takes no layout"));
    request = one_picture(0);
    request.image = Input<std::uint8_t>{labels.data(), {1, 2, 2, 3}};
    CHECK(has(refusal(request), "takes no image"));
    request = one_picture(0);
    request.class_id = {std::int64_t{0}};
    request.shift_labels = true;
    CHECK(has(refusal(request), "shift_labels"));
    request = one_picture(0);
    request.fit = "squeeze";
    CHECK(has(refusal(request), "squeeze"));
    request = one_picture(0);
    request.guidance = -1;
    CHECK(has(refusal(request), "guidance"));
}

}  // namespace

int main(int argc, char **argv) {
    const std::map<std::string, void (*)(const std::string &)> all = {
        {"errors", errors},
        {"views", views},
        {"held_longer", held_longer},
        {"requests", requests},
        {"foreign_conditions", foreign_conditions},
        {"existing_interpreter", existing_interpreter},
    };
    if (argc != 3 || !all.count(argv[1])) return 2;
    try {
        all.at(argv[1])(argv[2]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s: %s\n", argv[1], error.what());
        return 1;
    }
    return 0;
}
