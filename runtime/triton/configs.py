"""The configuration of each model in a repository, as ``config.pbtxt`` has it.

Names and meaning of the fields: `ModelConfig` in Triton's ``model_config.proto``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from trt_vqgan.runtime.triton.text_format import Word
from trt_vqgan.spec import AutoencoderSpec, ModelSpec

Config = Mapping[str, object]
Networks = Literal["onnx", "tensorrt"]

MAX_BATCH = 8
"""Pictures of a batch; the largest of the training size that TensorRT engines are built for."""

ANY = -1

PLATFORMS: dict[Networks, str] = {"onnx": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
MODEL_FILES: dict[Networks, str] = {"onnx": "model.onnx", "tensorrt": "model.plan"}

GENERATE_INPUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "n": ("INT32", (1,)),
    "seed": ("UINT64", (1,)),
    "first_picture": ("INT64", (1,)),
    "class_id": ("STRING", (ANY,)),
    "condition_codes": ("INT64", (ANY, ANY)),
    "depth": ("FP32", (ANY, ANY)),
    "segmentation": ("INT32", (ANY, ANY)),
    "layout": ("STRING", (ANY,)),
    "image": ("UINT8", (ANY, ANY, ANY, ANY)),
    "init": ("UINT8", (ANY, ANY, ANY, ANY)),
    "keep": ("BOOL", (ANY, ANY)),
    "resample": ("FP32", (1,)),
    "kept_codes": ("INT64", (ANY, ANY, ANY)),
    "temperature": ("FP32", (1,)),
    "top_k": ("INT32", (1,)),
    "top_p": ("FP32", (1,)),
    "greedy": ("BOOL", (1,)),
    "guidance": ("FP32", (1,)),
    "size": ("INT32", (2,)),
}
"""Inputs of the model that generates, all optional: arguments of `Pipeline.generate`. A layout is JSON."""

BUNDLE_FOLDER = "bundle"
CODEBOOK_NAME = "codebook.npy"
"""What the Python models find beside their ``model.py``."""


def encoder_config(name: str, spec: AutoencoderSpec, networks: Networks) -> Config:
    """Return the configuration of the encoder: ``image`` to ``z``, which `codes_config` is about."""
    side = spec.resolution if networks == "tensorrt" else ANY
    return _network(
        name, networks, _tensor("image", "FP32", (spec.in_channels, side, side)), encoder_output(spec, networks)
    )


def decoder_config(name: str, spec: AutoencoderSpec, networks: Networks) -> Config:
    """Return the configuration of the decoder: ``codes`` to ``pixels``; of an engine ``latents``, codebook rows."""
    if networks == "tensorrt":
        latent, side = spec.latent_size, spec.resolution
        given = _tensor("latents", "FP16", (latent, latent, spec.code_dim))
        return _network(name, networks, given, _tensor("pixels", "FP16", (spec.out_channels, side, side)))
    pixels = _tensor("pixels", "FP32", (spec.out_channels, ANY, ANY))
    return _network(name, networks, _tensor("codes", "INT64", (ANY, ANY)), pixels)


def encoder_output(spec: AutoencoderSpec, networks: Networks) -> Config:
    """Return the tensor that an encoder puts out."""
    gumbel = spec.quantizer == "gumbel"
    if networks == "onnx":
        depth = spec.codebook_size if gumbel else spec.code_dim
        return _tensor("logits" if gumbel else "z", "FP32", (depth, ANY, ANY))
    side = spec.latent_size
    if gumbel:
        return _tensor("codes", "INT32", (side, side))
    return _tensor("z", "FP32", (side, side, spec.code_dim))


def codes_config(name: str, spec: AutoencoderSpec, networks: Networks) -> Config:
    """Return the configuration of the Python model that makes ``codes`` of what an encoder puts out."""
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": MAX_BATCH,
        "input": [encoder_output(spec, networks)],
        "output": [_tensor("codes", "INT64", (ANY, ANY))],
        "instance_group": [{"count": 1, "kind": Word("KIND_CPU")}],
    }


def encode_config(name: str, spec: AutoencoderSpec, networks: Networks, *, encoder: str, codes: str) -> Config:
    """Return the configuration of encoder and codes, one after the other: ``image`` to ``codes``."""
    between = str(encoder_output(spec, networks)["name"])
    side = spec.resolution if networks == "tensorrt" else ANY
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": MAX_BATCH,
        "input": [_tensor("image", "FP32", (spec.in_channels, side, side))],
        "output": [_tensor("codes", "INT64", (ANY, ANY))],
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": encoder,
                    "model_version": ANY,
                    "input_map": {"key": "image", "value": "image"},
                    "output_map": {"key": between, "value": "encoded"},
                },
                {
                    "model_name": codes,
                    "model_version": ANY,
                    "input_map": {"key": between, "value": "encoded"},
                    "output_map": {"key": "codes", "value": "codes"},
                },
            ]
        },
    }


def generate_config(name: str, spec: ModelSpec, *, threads: int | None) -> Config:
    """Return the configuration of the Python model that generates.

    A request is one call of `Pipeline.generate`; its pictures are made in batches by the runtime, not by Triton.
    """
    channels = spec.autoencoder.out_channels
    config: dict[str, object] = {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,
        "input": [
            {**_tensor(key, dtype, dims), "optional": True} for key, (dtype, dims) in GENERATE_INPUTS.items()
        ],
        "output": [_tensor("images", "UINT8", (ANY, ANY, ANY, channels)), _tensor("codes", "INT64", (ANY, ANY, ANY))],
        "instance_group": [{"count": 1, "kind": Word("KIND_CPU")}],
    }  # fmt: skip
    if threads is not None:
        config["parameters"] = [{"key": "threads", "value": {"string_value": str(threads)}}]
    return config


def _network(name: str, networks: Networks, given: Config, made: Config) -> Config:
    config: dict[str, object] = {
        "name": name,
        "platform": PLATFORMS[networks],
        "max_batch_size": MAX_BATCH,
        "input": [given],
        "output": [made],
        "dynamic_batching": {},
    }
    if networks == "tensorrt":
        # the first profile is for pictures of the training size, the second for single ones of any size
        config["instance_group"] = [{"count": 1, "kind": Word("KIND_GPU"), "profile": ["0"]}]
    return config


def _tensor(name: str, dtype: str, dims: tuple[int, ...]) -> Config:
    return {"name": name, "data_type": Word(f"TYPE_{dtype}"), "dims": list(dims)}
