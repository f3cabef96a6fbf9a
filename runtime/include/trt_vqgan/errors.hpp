// What a host catches: the taxonomy of trt_vqgan/errors.py, name for name, with the same texts.
#pragma once

#include <stdexcept>

namespace trt_vqgan {

// Base of all that this library throws. By itself: no interpreter is running, or one can't be started.
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Anything that isn't raised on purpose, such as a full disk: "OSError: …".
class OtherError : public Error {
  public:
    using Error::Error;
};

// errors.py says what each means; tests/runtime/host compares the two lists.
#define TRT_VQGAN_EACH_ERROR(X) \
    X(CheckpointError)          \
    X(SpecError)                \
    X(ExportError)              \
    X(BundleError)              \
    X(ParityError)              \
    X(BuildError)               \
    X(EngineMismatchError)      \
    X(ShapeError)               \
    X(ConditionError)           \
    X(ImageError)               \
    X(BackendUnavailableError)  \
    X(CudaError)                \
    X(MissingDependencyError)   \
    X(OverloadedError)          \
    X(DeadlineError)            \
    X(ClosingError)             \
    X(JobError)                 \
    X(TooLargeError)            \
    X(Cancelled)

#define TRT_VQGAN_ERROR_CLASS(name) \
    class name : public Error {     \
      public:                       \
        using Error::Error;         \
    };
TRT_VQGAN_EACH_ERROR(TRT_VQGAN_ERROR_CLASS)
#undef TRT_VQGAN_ERROR_CLASS

}  // namespace trt_vqgan
