"""What a server tells about its model."""

from __future__ import annotations

from typing import Any

import trt_vqgan
from trt_vqgan.manifest import read_manifest
from trt_vqgan.runtime.condition_encoder import argument_name
from trt_vqgan.runtime.demos import LABELS, demo_bundle
from trt_vqgan.runtime.server.service import Service


def model_json(service: Service) -> dict[str, Any]:
    """Return what a client needs to ask for pictures."""
    pipeline, settings = service.pipeline, service.settings
    manifest, spec = pipeline.manifest, pipeline.spec
    autoencoder, condition = spec.autoencoder, spec.condition
    takes: dict[str, Any] | None = None
    if condition is not None:
        field = argument_name(condition)
        maps = condition.autoencoder
        takes = {
            "kind": condition.kind,
            "field": "class" if field == "class_id" else None if field == "coordinates" else field,
            "tokens": condition.num_tokens,
            "classes": _classes(service),
            "null_class": manifest.null_class,
            "labels": maps.in_channels if maps is not None and maps.modality == "segmentation" else None,
            "label_names": _label_names(service),
            "layout_classes": list(manifest.layout_classes),
        }
    defaults = manifest.sampling
    return {
        "id": pipeline.bundle_id,
        "version": trt_vqgan.__version__,
        "generates": spec.transformer is not None,
        "backend": pipeline.backend_details,
        "precision": pipeline.precision,
        "resolution": autoencoder.resolution,
        "factor": autoencoder.factor,
        "grid": autoencoder.latent_size,
        "codebook_size": autoencoder.codebook_size,
        "condition": takes,
        "guidance": manifest.null_class is not None,
        "sampling": {"temperature": defaults.temperature, "top_k": defaults.top_k, "top_p": defaults.top_p},
        "limits": {
            "pictures": settings.max_pictures,
            "pixels": settings.max_pixels,
            "body_bytes": settings.max_body_bytes,
            "timeout_s": settings.max_deadline_s,
            "rows": settings.rows,
            "queue": settings.queue_limit,
        },
    }


def _label_names(service: Service) -> list[str] | None:
    """Return the names of the labels, which a bundle doesn't hold; those of the demo are known."""
    demo = demo_bundle("segmentation")
    is_demo = demo.is_file() and read_manifest(demo).bundle_id == service.pipeline.bundle_id
    return list(LABELS) if is_demo else None


def _classes(service: Service) -> list[str]:
    manifest, condition = service.pipeline.manifest, service.pipeline.spec.condition
    if manifest.class_names:
        return list(manifest.class_names)
    return [str(i) for i in range(condition.num_classes)] if condition is not None and condition.kind == "class" else []
