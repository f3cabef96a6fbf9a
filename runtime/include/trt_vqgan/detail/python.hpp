// Everything that touches Python objects; nothing in here is for hosts.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include <pybind11/embed.h>
#include <pybind11/numpy.h>

#include "../arrays.hpp"
#include "../errors.hpp"

namespace trt_vqgan::detail {

namespace py = pybind11;

// Python objects that hosts hold, all of them together: an interpreter that still has some may not end.
inline std::atomic<long> &held_objects() {
    static std::atomic<long> number{0};
    return number;
}

[[noreturn]] inline void rethrow(py::error_already_set &raised) {
    const std::string text = py::str(raised.value());
    for (py::handle kind : py::type::of(raised.value()).attr("__mro__")) {
        if (std::string(py::str(kind.attr("__module__"))) != "trt_vqgan.errors") continue;
        const std::string name = py::str(kind.attr("__name__"));
#define TRT_VQGAN_THROW(error) \
    if (name == #error) throw error(text);
        TRT_VQGAN_EACH_ERROR(TRT_VQGAN_THROW)
#undef TRT_VQGAN_THROW
        throw Error(text);
    }
    throw OtherError(std::string(py::str(raised.type().attr("__name__"))) + ": " + text);
}

// Returns what `body` returns, with the interpreter lock held meanwhile; Python's exceptions leave as ours. No Python
// object may leave: the lock is given back before the caller has it.
template <class Body>
auto with_python(Body body) {
    if (!Py_IsInitialized())
        throw Error("no interpreter is running: keep a trt_vqgan::Runtime while you use pipelines");
    const py::gil_scoped_acquire lock;
    try {
        return body();
    } catch (py::error_already_set &raised) {
        rethrow(raised);
    }
}

// Returns an owner of an object, to be dropped on any thread and without the lock. `last` is called before, with it.
inline std::shared_ptr<void> keep(py::object object, const char *last = nullptr) {
    held_objects()++;
    return std::shared_ptr<void>(object.release().ptr(), [last](void *kept) {
        // an interpreter of the host's own may be gone by now, and all its memory with it
        if (Py_IsInitialized()) {
            const py::gil_scoped_acquire lock;
            const py::object object = py::reinterpret_steal<py::object>(static_cast<PyObject *>(kept));
            if (last) {
                try {
                    object.attr(last)();
                } catch (py::error_already_set &raised) {
                    raised.discard_as_unraisable(last);
                }
            }
        }
        held_objects()--;
    });
}

inline py::object object_of(const std::shared_ptr<void> &owner) {
    return py::reinterpret_borrow<py::object>(static_cast<PyObject *>(owner.get()));
}

template <class T>
std::vector<py::ssize_t> strides_of(const Shape &shape) {
    std::vector<py::ssize_t> strides(shape.size());
    py::ssize_t step = sizeof(T);
    for (std::size_t i = shape.size(); i-- > 0; step *= static_cast<py::ssize_t>(shape[i])) strides[i] = step;
    return strides;
}

template <class T>
py::object lend(const Input<T> &array) {
    return py::memoryview::from_buffer(array.data, array.shape, strides_of<T>(array.shape));
}

template <class T>
py::object lend(const Output<T> &array) {
    return py::memoryview::from_buffer(array.data, array.shape, strides_of<T>(array.shape));
}

// Returns a view of a NumPy array's memory.
template <class T>
View<T> view_of(py::handle array) {
    // the array itself where it is contiguous, as results are
    py::object whole = py::module_::import("numpy").attr("ascontiguousarray")(array);
    const auto content = py::reinterpret_borrow<py::buffer>(whole).request();
    if (!content.item_type_is_equivalent_to<T>())
        throw Error("found an array of the format '" + content.format + "' where the header expects another");
    return View<T>(keep(std::move(whole)), static_cast<const T *>(content.ptr),
                   Shape(content.shape.begin(), content.shape.end()));
}

}  // namespace trt_vqgan::detail
