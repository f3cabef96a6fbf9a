"""PyTorch's ways to draw codes on a GPU in float16: as published, and as well as it can be done with a CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from trt_vqgan.export.gpt_modules import GPT
from trt_vqgan.spec import TransformerSpec

TOP_K = 100


def random_gpt(spec: TransformerSpec) -> GPT:
    """Return the reference on the GPU, in float16, with torch's own initial weights."""
    with torch.device("cuda"):
        return GPT(spec).half().eval()


def _like(model: GPT) -> dict[str, Any]:
    """Return device and dtype of a model, as arguments of torch's functions."""
    return {"device": model.pos_emb.device, "dtype": model.pos_emb.dtype}


def draw(logits: torch.Tensor) -> torch.Tensor:
    """Return codes int64 (B, 1) of logits (B, V): top-k, softmax and multinomial, as published."""
    kept, _ = torch.topk(logits, min(TOP_K, logits.shape[-1]))
    cut = logits.masked_fill(logits < kept[:, [-1]], -float("inf"))
    return torch.multinomial(torch.softmax(cut.float(), dim=-1), num_samples=1)


@torch.no_grad()
def published_codes(model: GPT, *, batch: int, prefix: int, count: int) -> torch.Tensor:
    """Return codes int64 (B, count) by the published loop, whose cache is concatenated anew in each step."""
    tokens = torch.zeros(batch, prefix, dtype=torch.long, device=model.pos_emb.device)
    logits, past = model.forward_with_past(tokens, None)
    codes = [draw(logits[:, -1])]
    while len(codes) < count:
        logits, past = model.forward_with_past(codes[-1], past)
        codes.append(draw(logits[:, -1]))
    return torch.cat(codes, dim=1)


class StaticStep:
    """A decode step with caches of fixed capacity, all of it capturable, the draw included.

    Parameters
    ----------
    model : whose weights it uses.
    batch, capacity : rows, and positions of their caches.
    position : where the next token is written.
    """

    def __init__(self, model: GPT, *, batch: int, capacity: int, position: int) -> None:
        spec = model.spec
        self._model = model
        shape = (batch, spec.num_heads, capacity, spec.head_size)
        self._shape = (batch, 1, 3, spec.num_heads, spec.head_size)
        self.caches = [(torch.randn(shape, **_like(model)), torch.randn(shape, **_like(model))) for _ in model.blocks]
        device = model.pos_emb.device
        self.tokens = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self._position = torch.full((1,), position, dtype=torch.long, device=device)
        self._columns = torch.arange(capacity, device=device)
        self._qkv = [_stacked(block) for block in model.blocks]

    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        """Write the tokens' keys and values to the caches and return logits (B, V)."""
        model, at = self._model, self._position
        mask = (self._columns <= at)[None, None, None]
        x = model.tok_emb(self.tokens) + model.pos_emb[0, at]
        blocks: Any = model.blocks
        for block, (weight, bias), (keys, values) in zip(blocks, self._qkv, self.caches, strict=True):
            q, k, v = F.linear(block.ln1(x), weight, bias).view(self._shape).permute(2, 0, 3, 1, 4)
            keys.index_copy_(2, at, k)
            values.index_copy_(2, at, v)
            attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            x = x + block.attn.proj(attended.transpose(1, 2).reshape(x.shape))
            x = x + block.mlp(block.ln2(x))
        found: torch.Tensor = model.head(model.ln_f(x))[:, -1]
        return found

    def __call__(self) -> None:
        """Compute the next logits and draw; the token and not the position moves on, so every call costs the same."""
        self.tokens.copy_(draw(self.logits()))


def _stacked(block: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of one product for queries, keys and values."""
    layers = (block.attn.query, block.attn.key, block.attn.value)
    return torch.cat([each.weight for each in layers]), torch.cat([each.bias for each in layers])
