"""Objects that users name by import paths."""

from __future__ import annotations

import importlib
import os
import sys
from difflib import get_close_matches
from typing import Any


def load_object(path: str, option: str) -> Any:
    """What an import path names.

    Args:
        path: ``package.module:Class``, from the installed packages or the current folder.
        option: What the path was given as, for errors.

    Raises:
        ValueError: If the path has another form, or names nothing.

    Example:
        >>> load_object("torch.nn:Linear", "--module")
        <class 'torch.nn.modules.linear.Linear'>
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"{option} must be an import path such as package.module:Class, got {path!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{option} {path}: there is no module {error.name!r}, also not in {os.getcwd()}.") from error
    if not hasattr(module, name):
        close = get_close_matches(name, dir(module), n=2)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"{option} {path}: {module_name} has no {name!r}.{hint}")
    return getattr(module, name)
