"""Every error that trt-vqgan raises on purpose, as one taxonomy.

Messages say what went wrong, where, what was found, what was wanted and what to do next.
The command line prints them as one line and exits with status 1.
"""


class TrtVqganError(Exception):
    """Base of all errors raised on purpose by this package."""


class CheckpointError(TrtVqganError):
    """A checkpoint can't be read: missing, truncated, of an unknown kind, or with wrong keys or shapes."""


class SpecError(TrtVqganError):
    """A model description contradicts itself or asks for something that the runtime doesn't implement."""


class ExportError(TrtVqganError):
    """A bundle can't be written."""


class BundleError(TrtVqganError):
    """A bundle can't be used: missing or changed file, unknown schema, unknown manifest key."""


class ParityError(TrtVqganError):
    """A bundle doesn't compute what its checkpoint computes."""


class BuildError(TrtVqganError):
    """A TensorRT engine or the CUDA kernels can't be built."""


class EngineMismatchError(TrtVqganError):
    """An engine was built for other weights, another TensorRT version or another GPU."""


class ShapeError(TrtVqganError, ValueError):
    """An array has the wrong shape, dtype or value range."""


class ConditionError(TrtVqganError, ValueError):
    """A condition is missing, of the wrong kind for the model, or out of range."""


class ImageError(TrtVqganError):
    """An image file can't be read or written."""


class TooLargeError(ImageError, ShapeError):
    """A picture, or what is asked for, has more pixels than are allowed."""


class BackendUnavailableError(TrtVqganError):
    """The backend or device that was asked for can't run here."""


class CudaError(TrtVqganError):
    """The CUDA driver or runtime reported a failure."""


class MissingDependencyError(TrtVqganError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class Cancelled(TrtVqganError):
    """The caller's progress callback asked to stop."""


class OverloadedError(TrtVqganError):
    """Too much work waits already; it may be asked for again later."""


class ClosingError(TrtVqganError):
    """The server is shutting down."""


class DeadlineError(TrtVqganError):
    """The work was not finished by its deadline."""


class JobError(TrtVqganError):
    """A sampling job can't begin or go on: other settings, other files in its folder, or no workers."""
