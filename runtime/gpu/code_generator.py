"""The generation loop of one model on a device: codes are drawn where the logits are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.code_generator import FREE, CodeGenerator, Work
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.state import Drawing
from trt_vqgan.spec import ModelSpec

Int64Array = npt.NDArray[np.int64]


class DeviceCodeGenerator(CodeGenerator):
    """`CodeGenerator` whose codes are drawn on the device, with nothing waited for between them.

    The same codes as the host's loop draws from the same logits. Steps are reported in groups, as the device is ahead
    of the host. Codes inside a bidirectional prefix, where each new one changes all the others, and those of one-pass
    models are drawn on the host from the device's logits.

    Parameters
    ----------
    spec : a model with a transformer.
    engine : runs it.
    """

    def __init__(self, spec: ModelSpec, engine: DeviceEngine) -> None:
        super().__init__(spec, engine)
        self._device_engine = engine

    def _draw_in_turn(self, work: Work, start: int, last: int) -> None:
        batch = len(work.codes)
        end = last + 1

        def on_codes(steps: int, codes: Int64Array) -> None:
            work.codes[:, start : start + steps] = codes[:, start : start + steps]
            work.show()

        drawing = Drawing(
            prefixes=tuple(work.sequence(start)),
            codes=np.where(work.free, FREE, work.codes),
            starts=np.full(batch, start),
            ends=np.full(batch, end),
            code_positions=self.positions,
            sampling=(work.sampling,) * batch,
            seeds=(work.seed,) * batch,
            pictures=work.pictures,
            guidance_scale=None if work.guidance is None else work.guidance.scale,
            codebook_size=self.spec.autoencoder.codebook_size,
        )
        drawn = self._device_engine.draw(
            drawing,
            on_steps=lambda steps: work.on_step(start + steps),
            on_codes=on_codes,
            show_after=[done - start for done in range(start + 1, end + 1) if work.is_shown(done)],
        )
        work.codes[:, start:end] = drawn[:, start:end]
