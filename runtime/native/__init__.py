"""The transformer on the CPU through kernels/cpu, compiled where it runs."""
