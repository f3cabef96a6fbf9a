"""Reference GPT in PyTorch with the published key layout: the oracle for tests and the source of the ONNX graph.

Source: ``taming/modules/transformer/mingpt.py`` as described in the paper's section 3.2: pre-LayerNorm blocks, erf
GELU, learned positions, an untied head without bias, and causal attention whose first ``num_unmasked`` positions see
each other both ways.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from trt_vqgan.spec import TransformerSpec


class SelfAttention(nn.Module):
    """Multi-head self-attention over (B, T, width)."""

    def __init__(self, spec: TransformerSpec, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.num_unmasked = spec.num_unmasked
        self.key = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.query = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.value = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.proj = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, past: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the attention's output (B, T, width) and the new keys and values (2, B, heads, T, head size)."""
        batch, tokens, width = x.shape
        shape = (batch, tokens, self.num_heads, width // self.num_heads)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        present = torch.stack((k, v))
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        scores = q @ k.transpose(2, 3) * (1.0 / math.sqrt(shape[3]))
        if past is None:
            scores = scores.masked_fill(~visible_positions(tokens, self.num_unmasked).to(x.device), -math.inf)
        out = torch.softmax(scores, dim=-1) @ v
        return self.drop(self.proj(out.transpose(1, 2).reshape(batch, tokens, width))), present


class Block(nn.Module):
    """One pre-LayerNorm transformer block."""

    def __init__(self, spec: TransformerSpec, *, dropout: float = 0.0) -> None:
        super().__init__()
        width = spec.hidden_size
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.attn = SelfAttention(spec, dropout=dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor, past: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the residual stream (B, T, width) after this block, and its new keys and values."""
        attended, present = self.attn(self.ln1(x), past)
        x = x + attended
        return x + self.mlp(self.ln2(x)), present


class GPT(nn.Module):
    """The published GPT.

    Parameters
    ----------
    spec : its sizes.
    dropout : rate after the embedding and each residual branch; only matters in training.
    """

    def __init__(self, spec: TransformerSpec, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.tok_emb = nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.pos_emb = nn.Parameter(torch.zeros(1, spec.max_seq_len, spec.hidden_size))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(spec, dropout=dropout) for _ in range(spec.num_layers))
        self.ln_f = nn.LayerNorm(spec.hidden_size)
        self.head = nn.Linear(spec.hidden_size, spec.vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits float32 (B, T, V) for tokens int64 (B, T): row i predicts token i + 1."""
        x = self.drop(self.tok_emb(tokens) + self.pos_emb[:, : tokens.shape[1]])
        for block in self.blocks:
            x, _ = block(x)
        logits: torch.Tensor = self.head(self.ln_f(x))
        return logits

    def forward_with_past(
        self, tokens: torch.Tensor, past: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return logits (B, T, V) and the cache to go on with, kept as the published sampler keeps it.

        That is a list of what each call added, (layers, 2, B, heads, T, head size); every call concatenates all of it,
        and each layer then its own part with the new keys and values. This is what bench measures against.
        """
        joined = torch.cat(past, dim=-2) if past is not None else None
        start = joined.shape[-2] if joined is not None else 0
        x = self.tok_emb(tokens) + self.pos_emb[:, start : start + tokens.shape[1]]
        presents = []
        for i, block in enumerate(self.blocks):
            x, present = block(x, joined[i] if joined is not None else None)
            presents.append(present)
        return self.head(self.ln_f(x)), [*(past or []), torch.stack(presents)]


def visible_positions(tokens: int, num_unmasked: int) -> torch.Tensor:
    """Return bool (T, T): whether position i (row) sees position j (column)."""
    visible = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    visible[:num_unmasked, :num_unmasked] = True
    return visible


def load_gpt(spec: TransformerSpec, weights: Mapping[str, np.ndarray], prefix: str = "transformer.") -> GPT:
    """Return the reference GPT in eval mode with ``weights`` (keys ``prefix`` + published key), float32 on the CPU."""
    model = GPT(spec)
    state = {
        key.removeprefix(prefix): torch.from_numpy(np.array(weights[key], dtype=np.float32))
        for key in weights
        if key.startswith(prefix)
    }
    model.load_state_dict(state, strict=True)
    return model.eval()
