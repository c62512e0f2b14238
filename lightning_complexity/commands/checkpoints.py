"""Checkpoints of Lightning as modules."""

from __future__ import annotations

import inspect
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightning_complexity.callbacks.base import LightningModule
from lightning_complexity.studies.training.runs import quiet

_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError),
    *(ValueError, LookupError, AttributeError, ImportError),
)
"""What torch.load raises at files that it did not save, and at objects that are not there."""


class Checkpoint(NamedTuple):
    """A module as it was at a moment of its training.

    Attributes:
        path: Of the file.
        module: In evaluation mode, on the CPU.
        step: Completed optimizer steps; -1 where the file does not say.
        epoch: Index of the epoch; -1 where the file does not say.
    """

    path: Path
    module: LightningModule
    step: int
    epoch: int


def checkpoint_files(paths: Iterable[Path]) -> list[Path]:
    """Files, and those of folders whose names end in ``.ckpt``, each once.

    Args:
        paths: Of files and folders.

    Raises:
        FileNotFoundError: If there is no such file, or no checkpoint in a folder.
    """
    found: dict[Path, None] = {}
    for path in paths:
        files = sorted(path.rglob("*.ckpt"), key=_natural) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"there is no file *.ckpt in {path}.")
        if not files[0].is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}.")
        found |= dict.fromkeys(files)
    return list(found)


def _natural(path: Path) -> list[Any]:
    """So that step 9 comes before step 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(path))]


def load_checkpoint(path: Path, make: Callable[..., LightningModule], *, trust: bool = False) -> Checkpoint:
    """The module that a checkpoint is of.

    Args:
        path: A checkpoint of Lightning, or a file with nothing but a ``state_dict``.
        make: Its class, which is called with the hyper-parameters that the checkpoint has; or a function without
            arguments that makes such a module.
        trust: Whether to load objects other than tensors, numbers and containers, which can run code.

    Raises:
        ValueError: If the file is no checkpoint, holds such objects, or is of another module.
    """
    content = _content(path, trust)
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no parameters: it is neither a checkpoint of Lightning nor a state_dict.")
    module = _made(path, make, content.get("hyper_parameters") or {})
    if "state_dict" in content:
        module.on_load_checkpoint(content)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} is not of {_name(make)}: {_first_difference(error)}") from error
    return Checkpoint(path, module.eval(), int(content.get("global_step", -1)), int(content.get("epoch", -1)))


def _content(path: Path, trust: bool) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=not trust)
    except _UNREADABLE as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named or (isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path)):
            what = f"objects such as {named[1]}" if named else "what cannot be read as tensors"
            raise ValueError(
                f"{path} holds {what}. If you know where the file comes from, --trust loads it, which can run code of "
                "it."
            ) from error
        # Of what is no pickle torch says that without weights_only it would load, which it would not.
        said = "" if isinstance(error, pickle.UnpicklingError) else str(error).partition("\n")[0]
        why = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise ValueError(
            f"{path} is no file that torch has saved, or is cut off: it cannot be loaded ({why})."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; needed is a checkpoint of Lightning.")
    return content


def _made(path: Path, make: Callable[..., LightningModule], found: dict[str, Any]) -> LightningModule:
    parameters = inspect.signature(make).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {name: value for name, value in found.items() if takes_all or name in parameters}
    try:
        with quiet():
            module = make(**given)
    except TypeError as error:
        raise ValueError(
            f"{_name(make)} cannot be made with the hyper-parameters in {path} ({', '.join(given) or 'none'}): "
            f"{error}. Call save_hyperparameters() in it, or give --model a function that makes it."
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"{_name(make)} must make a LightningModule, got {type(module).__name__}.")
    return module


def _name(make: Callable[..., Any]) -> str:
    return getattr(make, "__qualname__", repr(make))


def _first_difference(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0]
