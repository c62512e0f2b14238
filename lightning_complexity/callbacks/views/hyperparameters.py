"""Columns of complexity in TensorBoard's table of hyper-parameters.

TensorBoard takes the columns from the first description of an experiment that it finds in a run, and the
hyper-parameters from the first start of a session. So where Lightning is about to write these, with ``hp_metric`` for
the only column, a description with more columns comes before it, and the rest is Lightning's. Where nothing of the kind
was written by the end, all of it is written then. A logger with ``default_hp_metric=False`` is left to its user.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from lightning_complexity.callbacks.base import LightningModule, Trainer, will_validate
from lightning_complexity.callbacks.keys import named_key
from lightning_complexity.callbacks.views.boards import Board, attempt, boards
from lightning_complexity.metrics import ComplexityMetric

_DEFAULT = "hp_metric"
_GAP, _FIT = "probe/generalization_gap", ("probe/val_loss", "probe/val_accuracy", "probe/accuracy_gap")

Metrics = Sequence[tuple[str | None, ComplexityMetric]]


def columns(metrics: Metrics, *, validates: bool) -> list[str]:
    """Log keys that become columns: gaps first, since TensorBoard shows the first five at once; then cheap measures.

    Args:
        metrics: Each with the name of its monitor.
        validates: Whether there are validation samples.

    Example:
        >>> from lightning_complexity.metrics import ParameterNorm
        >>> columns([(None, ParameterNorm())], validates=True)[:3]
        ['probe/generalization_gap', 'complexity/parameter_norm', 'probe/val_loss']
    """
    names = list(dict.fromkeys(name for name, _ in metrics)) if validates else []
    in_order = sorted(metrics, key=lambda pair: pair[1].cost != "weights")
    return [
        *(named_key(_GAP, name) for name in names),
        *(named_key(f"complexity/{metric.name}", name) for name, metric in in_order),
        *(named_key(key, name) for name in names for key in _FIT),
    ]


def announce(trainer: Trainer, module: LightningModule, metrics: Metrics) -> None:
    """Before Lightning writes hyper-parameters, say which columns there will be.

    Args:
        trainer: About to train.
        module: Whose hyper-parameters Lightning writes.
        metrics: That will be measured, each with the name of its monitor.
    """
    parameters = _saved(trainer, module)
    if parameters is None:
        return
    keys = columns(metrics, validates=will_validate(trainer))
    for board in _willing(trainer):
        tags = [_DEFAULT, *map(board.tag, keys)]
        attempt(trainer, board.writer, "columns", partial(_write, board, parameters, tags, only_columns=True))


def conclude(trainer: Trainer, module: LightningModule, metrics: Metrics, measured: Collection[str]) -> None:
    """At the end, where nobody has written hyper-parameters, write what the trainer knows, with the columns.

    Args:
        trainer: That has trained.
        module: That was trained.
        metrics: Each with the name of its monitor.
        measured: Log keys of all that has a value.
    """
    if _saved(trainer, module) is not None:
        return
    keys = [key for key in columns(metrics, validates=True) if key in measured]
    for board in _willing(trainer):
        if not getattr(board.logger, "hparams", None):
            attempt(trainer, board.writer, "columns", partial(_write_settings, board, trainer, module, keys))


def _write_settings(board: Board, trainer: Trainer, module: LightningModule, keys: list[str]) -> None:
    _write(board, settings(trainer, module), [*map(board.tag, keys)])


def settings(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What a trainer knows of how it trains, as hyper-parameters of a run that saved none."""
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in module.parameters())}
    optimizer = next(iter(trainer.optimizers), None)
    if optimizer is not None:
        group = optimizer.param_groups[0]
        rate = group.get("initial_lr", group.get("lr"))
        found |= {"optimizer": type(optimizer).__name__} | ({} if rate is None else {"learning_rate": float(rate)})
    size = getattr(trainer.train_dataloader, "batch_size", None)
    return found | ({"batch_size": size} if isinstance(size, int) else {})


def _willing(trainer: Trainer) -> list[Board]:
    return [board for board in boards(trainer) if getattr(board.logger, "_default_hp_metric", False)]


def _saved(trainer: Trainer, module: LightningModule) -> dict[str, Any] | None:
    """The hyper-parameters that Lightning writes when training starts; ``None`` if it writes none."""
    sources = [module, *([] if trainer.datamodule is None else [trainer.datamodule])]
    saved = [source.hparams_initial for source in sources if getattr(source, "_log_hyperparams", False)]
    return {k: v for parameters in saved for k, v in parameters.items() if k != "_class_path"} if saved else None


def _write(board: Board, parameters: dict[str, Any], tags: list[str], *, only_columns: bool = False) -> None:
    """Write the description of the experiment, and unless Lightning does it the session."""
    from lightning_fabric.utilities.logger import _convert_params, _flatten_dict, _sanitize_params

    package = type(board.writer).__module__.rpartition(".")[0]
    flat = _sanitize_params(_flatten_dict(_convert_params(parameters)))
    parts = sys.modules[f"{package}.summary"].hparams(flat, dict.fromkeys(tags, 0.0))
    for summary in parts[:1] if only_columns else parts:
        board.writer._get_file_writer().add_summary(summary)
