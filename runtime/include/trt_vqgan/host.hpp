// Pictures in a C++ program: a bundle opened, pictures generated, encoded and decoded. docs/embedding.md explains.
//
//     trt_vqgan::Runtime runtime;
//     auto pipeline = trt_vqgan::Pipeline::open("bundle");
//     trt_vqgan::Request request;
//     request.n = 4;
//     trt_vqgan::Result result = pipeline.generate(request);  // result.images: uint8 (N, H, W, C)
#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "detail/arguments.hpp"
#include "detail/python.hpp"
#include "errors.hpp"
#include "request.hpp"
#include "runtime.hpp"

namespace trt_vqgan {

// As of `trt_vqgan.load`.
struct LoadOptions {
    std::string backend = "auto";
    std::optional<std::string> device;
    std::optional<int> threads;
    bool deterministic = false;
    std::optional<std::string> picture_precision;
    std::optional<void *> stream;  // on a GPU, a cudaStream_t of the host's, whose order is kept
};

// What a bundle is, and what runs it.
struct ModelInfo {
    std::int64_t resolution = 0;  // side of the training pictures, pixels
    std::int64_t factor = 0;      // pixels a code, along a side
    std::int64_t channels = 0;
    std::int64_t codebook_size = 0;
    std::string backend;  // for people: backend_details
    std::string backend_details;
    std::string bundle_id;
    std::string precision;
};

// An opened bundle. Copies share it; the last one closes it. All methods may be called from many threads at once, and
// the interpreter lock is not held while kernels run. The native backend runs the steps of one pipeline in turn.
class Pipeline {
  public:
    // An empty path opens the model that ships with the package.
    static Pipeline open(const std::string &bundle, const LoadOptions &options = {}) {
        return detail::with_python([&] {
            pybind11::dict keywords;
            keywords["backend"] = options.backend;
            if (options.device) keywords["device"] = *options.device;
            if (options.threads) keywords["threads"] = *options.threads;
            keywords["deterministic"] = options.deterministic;
            if (options.picture_precision) keywords["picture_precision"] = *options.picture_precision;
            if (options.stream) keywords["stream"] = reinterpret_cast<std::uintptr_t>(*options.stream);
            const auto path =
                bundle.empty() ? pybind11::object(pybind11::none()) : pybind11::object(pybind11::str(bundle));
            return Pipeline(
                detail::keep(pybind11::module_::import("trt_vqgan").attr("load")(path, **keywords), "close"));
        });
    }

    Result generate(const Request &request) const {
        std::exception_ptr failure;  // what a callback threw
        try {
            return detail::with_python([&] {
                const auto made = object().attr("generate")(**detail::arguments(request, failure));
                Result result{detail::view_of<std::uint8_t>(made.attr("images")),
                              detail::view_of<std::int64_t>(made.attr("codes")), std::nullopt};
                if (!made.attr("classes").is_none())
                    result.classes = detail::view_of<std::int64_t>(made.attr("classes"));
                return result;
            });
        } catch (const Cancelled &) {
            if (failure) std::rethrow_exception(failure);
            throw;
        }
    }

    // Codes (B, h, w) of pictures.
    View<std::int64_t> encode(const Pixels &images) const {
        return detail::with_python(
            [&] { return detail::view_of<std::int64_t>(object().attr("encode")(detail::lend_any(images))); });
    }

    void encode(const Pixels &images, const Output<std::int64_t> &codes) const {
        detail::with_python([&] {
            pybind11::dict keywords;
            keywords["out"] = detail::lend(codes);
            object().attr("encode")(detail::lend_any(images), **keywords);
        });
    }

    // Pictures (B, H, W, C) of codes (B, h, w). Tiles bound memory, for nearly the same pixels.
    View<std::uint8_t> decode(const Input<std::int64_t> &codes, bool tiles = false) const {
        return detail::with_python([&] {
            pybind11::dict keywords;
            keywords["tiles"] = tiles;
            return detail::view_of<std::uint8_t>(object().attr("decode")(detail::lend(codes), **keywords));
        });
    }

    void decode(const Input<std::int64_t> &codes, const Output<std::uint8_t> &images, bool tiles = false) const {
        detail::with_python([&] {
            pybind11::dict keywords;
            keywords["tiles"] = tiles;
            keywords["out"] = detail::lend(images);
            object().attr("decode")(detail::lend(codes), **keywords);
        });
    }

    ModelInfo info() const {
        return detail::with_python([&] {
            const auto pipe = object();
            const auto spec = pipe.attr("spec").attr("autoencoder");
            return ModelInfo{
                spec.attr("resolution").cast<std::int64_t>(),   spec.attr("factor").cast<std::int64_t>(),
                spec.attr("out_channels").cast<std::int64_t>(), spec.attr("codebook_size").cast<std::int64_t>(),
                pipe.attr("backend").cast<std::string>(),       pipe.attr("backend_details").cast<std::string>(),
                pipe.attr("bundle_id").cast<std::string>(),     pipe.attr("precision").cast<std::string>(),
            };
        });
    }

    // Releases sessions and weights now, for all copies; every later call throws BundleError.
    void close() const {
        detail::with_python([&] { object().attr("close")(); });
    }

  private:
    explicit Pipeline(std::shared_ptr<void> owner) : owner_(std::move(owner)) {}

    pybind11::object object() const { return detail::object_of(owner_); }

    std::shared_ptr<void> owner_;
};

}  // namespace trt_vqgan
