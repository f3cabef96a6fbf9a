"""What a transformer's matrices of 4 bits cost, each by itself, from a few gradients instead of a run for each.

A small change d of weights moves the distribution of a code by a divergence of d' F d / 2, where F is the mean of g g'
over codes drawn from that distribution and g the gradient of their log-likelihood (Fisher's information). Errors of
rounding are as good as independent of each other, so that of F its diagonal counts; and g of one code is 0 in the mean
whatever came before, so that the gradient of a whole sequence does for the sum over its codes.
"""

from __future__ import annotations

import threading
from collections import defaultdict

import torch
from torch import nn

from trt_vqgan.export.model_sequences import Sequences
from trt_vqgan.export.one_thread_workers import OneThreadWorkers
from trt_vqgan.export.quantized_gpt import QuantizedGPT, matrix_names


def divergence_of_four_bits(sequences: Sequences, model: QuantizedGPT, workers: OneThreadWorkers) -> dict[str, float]:
    """Return the mean divergence a code, nats, that 4 bits in each matrix alone should cause, all others being exact.

    Parameters
    ----------
    sequences : what the model reads; the codes that likelihoods are of are drawn anew.
    model : with all matrices in 8 bits.
    """
    names = matrix_names(model.gpt.spec.num_layers)
    places = {layer: (name, i) for name in names for i, layer in enumerate(model.layers(name))}
    found: defaultdict[str, float] = defaultdict(float)
    lock = threading.Lock()

    def watch(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        name, i = places[layer]  # type: ignore[index]
        read = inputs[0].detach()[0]

        def add(gradient: torch.Tensor) -> None:
            of_weights = gradient[0].T @ read
            cost = float(((of_weights * model.narrowing(name)[i]) ** 2).sum())
            with lock:
                found[name] += cost

        output.register_hook(add)  # type: ignore[no-untyped-call]

    def one(number: int) -> None:
        log_p = torch.log_softmax(model.gpt(sequences.tokens[number : number + 1])[0, sequences.first :], dim=-1)
        random = torch.Generator().manual_seed(number)
        drawn = torch.multinomial(log_p.detach().exp(), 1, generator=random)
        log_p.gather(1, drawn).sum().backward()  # type: ignore[no-untyped-call]

    model.gpt.requires_grad_(False)  # or torch would keep gradients as large as the model
    handles = [layer.register_forward_hook(watch) for layer in places]
    handles.append(model.gpt.tok_emb.register_forward_hook(lambda layer, inputs, output: output.requires_grad_()))
    try:
        workers.map(one, range(len(sequences.tokens)))
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[name] / 2 / sequences.codes.numel() for name in names}
