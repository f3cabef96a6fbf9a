"""The loops that draw codes keep every promise with the CPU kernels: their own tests, run once more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime import small_models, test_code_generator, test_window_generator
from trt_vqgan.runtime.native.build import find_compiler, find_library
from trt_vqgan.runtime.native.engine import NativeEngine

if find_compiler() is None and find_library() is None:
    pytest.skip("no C++ compiler on this machine", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def native_engine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_models, "ENGINE", NativeEngine)
        yield


def test_it_is_the_cpu_kernels_that_run(model: small_models.SmallModel) -> None:
    assert isinstance(model.engine, NativeEngine)


for module in (test_code_generator, test_window_generator):
    globals().update({name: item for name, item in vars(module).items() if name.startswith("test_") or name == "model"})
