"""The runtime: sessions, caches, sampler and pipeline; numpy, Pillow and ONNX Runtime, never torch."""
