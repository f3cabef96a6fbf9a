"""NumPy definitions: one module a kernel; every other implementation must return the same bits."""
