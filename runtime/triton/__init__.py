"""Bundles for Triton Inference Server: a model repository written, and the models in it that are Python."""
