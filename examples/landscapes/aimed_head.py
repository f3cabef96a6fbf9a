"""One attention head that looks at a picture code's own place in the map from the first step on.

A class model's weights know nothing of a map before the picture. With random or shared positions, 500 steps taught
the models which kind of scene the map belongs to, but not to look at the same place of it (held-out nats with the right
and another map: 3.887 and 4.006). So one head of the first layer is aimed by hand: some channels of the positions are
given to a code of (row, column), the query reads it at the picture's positions, the key at the map's.
"""

from __future__ import annotations

import math

import torch

from trt_vqgan.export.gpt_modules import GPT, Block

FREQUENCIES = (1, 2, 4, 8)
HEAD = 0
LOGIT = 14.0
"""Of a place with itself, before softmax; of its neighbours about 8."""


def place_code(side: int) -> torch.Tensor:
    """Return float32 (side², 16) of entries up to 1: cosines and sines of row and column; unlike for unlike places."""
    turns = 2 * math.pi * torch.arange(side)[:, None] * torch.tensor(FREQUENCIES) / side
    waves = torch.cat([turns.cos(), turns.sin()], 1)
    rows = waves[:, None].expand(side, side, -1)
    columns = waves[None].expand(side, side, -1)
    return torch.cat([rows, columns], 2).reshape(side * side, -1)


@torch.no_grad()
def aim_head(model: GPT, *, side: int) -> None:
    """Aim one head of the first layer, in place; the model reads side² map codes and then side² picture codes.

    The channels that change are taken from the token embeddings and the other positions, which costs the model a little
    of what it knew.
    """
    block = model.blocks[0]
    assert isinstance(block, Block)
    code = place_code(side)
    size, count = code.shape[1], side * side
    asks, tells = slice(0, size), slice(size, 2 * size)
    typical = float((model.tok_emb.weight.std() ** 2 + model.pos_emb.std() ** 2).sqrt())
    model.tok_emb.weight[:, : 2 * size] = 0
    model.pos_emb[:, :, : 2 * size] = 0
    model.pos_emb[0, count - 1 :, asks] = code * typical
    model.pos_emb[0, :count, tells] = code * typical
    block.ln1.weight[: 2 * size] = 1
    block.ln1.bias[: 2 * size] = 0
    attention, head = block.attn, slice(HEAD * model.spec.head_size, (HEAD + 1) * model.spec.head_size)
    peak = float((code[0] * code[0]).sum())
    gain = math.sqrt(LOGIT * math.sqrt(model.spec.head_size) / peak)
    for layer, channels in ((attention.query, asks), (attention.key, tells)):
        layer.weight[head] = 0
        layer.bias[head] = 0
        layer.weight[head, channels][:size] = gain * torch.eye(size)
    torch.manual_seed(0)
    width = model.spec.hidden_size
    attention.value.weight[head] = torch.randn(model.spec.head_size, width) * width**-0.5
    attention.proj.weight[:, head] = torch.randn(width, model.spec.head_size) * 0.02
