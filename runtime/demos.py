"""The models that ship with the package, and the example maps beside them."""

from __future__ import annotations

from pathlib import Path

import trt_vqgan
from trt_vqgan.errors import BundleError

DEMOS = ("class", "segmentation", "depth")
"""Models of one VQGAN: given a kind of landscape, a map of labels, or a map of disparity."""

LABELS = ("sky", "cloud", "water", "sand", "grass", "forest", "rock", "snow", "sun")
"""What the label ids of the demo "segmentation" mean."""

FOLDER = Path(trt_vqgan.__file__).parent / "demo" / "landscapes"


def demo_bundle(name: str = "class") -> Path:
    """Return the path of a demo, as `load` takes it.

    Raises
    ------
    BundleError : no demo of this name.
    """
    if name not in DEMOS:
        raise BundleError(f"demo: found {name!r}, wanted one of {', '.join(DEMOS)}")
    return FOLDER / f"{name}.json"


def example_maps(name: str) -> list[Path]:
    """Return the maps that ship for a demo, one of each kind of landscape; none for "class".

    Raises
    ------
    BundleError : no demo of this name.
    """
    demo_bundle(name)
    return sorted((FOLDER / "maps").glob(f"{name}-*.png"))
