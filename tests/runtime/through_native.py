"""Lets a module of tests run once more with the CPU kernels: import its names into one that holds those tests."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.runtime import small_models
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


def once_more(module: ModuleType) -> dict[str, Any]:
    """Return the tests of a module and the fixture of its models, by name."""
    return {name: item for name, item in vars(module).items() if name.startswith("test_") or name == "model"}
