"""Which tokens a scene model's layout becomes, as far as its config says.

Sources: ``cond_stage_key`` names the published conditional builder ("objects_bbox" or "objects_center_points", as
``Net2NetTransformer.log_images`` and ``AnnotatedObjectsDataset.conditional_builders`` know them), and the data sets'
``encode_crop`` whether the crop's two tokens follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trt_vqgan.spec import LayoutForm, ModelSpec, fitting_layout_forms

_BUILDERS = {"objects_bbox": "boxes", "objects_center_points": "points"}


def layout_form(config: Mapping[str, Any], spec: ModelSpec) -> LayoutForm | None:
    """Return the form of the layout tokens of a model whose condition is boxes; None where the config doesn't say."""
    if spec.condition is None or spec.condition.kind != "boxes":
        return None
    objects = next((_BUILDERS[key] for key in _keys(config) if key in _BUILDERS), None)
    forms = [form for form in fitting_layout_forms(spec.condition.num_tokens) if form.partition("+")[0] == objects]
    if len(forms) > 1:
        crops = {crop for crop in _encoded_crops(config) if isinstance(crop, bool)}
        forms = [form for form in forms if {form.endswith("+crop")} == crops]
    return forms[0] if len(forms) == 1 else None


def _keys(config: Mapping[str, Any]) -> Iterator[object]:
    for path in (("cond_stage_key",), ("cond_stage_config", "params", "conditional_key")):
        value = _inside(config, "model", "params", *path)
        if isinstance(value, str):
            yield value


def _encoded_crops(config: Mapping[str, Any]) -> Iterator[object]:
    for split in ("train", "validation", "test"):
        yield _inside(config, "data", "params", split, "params", "encode_crop")


def _inside(config: object, *path: str) -> object:
    """Return what lies at a path of keys, or None: a data set's section may have any form, or be left out."""
    for key in path:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config
