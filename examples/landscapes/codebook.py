"""A codebook learned by moving averages of the latents that choose each entry (van den Oord et al. 2017, A.1)."""

from __future__ import annotations

from typing import Any

import torch


class Codebook:
    """Entries, how often each is chosen, and the restart of entries that nothing chooses.

    Parameters
    ----------
    entries : float32 (N, D), used in place: the model's own embedding.
    decay : of the moving averages.
    """

    def __init__(self, entries: torch.Tensor, *, decay: float = 0.99) -> None:
        self.entries = entries
        self.decay = decay
        self.counts = torch.ones(len(entries))
        self.sums = entries.clone()

    @torch.no_grad()
    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Return int64 (n,), the nearest entry to each latent float32 (n, D)."""
        distance = self.entries.square().sum(1) - 2 * latents @ self.entries.T
        return distance.argmin(1)

    @torch.no_grad()
    def start(self, latents: torch.Tensor, *, rounds: int = 8, from_entries: bool = False) -> None:
        """Set the entries by k-means on latents float32 (n, D); with `from_entries` only the averages are set."""
        if not from_entries:
            self.entries.copy_(latents[torch.randperm(len(latents))[: len(self.entries)]])
        for _ in range(rounds if not from_entries else 1):
            counts, sums = self._tally(latents)
            if from_entries:
                self.counts = counts.clamp_min(0.1)
                self.sums = self.entries * self.counts[:, None]
                break
            empty = counts == 0
            means = sums / counts.clamp_min(1)[:, None]
            means[empty] = latents[torch.randint(len(latents), (int(empty.sum()),))]
            self.entries.copy_(means)
            self.counts, self.sums = counts.clamp_min(0.1), means * counts.clamp_min(0.1)[:, None]

    def _tally(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = self.nearest(latents)
        counts = torch.bincount(codes, minlength=len(self.entries)).float()
        sums = torch.zeros_like(self.entries).index_add_(0, codes, latents)
        return counts, sums

    @torch.no_grad()
    def update(self, latents: torch.Tensor) -> None:
        """Move the averages, and the entries with them, towards one step's latents float32 (n, D)."""
        counts, sums = self._tally(latents)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self.entries.copy_(self.sums / self.counts.clamp_min(1e-3)[:, None])

    @torch.no_grad()
    def restart_dead(self, latents: torch.Tensor, *, below: float = 0.03) -> int:
        """Move entries chosen fewer than `below` times a step onto random latents float32 (n, D); return how many."""
        dead = torch.nonzero(self.counts < below).flatten()
        if len(dead):
            self.entries[dead] = latents[torch.randint(len(latents), (len(dead),))]
            self.counts[dead] = 3 * below
            self.sums[dead] = self.entries[dead] * (3 * below)
        return len(dead)

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes; the entries are in the model's own state."""
        return {"counts": self.counts, "sums": self.sums}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from saved averages."""
        self.counts, self.sums = state["counts"], state["sums"]
