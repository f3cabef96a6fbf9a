// A request as the arguments of `Pipeline.generate`.
#pragma once

#include <exception>
#include <optional>
#include <string>
#include <variant>

#include "../request.hpp"
#include "python.hpp"

namespace trt_vqgan::detail {

template <class... Kinds>
py::object lend_any(const std::variant<Kinds...> &array) {
    return std::visit([](const auto &kind) { return lend(kind); }, array);
}

template <class T>
void set(py::dict &arguments, const char *name, const std::optional<T> &value) {
    if (value) arguments[name] = py::cast(*value);
}

template <class T>
void set(py::dict &arguments, const char *name, const std::optional<Input<T>> &value) {
    if (value) arguments[name] = lend(*value);
}

template <class... Kinds>
void set(py::dict &arguments, const char *name, const std::optional<std::variant<Kinds...>> &value) {
    if (value) arguments[name] = lend_any(*value);
}

// Returns what a callback says with the interpreter lock given back; what it throws is kept in `failure`, and cancels.
template <class Event>
bool ask(const std::function<bool(const Event &)> &callback, const Event &event, std::exception_ptr &failure) {
    const py::gil_scoped_release unlocked;
    try {
        return callback(event);
    } catch (...) {
        failure = std::current_exception();
        return false;
    }
}

inline py::object progress_function(const Request &request, std::exception_ptr &failure) {
    return py::cpp_function([&](const py::object &progress) {
        return ask(request.on_progress,
                   Progress{progress.attr("done_codes").cast<std::int64_t>(),
                            progress.attr("total_codes").cast<std::int64_t>(),
                            progress.attr("pictures_done").cast<std::int64_t>()},
                   failure);
    });
}

inline py::object preview_function(const Request &request, std::exception_ptr &failure) {
    return py::cpp_function([&](const py::object &preview) {
        return ask(
            request.on_preview,
            Preview{preview.attr("picture").cast<std::int64_t>(), preview.attr("done_codes").cast<std::int64_t>(),
                    view_of<std::int64_t>(preview.attr("codes")), view_of<std::uint8_t>(preview.attr("image"))},
            failure);
    });
}

inline py::object class_list(const std::vector<ClassId> &classes) {
    py::list list;
    for (const ClassId &one : classes) std::visit([&](const auto &id) { list.append(id); }, one);
    return list;
}

inline py::dict arguments(const Request &request, std::exception_ptr &failure) {
    py::dict found;
    set(found, "n", request.n);
    found["seed"] = request.seed;
    if (!request.class_id.empty()) found["class_id"] = class_list(request.class_id);
    set(found, "condition_codes", request.condition_codes);
    set(found, "depth", request.depth);
    set(found, "segmentation", request.segmentation);
    set(found, "coordinates", request.coordinates);
    if (request.layout) found["layout"] = py::module_::import("json").attr("loads")(*request.layout);
    set(found, "image", request.image);
    found["shift_labels"] = request.shift_labels;
    found["fit"] = request.fit;
    set(found, "init", request.init);
    if (request.keep) {
        const py::object mask = py::module_::import("numpy").attr("asarray")(lend(*request.keep));
        found["keep"] = mask.attr("astype")("bool");
    }
    set(found, "kept_codes", request.kept_codes);
    set(found, "resample", request.resample);
    found["paste"] = request.paste;
    set(found, "guidance", request.guidance);
    set(found, "temperature", request.temperature);
    set(found, "top_k", request.top_k);
    set(found, "top_p", request.top_p);
    found["greedy"] = request.greedy;
    set(found, "batch_size", request.batch_size);
    found["first_picture"] = request.first_picture;
    if (request.on_progress) found["on_progress"] = progress_function(request, failure);
    if (request.on_preview) found["on_preview"] = preview_function(request, failure);
    set(found, "preview_every", request.preview_every);
    if (request.size) found["size"] = py::make_tuple((*request.size)[0], (*request.size)[1]);
    found["window_plan"] = request.window_plan;
    found["window_shift"] = request.window_shift;
    set(found, "memory_bytes", request.memory_bytes);
    found["decode_tiles"] = request.decode_tiles;
    return found;
}

}  // namespace trt_vqgan::detail
