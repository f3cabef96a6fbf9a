// The interpreter that computes, for as long as a host needs it.
#pragma once

#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "detail/python.hpp"

namespace trt_vqgan {

struct RuntimeOptions {
    // The Python whose packages are used, as in a virtual environment: /path/.venv/bin/python. By default the one that
    // CMake's package was configured with.
    std::string python;
    // Folders to import from before any other.
    std::vector<std::string> paths;
};

namespace detail {

struct Interpreter {
    std::mutex mutex;
    int runtimes = 0;
    bool is_ours = false;
    bool is_over = false;
    std::thread::id thread;
    PyThreadState *first = nullptr;

    void start(const RuntimeOptions &options) {
        std::string python = options.python;
#ifdef TRT_VQGAN_PYTHON
        if (python.empty()) python = TRT_VQGAN_PYTHON;
#endif
        PyConfig config;
        PyConfig_InitPythonConfig(&config);
        config.parse_argv = 0;
        config.install_signal_handlers = 0;  // signals stay the host's
        if (!python.empty()) PyConfig_SetBytesString(&config, &config.executable, python.c_str());
        try {
            pybind11::initialize_interpreter(&config, 0, nullptr, false);
        } catch (const std::exception &error) {
            throw Error(std::string("Python can't be started: ") + error.what());
        }
        is_ours = true;
        thread = std::this_thread::get_id();
        first = PyEval_SaveThread();
    }

    void end() {
        PyEval_RestoreThread(first);
        pybind11::finalize_interpreter();
        is_ours = false;
        is_over = true;
    }
};

inline Interpreter &interpreter() {
    static auto *one = new Interpreter;  // never destroyed: a host's own globals may outlive any order of ours
    return *one;
}

}  // namespace detail

// Starts an interpreter, or uses the one that the host has already. Several may exist at once, on any thread. The last
// one's end ends an interpreter that was started here, if nothing of it is still held and it happens on the thread that
// started it; otherwise it runs until the process ends. One that has ended can't be started again (NumPy can't).
class Runtime {
  public:
    explicit Runtime(const RuntimeOptions &options = {}) {
        detail::Interpreter &one = detail::interpreter();
        {
            const std::lock_guard<std::mutex> lock(one.mutex);
            if (!Py_IsInitialized()) {
                if (one.is_over) throw Error("the interpreter has ended: keep one trt_vqgan::Runtime to the end");
                one.start(options);
            }
            one.runtimes++;
        }
        try {
            detail::with_python([&] {
                pybind11::object path = pybind11::module_::import("sys").attr("path");
                for (auto folder = options.paths.rbegin(); folder != options.paths.rend(); ++folder)
                    if (!path.contains(*folder)) path.attr("insert")(0, *folder);
                pybind11::module_::import("trt_vqgan");
            });
        } catch (...) {
            const std::lock_guard<std::mutex> lock(one.mutex);
            one.runtimes--;
            throw;
        }
    }

    ~Runtime() {
        detail::Interpreter &one = detail::interpreter();
        const std::lock_guard<std::mutex> lock(one.mutex);
        const bool is_last = --one.runtimes == 0 && one.is_ours && detail::held_objects() == 0;
        if (is_last && one.thread == std::this_thread::get_id()) one.end();
    }

    Runtime(const Runtime &) = delete;
    Runtime &operator=(const Runtime &) = delete;
};

}  // namespace trt_vqgan
