"""The manifest reader: any text gives a manifest or one BundleError that names it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_manifest import plain, with_gpu
from trt_vqgan.errors import BundleError
from trt_vqgan.manifest import Manifest, manifest_from_json, manifest_to_json

SHORT, LONG = 200, 40_000

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 1, 1 << 31, 1 << 63, 1 << 200, 1e308, -0.0, "", "../x", "a\0b", "é", "fp16", "class"])
    | st.floats()
    | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
originals = st.sampled_from([json.loads(manifest_to_json(manifest)) for manifest in (plain(), with_gpu())])


@st.composite
def changed_manifests(draw: st.DrawFn) -> str:
    """A manifest in which values are replaced, removed, added or renamed; then maybe a damaged text."""
    tree = copy.deepcopy(draw(originals))
    for _ in range(draw(st.integers(1, 3))):
        node: Any = tree
        while True:
            keys = sorted(node, key=str) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            change = draw(st.sampled_from(["replace", "remove", "add", "swap"]))
            if change == "replace":
                node[key] = draw(values)
            elif change == "remove":
                del node[key]
            elif isinstance(node, list):
                node.append(draw(values))
            elif change == "add":
                node[draw(st.text(max_size=6))] = draw(values)
            else:
                other = draw(st.sampled_from(keys))
                node[key], node[other] = node[other], node[key]
            break
    text = json.dumps(tree)
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text(max_size=4)) + text[at + draw(st.integers(0, 4)) :]
    return text


def check(text: str) -> Manifest | None:
    """Read a text; what comes out is a manifest that can be written again, or one error."""
    refusal = ""
    try:
        manifest = manifest_from_json(text, "the/manifest.json")
    except BundleError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("the/manifest.json"), refusal
        return None
    assert manifest_from_json(manifest_to_json(manifest)) == manifest
    return manifest


@settings(max_examples=SHORT, deadline=None)
@given(changed_manifests())
def test_changed_manifests(text: str) -> None:
    check(text)


@settings(max_examples=SHORT // 2, deadline=None)
@given(st.text(max_size=60) | values.map(json.dumps))
def test_other_texts(text: str) -> None:
    check(text)


@pytest.mark.slow
@settings(max_examples=LONG, deadline=None)
@given(changed_manifests())
def test_many_changed_manifests(text: str) -> None:
    check(text)


def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(manifest_to_json(plain())) == plain()

    def refuse(text: str, where: str = "") -> Manifest:
        raise BundleError("something is wrong")

    monkeypatch.setattr("tests.test_manifest_fuzz.manifest_from_json", refuse, raising=True)
    with pytest.raises(AssertionError, match="something is wrong"):
        check("{}")
