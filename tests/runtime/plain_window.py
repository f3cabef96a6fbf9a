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
    null: np.ndarray | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Return greedy codes int64 (h, w); ``kept`` int64 (h, w) has -1 where a code is drawn.

    Conditional models: the window starts so that the code stands in its middle, nearer to the border at the borders.
    Box models: the window starts at clip(position - 7, 0, size - 16), written here for any side.
    With ``null``, the tokens of no condition, logits are without + scale x (with - without).
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
            place = (i - top) * side + (j - left)

            def logits_of(tokens: np.ndarray, window: np.ndarray = window, place: int = place) -> torch.Tensor:
                sequence = np.concatenate([tokens, window])[:-1]
                with torch.no_grad():
                    return gpt(torch.from_numpy(sequence[None]))[0, -side * side :, :codebook_size][place]

            logits = logits_of(condition(top, left)[0])
            if null is not None:
                without = logits_of(null)
                logits = without + scale * (logits - without)
            grid[i, j] = int(logits.argmax())
    return grid
