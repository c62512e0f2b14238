"""Let torchvision import beside a torch that its compiled part was not built for.

timm and lightly import it for transforms and models that are written in Python. torchvision itself asks for two of its
compiled operators while it is imported, and fails where they are not there.
"""

from __future__ import annotations

from importlib import import_module

import torch

OPERATORS = ("nms", "qnms")
_library: torch.library.Library | None = None  # operators live as long as this object


def declare() -> None:
    """Declare the operators, without an implementation, where importing torchvision fails for want of them."""
    global _library
    try:
        import_module("torchvision")
    except RuntimeError:
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in OPERATORS:
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
