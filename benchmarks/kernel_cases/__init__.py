"""Cases of each kernel beside its definition, for whatever runs kernels: the CPU shim of the tests, or a GPU."""
