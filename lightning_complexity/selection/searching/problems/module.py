"""A user's own module: parameters of the space are arguments of its class, and Lightning trains it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from lightning_complexity.callbacks.base import Callback, lightning_of
from lightning_complexity.callbacks.finding import find_task
from lightning_complexity.callbacks.probe import draw
from lightning_complexity.network import Snapshot, Task
from lightning_complexity.selection.searching.description import Search
from lightning_complexity.selection.searching.problems.base import Problem, Values
from lightning_complexity.selection.searching.pruning import Watch
from lightning_complexity.selection.searching.quantities import TrialError, measure_named, measured, named_values
from lightning_complexity.selection.searching.space_file import ParameterSpace
from lightning_complexity.selection.spaces.base import Structure
from lightning_complexity.studies.importing import load_object
from lightning_complexity.studies.training.runs import quiet
from lightning_complexity.studies.training.user import loaders, seeded

DATA_PREFIX = "data."
_WANTED_MONITORS = ("val_loss", "val/loss", "valid_loss", "validation_loss", "val_error")
_MODULE = (("training_step", "configure_optimizers"), "LightningModule")
_DATA = (("train_dataloader", "setup"), "LightningDataModule")


class ModuleProblem(Problem):
    """Trains a user's module on a user's data; repeats are seeds.

    Parameters of the space are keyword arguments of the module's class; those that begin with ``data.`` are of the
    class of the data. The first objective is a value that the module logs, as it is at the end of training.

    Args:
        search: The search.

    Raises:
        ValueError: If a path names nothing, or a class does not take a parameter.
    """

    def __init__(self, search: Search) -> None:
        if search.model is None or search.datamodule is None or search.parameters is None:
            raise ValueError("a module of one's own needs --model, --datamodule and a YAML file as --space.")
        self.search, self.space = search, ParameterSpace(search.parameters)
        self.parameter_space = self.space
        self.outcomes = [] if search.monitor is None else [search.monitor]
        self._model = load_object(search.model, "--model")
        self._datamodule = load_object(search.datamodule, "--datamodule")
        for_data = [name.removeprefix(DATA_PREFIX) for name in search.parameters if name.startswith(DATA_PREFIX)]
        for_model = [name for name in search.parameters if not name.startswith(DATA_PREFIX)]
        check_arguments(self._model, for_model, f"--model {search.model}", search.space)
        check_arguments(self._datamodule, for_data, f"--datamodule {search.datamodule}", search.space)

    def values(self, structure: Structure, watch: Watch | None, folder: Path) -> Values:
        """Logged values and measures of one training for each seed."""
        found: Values = {name: [] for name in self.search.names}
        for repeat in range(self.search.repeats):
            seen = None if watch is None or repeat else watch
            scores = self._trained(structure, repeat, seen, folder / f"repeat-{repeat}")
            for name, values in found.items():
                values.append(scores[name])
        return named_values(found)

    def _trained(self, structure: Structure, repeat: int, watch: Watch | None, folder: Path) -> dict[str, float]:
        with seeded(self.search.seed * 1000 + repeat), quiet():
            module, data = self._made(structure)
            initial = {name: p.detach().clone() for name, p in module.named_parameters()}
            callbacks = [] if watch is None else [_EpochWatch(watch)]
            logger = lightning_of(module).loggers.CSVLogger(str(folder), name="", version="")
            fit(module, data, callbacks, logger, max_epochs=self.search.max_epochs)
            logged = logged_values(module.trainer)
            scores = {name: self._logged(name, logged) for name in self.search.names if measure_named(name) is None}
            return scores | self._measured(module, data, initial)

    def _made(self, structure: Structure) -> tuple[Any, Any]:
        of_model, of_data = _parted(self.parameter_space.arguments(structure))
        return (
            made(self._model, of_model, f"--model {self.search.model}", *_MODULE),
            made(self._datamodule, of_data, f"--datamodule {self.search.datamodule}", *_DATA),
        )

    def _logged(self, name: str, logged: Mapping[str, float]) -> float:
        if name not in logged:
            raise TrialError(f"{name} was never logged; logged are {', '.join(logged) or 'no values'}")
        if not math.isfinite(logged[name]):
            raise TrialError(f"training diverged: {name} is {logged[name]} at its end")
        return logged[name]

    def _measured(self, module: Any, data: Any, initial: dict[str, torch.Tensor]) -> dict[str, float]:
        if not any(measure_named(name) for name in self.search.names):
            return {}
        loader, _ = loaders(data)
        batches = draw(loader, self.search.probe, module.trainer, module)
        try:
            task = find_task(module, batches.batches[0], Task())
            snapshot = Snapshot(module, batches, task=task, initial=initial)
            return measured(self.search.names, module, snapshot, _one_input(snapshot))
        except ValueError as error:
            raise TrialError(f"it cannot be measured: {error}") from error

    def finished(self, structure: Structure, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """How the module is made."""
        arguments = self.parameter_space.arguments(structure)
        of_model, of_data = _parted(arguments)
        line = f"Make it by {_call(self.search.model, of_model)}"
        line += f" with {_call(self.search.datamodule, of_data)}" if of_data else ""
        return {"arguments": arguments}, [f"{line}."]

    def settled(self) -> Search:
        """The search with its monitor and the direction of what is logged, found in one batch of a training.

        Raises:
            ValueError: If the module cannot be trained, or nothing that could be the monitor is logged.
        """
        import optuna

        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self.search.seed))
        structure = self.space.suggest(study.ask())
        try:
            with seeded(self.search.seed), quiet():
                module, data = self._made(structure)
                fit(module, data, [], False, fast_dev_run=True)
                logged = logged_values(module.trainer)
        except TrialError as error:
            if self.search.monitor is not None:  # other parameters may do better, and what they log is not known
                self.outcomes = list(dict.fromkeys([self.search.monitor, *self.search.names]))
                return self.search
            raise ValueError(
                f"a first try, to see what is logged, failed with {self.space.describe(structure)}: {error}. If that "
                "is no fault of the module, give --monitor."
            ) from error
        self.outcomes = list(logged)
        asked = self.search.monitor or next((name for name in self.search.goals if name in logged), None)
        return replace(self.search, monitor=chosen_monitor(asked, list(logged)))


def _parted(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the module, and of the data."""
    of_data = {n.removeprefix(DATA_PREFIX): v for n, v in arguments.items() if n.startswith(DATA_PREFIX)}
    return {n: v for n, v in arguments.items() if not n.startswith(DATA_PREFIX)}, of_data


def _call(path: str | None, arguments: Mapping[str, Any]) -> str:
    return f"{str(path).partition(':')[2]}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def chosen_monitor(asked: str | None, logged: list[str]) -> str:
    """Which logged value is the first objective.

    Args:
        asked: The one that was given.
        logged: Those that there are.

    Raises:
        ValueError: If the one that was given is not logged, or none of the logged ones is of the validation.

    Example:
        >>> chosen_monitor(None, ["train_loss", "val_acc", "val_loss"])
        'val_loss'
    """
    there = f"logged are {', '.join(logged)}" if logged else "nothing is logged: call self.log in validation_step"
    if asked is not None:
        if asked not in logged:
            close = get_close_matches(asked, logged, n=1)
            raise ValueError(
                f"--monitor {asked} is not logged; {there}.{f' Did you mean {close[0]}?' if close else ''}"
            )
        return asked
    of_validation = [name for name in logged if "val" in name.lower()]
    by_choice = [
        *(name for name in _WANTED_MONITORS if name in logged),
        *(name for name in of_validation if "loss" in name.lower()),
        *of_validation,
    ]
    if not by_choice:
        raise ValueError(f"no value of the validation is logged that could be minimized; {there}. Give --monitor.")
    return by_choice[0]


def fit(module: Any, data: Any, callbacks: list[Any], logger: Any, **options: Any) -> None:
    """Train without a word.

    Raises:
        TrialError: If the training raises an error.
    """
    from optuna.exceptions import TrialPruned

    trainer = lightning_of(module).Trainer(
        devices=1,
        callbacks=callbacks,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    try:
        trainer.fit(module, datamodule=data)
    except TrialPruned:
        raise
    except SystemExit as error:  # which Lightning makes of an interrupt
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise TrialError(f"training ended the program, with {error.code}") from error
    except Exception as error:
        raise TrialError(f"training raised {type(error).__name__}: {error}") from error


def logged_values(trainer: Any) -> dict[str, float]:
    """What was logged, as it is at the end; of values of steps and of epochs the latter."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def check_arguments(factory: Any, names: list[str], what: str, file: str) -> None:
    """Say which parameters a class does not take, and which it needs.

    Args:
        factory: The class.
        names: Of the parameters.
        what: The class, for the error.
        file: Where the parameters are from, for the error.

    Raises:
        ValueError: At such a parameter.
    """
    if not callable(factory):
        raise ValueError(f"{what} must be a class or a function, got {type(factory).__name__}.")
    parameters = inspect.signature(factory).parameters
    keywords = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    for name in names:
        if name not in keywords and not takes_all:
            close = get_close_matches(name, keywords, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"{what} does not take {name!r} of {file}; it takes {', '.join(keywords) or 'nothing'}.{hint}"
            )
    if missing := [n for n in keywords if parameters[n].default is inspect.Parameter.empty and n not in names]:
        raise ValueError(f"{what} needs {', '.join(missing)}, and {file} does not give it.")


def made(factory: Any, arguments: Mapping[str, Any], what: str, methods: tuple[str, ...], kind: str) -> Any:
    """An object of a user's class.

    Raises:
        TrialError: If it cannot be made, or is of another kind.
    """
    try:
        found = factory(**arguments)
    except Exception as error:
        raise TrialError(f"{what} cannot be made: {type(error).__name__}: {error}") from error
    if not all(callable(getattr(found, method, None)) for method in methods):
        raise TrialError(f"{what} must make a {kind}, got {type(found).__name__}")
    return found


def _one_input(snapshot: Snapshot) -> Any:
    """One sample where inputs are a tensor; else all of them."""
    inputs = snapshot.inputs
    return inputs[:1] if isinstance(inputs, torch.Tensor) else inputs


class _EpochWatch(Callback):
    """Lets a watch see the module after each epoch."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._watch.epoch(trainer.current_epoch + 1, logged_values(trainer), pl_module)
