"""Pure functions, one module a kernel: sizes and device pointers to the `Launch` objects that compute it."""
