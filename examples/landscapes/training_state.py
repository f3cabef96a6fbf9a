"""What every training here shares: states that survive an interruption, a log, and two single-threaded workers.

Two workers of one thread each, not two OpenMP threads: oneDNN's bfloat16 weight gradient waits at a spinning barrier,
and when another process holds a core each wait costs a scheduler's time slice (measured: 3 ms became 96 to 577 ms).
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

Job = TypeVar("Job")
Result = TypeVar("Result")


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that an interruption leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """Return a state of `save_state` or `compact`, floating tensors as float32."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    return cast(dict[str, Any], _map_tensors(saved, lambda key, t: t.float()))


def compact(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state at half its size, to be kept with the code.

    Weights become float16; Adam's moments become bfloat16, since squared gradients lie below float16's range.
    """

    def smaller(key: str, value: torch.Tensor) -> torch.Tensor:
        if key == "step":  # Adam's count, which float16 would round
            return value
        return value.to(torch.bfloat16 if key in ("exp_avg", "exp_avg_sq") else torch.float16)

    return cast(dict[str, Any], _map_tensors(state, smaller))


def _map_tensors(value: Any, convert: Callable[[str, torch.Tensor], torch.Tensor], key: str = "") -> Any:
    if isinstance(value, torch.Tensor):
        return convert(key, value) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: _map_tensors(v, convert, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map_tensors(v, convert, key) for v in value)
    return value


class Average:
    """A running average of a model's parameters, the weights that are shipped.

    The decay grows with the number of updates, so that an average of a few steps isn't mostly its start.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for key, value in model.state_dict().items():
            self.weights[key].lerp_(value, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes."""
        return {"updates": self.updates, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self.updates = state["updates"]
        self.weights = dict(state["weights"])


class Workers:
    """Runs jobs on threads that each use one core; results come in the order of the jobs."""

    def __init__(self, count: int) -> None:
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        """Return `function` of each job."""
        return list(self._pool.map(function, jobs))


def sum_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Sequence[torch.Tensor]]) -> None:
    """Set each parameter's gradient to the sum over micro-batches."""
    for i, parameter in enumerate(parameters):
        total = gradients[0][i].float()
        for other in gradients[1:]:
            total = total + other[i]
        parameter.grad = total


class Run:
    """Steps of one training: where it stands, its log, and when to save.

    Parameters
    ----------
    folder : holds `state.pt` and `log.jsonl`.
    steps : step at which training ends.
    save_every_s : seconds between states.
    """

    def __init__(self, folder: Path, *, steps: int, save_every_s: float = 120.0) -> None:
        self.folder = folder
        self.steps = steps
        self.step = 0
        self.cpu_s = 0.0
        self.wall_s = 0.0
        self._save_every_s = save_every_s
        self._stop = False
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def state_path(self) -> Path:
        """The file that training goes on from."""
        return self.folder / "state.pt"

    def resume(self, state: dict[str, Any]) -> None:
        """Take the counters of a saved state."""
        self.step, self.cpu_s, self.wall_s = state["step"], state["cpu_s"], state["wall_s"]

    def counters(self) -> dict[str, Any]:
        """Return what `resume` takes."""
        return {"step": self.step, "cpu_s": self.cpu_s, "wall_s": self.wall_s}

    def log(self, **values: float | int | str) -> None:
        """Append a line to the log and print it."""
        line = {"step": self.step, "cpu_min": round(self.cpu_s / 60, 2), "wall_min": round(self.wall_s / 60, 2)}
        for key, value in values.items():
            line[key] = round(value, 5) if isinstance(value, float) else value  # type: ignore[assignment]
        text = json.dumps(line)
        with (self.folder / "log.jsonl").open("a") as out:
            out.write(text + "\n")
        print(text, flush=True)

    def iterate(self, save: Callable[[], None]) -> Iterator[int]:
        """Yield step numbers until the end or SIGTERM; call `save` every few minutes and at the end.

        `cpu_s` counts the process's own CPU time, so that a suspended or crowded run is still told honestly.
        """
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        cpu, wall, saved = time.process_time(), time.monotonic(), time.monotonic()
        while self.step < self.steps and not self._stop:
            yield self.step
            self.step += 1
            now_cpu, now = time.process_time(), time.monotonic()
            self.cpu_s, self.wall_s = self.cpu_s + now_cpu - cpu, self.wall_s + now - wall
            cpu, wall = now_cpu, now
            if now - saved > self._save_every_s:
                save()
                saved = now
        save()

    @property
    def finished(self) -> bool:
        """Whether the last step was taken."""
        return self.step >= self.steps

    def _on_signal(self, number: int, frame: object) -> None:
        self._stop = True


def main() -> None:
    """Write a state at half its size."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("state", type=Path)
    parser.add_argument("compact", type=Path)
    options = parser.parse_args()
    save_state(options.compact, compact(torch.load(options.state, map_location="cpu", weights_only=True)))
    print(f"{options.compact}: {options.compact.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
