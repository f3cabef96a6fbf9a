"""The running batch keeps its promises with the CPU kernels: its own tests, run once more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime import small_models
from tests.runtime.scheduler import test_running_batch
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


globals().update(
    {name: item for name, item in vars(test_running_batch).items() if name.startswith("test_") or name == "model"}
)
