"""The published window rules, kept plain: for every code, the whole window through PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from trt_vqgan.export.gpt_modules import GPT


def plain_window(
    gpt: GPT,
    condition: Callable[[int, int], np.ndarray],
    kept: np.ndarray,
    *,
    side: int,
    codebook_size: int,
    boxes: bool = False,
) -> np.ndarray:
    """Return greedy codes int64 (h, w); ``kept`` int64 (h, w) has -1 where a code is drawn.

    Conditional models: the window starts so that the code stands in its middle, nearer to the border at the borders.
    Box models: the window starts at clip(position - 7, 0, size - 16), written here for any side.
    """
    height, width = kept.shape
    grid = np.where(kept < 0, 0, kept)
    half = side // 2
    for i in range(height):
        for j in range(width):
            if kept[i, j] >= 0:
                continue
            if boxes:
                top, left = min(max(i - half + 1, 0), height - side), min(max(j - half + 1, 0), width - side)
            else:
                top = i - (i if i <= half else side - (height - i) if height - i < half else half)
                left = j - (j if j <= half else side - (width - j) if width - j < half else half)
            window = grid[top : top + side, left : left + side].reshape(-1)
            tokens = np.concatenate([condition(top, left)[0], window])[:-1]
            with torch.no_grad():
                logits = gpt(torch.from_numpy(tokens[None]))[0, -side * side :, :codebook_size]
            grid[i, j] = int(logits[(i - top) * side + (j - left)].argmax())
    return grid
