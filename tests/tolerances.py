"""Every tolerance of the tests, with the error that was measured and why it may be so large."""

from __future__ import annotations

# Sampler. Measured over two million float32 distances from 0 to 21: 4.5e-7 beyond the truncation of the integer itself;
# the float32 product (x - max) * c alone may be off by half a last place of 30, which is 7e-7 as a factor.
CODE_WEIGHT_RELATIVE = 2e-6
# Integer weights against a float64 softmax: measured 1.7e-8 over the cases of tests/kernels/test_sample_codes.py.
PROBABILITY_ABSOLUTE = 2e-7
# Entries nearer than this to top-p's cut may fall on either side in float64; such cases are left out.
TOP_P_BOUNDARY = 1e-5
# Integer weights against the published sampler's float32 softmax: measured 5.1e-8 on ../shared/golden; asked: 1e-5.
GOLDEN_PROBABILITY_ABSOLUTE = 1e-6

# VQGAN graphs. GroupNorm of nearly constant groups (mean 3, deviation 0.01; constant) in ONNX Runtime against float64:
# measured 1.2e-6, where torch's contiguous kernel has 1e-4; one-pass statistics are off by more than 0.1.
GROUP_NORM_ABSOLUTE = 5e-6
# Graph in ONNX Runtime against the torch modules (both float32, other orders of summation), relative to the largest
# absolute output: measured 3.2e-6 over the synthetic specs.
AUTOENCODER_RELATIVE = 2e-5
# The same with convolution weights stored in float16 (rounding 5e-4 each): measured 2.2e-3.
AUTOENCODER_FP16_WEIGHTS_RELATIVE = 1e-2
# Convolutions of the CPU kernels against float64, over the largest result (in bf16, of inputs and weights rounded
# alike): measured 3.1e-6, of 4608 products in a row.
CONVOLUTION_FP32_RELATIVE = 1e-5
# The same in bf16 behind a doubled picture, whose kernels are sums of taps that are rounded once: measured 1.2e-3.
CONVOLUTION_BF16_RELATIVE = 5e-3
# Whole VQGANs of random weights in bf16 (2^-9 a rounding) against the torch modules: measured 0.026.
NETWORK_BF16_RELATIVE = 0.06
# The demo's pictures decoded in bf16 against fp32, 8 bits. Measured: 58.4 dB at least, no pixel off by more than two.
PICTURE_BF16_PSNR_DB = 50.0
# Pictures of the published code, in grey levels: both truncate, so a float error of 1e-6 may cross a level.
PICTURE_GREY_LEVELS = 1

LOGITS_FP32 = 1e-3
"""Logits of the exported transformer against PyTorch. Measured: 8e-6 on the golden checkpoints (scale 11), 3e-5 on
random weights of order one."""

LOGITS_INT8_SMALL = 0.1
"""int8 logits against PyTorch, over the largest magnitude, for two layers of width 128 with random weights. Measured:
0.03. Random weights are the worst case: they have no structure that a trained model's margins would give."""

LOGITS_QUANTIZED_REFERENCE = 0.05
"""Logits of the reference GPT with weights and activations rounded against those of ONNX Runtime from the same weights,
over the largest magnitude. Measured: 0.022; one matrix of four bits more or less makes 0.17."""

INT8_ENGINES = 0.05
"""int8 logits of the CPU kernels against those of ONNX Runtime, over the largest magnitude, for the same random models.
Measured: 0.015. Both round activations to 8 bits, and a last bit before may move one by a whole step."""

LOGITS_HALF_CACHE = 0.05
"""int8 and int4 logits with caches of float16 against float32, over the largest magnitude, for the same models.
Measured: 0.018, as a last bit before may move a rounded activation by a whole step."""

NLL_FP32 = 1e-4
"""Nats a code of the trained landscape model in fp32 against the published code. Measured: 1e-6."""

NLL_INT8 = 0.01
"""The same in int8, a picture. Measured: 0.0034 at most, 0.0002 in the mean of ten pictures."""

NLL_INT4 = 0.05
"""The same in int4. Measured: 0.022 at most, 0.009 in the mean of ten pictures (0.26 %)."""

BILINEAR_ABSOLUTE = 1e-4
"""Depth in [-1, 1] resized between two pixels an axis, against torch's, which rounds places to float32. Measured:
5.3e-5 (333x471 to 32; below 2e-5 for the shapes of the tests)."""

TILED_DEMO_PSNR_DB = 38.0
"""Least PSNR of the demo's decoder in tiles of 12 within frames of 18 against the whole decode of 20x32 smooth codes.
Measured: 39.9. Without a frame, tiles of 20 have 33.3 and tiles of 12 have 25.7."""

CACHED_ATTENTION_FLOAT64 = 1e-13
"""The definition of cached attention in float64 against torch's. Measured: 9e-16."""

CACHED_ATTENTION_FP32 = 2e-6
"""The same in float32. Measured: 4e-7."""

CACHED_ATTENTION_HALF = 2e-3
"""The same with float16 inputs and outputs, against float64 on the same inputs. Measured: 9e-4, the rounding of outputs
between 1 and 2 (2^-11) and no more."""

ATTENTION_STEP_KERNEL = 2e-6
"""cached_attention_step on the shim against its definition in float32, beyond the output's rounding to half. Measured:
9e-8; a GPU's own exponential (2 in the last place) may add some 5e-7."""

# Graphs for GPUs, every FP16 result rounded (export/half_rounding.py).
# Decoder of random weights, largest error over the largest output: measured 2.5e-3 over the synthetic specs.
GPU_FP16_RELATIVE = 1e-2
# Decode of the trained demo: measured 70.0 dB at least, over drawn and extreme codes; 61 dB once both are uint8.
GPU_DECODE_DB = 60.0
# Codes of the trained demo's encoder on extreme and smooth maps: measured 0.996 equal at least a kind of map.
GPU_ENCODE_EQUAL_CODES = 0.99
# float32 segments with attention in between against the whole graph, over the largest logit: other orders of summation.
# Measured: 5.7e-7.
GPU_SEGMENTS_FP32 = 1e-5
# The same in FP16, two layers of random weights, in ONNX Runtime, which rounds at the segments' ends only. Measured:
# 9.1e-4.
GPU_FP16_LOGITS_RELATIVE = 1e-2

ATTENTION_TOKENS_KERNEL = 8e-4
"""cached_attention_tokens and _prefix likewise. Measured: 3.1e-4, because the weights of the sum of values are rounded
to half (2^-11 each, of values up to 4)."""

DENSE_STEP_RELATIVE = 5e-6
"""Error of the decode step's dense kernels against float64, relative to the sum of a result's absolute products.
Measured: 1.3e-6 behind a layer norm, whose float32 may round an activation to the other half; 3e-8 without."""

DENSE_STEP_LARGE_MEAN_RELATIVE = 2e-4
"""The same for rows of 3000 +- 3, whose mean float32 holds to 1.2e-4. Measured: 2.3e-5. A one-pass variance is off by
5 % and more."""

GELU_ABSOLUTE = 5e-7
"""What float32 erf, and sums of bias and residual, add to a result's rounding. Measured: 1.7e-7."""

LAYER_NORM_ABSOLUTE = 1e-6
"""The layer norm kernel beyond its rounding to half, of rows of 5 +- 3 with gains up to 4. Measured: 7e-8."""

DRIVER_HALF_LOGITS = 0.012
"""Logits (scale 5) of two float16 layers through the CUDA kernels against NumPy that rounds in the same places.
Measured: 0.0053, as a sum that differs in float32 may round to the next float16 on the way."""

CONV_RELATIVE = 3e-7
"""conv2d on the shim against its definition in float64, beyond the result's rounding, over the sum of the products'
sizes. Measured: 6.4e-8."""

CONV_FLOAT_RELATIVE = 1e-6
"""The same of conv2d_float, float32 sums in one row. Measured: 3.7e-7."""

GROUP_NORM_ABSOLUTE = 1e-5
"""group_norm on the shim against its definition in float64, beyond the result's rounding; results of up to some 10.
Measured: 2.1e-6 in float32, 2.9e-7 in half."""

GROUP_NORM_CONSTANT = 1e-3
"""The same for pictures in float32 whose mean is a thousand deviations: the mean's own rounding. Measured: 3.0e-4."""

PICTURE_ATTENTION_ABSOLUTE = 8e-4
"""picture_attention on the shim against its definition in float64: weights are rounded to half before the second
product. Measured: 1.9e-4."""

PICTURE_ATTENTION_FLOAT = 2e-6
"""The same in float32. Measured: 5.2e-7."""

CUDA_NETWORKS_DB = 58.0
"""Pictures of random VQGANs through our kernels on the shim against ONNX Runtime in float32, decoder output in [-1, 1].
Measured: 62.9 dB at least, over the synthetic specs."""

CUDA_NETWORKS_UNEQUAL_CODES = 0
"""Codes of 16 of the golden picture that differ from float32's. Measured: none."""
