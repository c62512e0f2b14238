"""One row a network: its settings, what it was after a share of its training, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_complexity.studies.records import FOLDER, STEP, read_records

SETTING, EARLY, FINAL = "setting/", "early/", "final/"
MEASURES = "early/complexity/"
SEED = "setting/seed"
_JUDGED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "generalization_gap", "accuracy_gap")


def early_table(folder: str | Path, *, share: float = 0.1, settings: str = "settings.json") -> pd.DataFrame:
    """Read a folder of trainings: what each was after a share of its steps, and at its end.

    Args:
        folder: Of networks that studies trained, with a ``result.json`` for each, at any depth; or of records
            ``complexity.jsonl`` with a JSON of hyper-parameters beside each, as for
            :func:`~lightning_complexity.studies.read_records`.
        share: Of the training. The moment of that name of a result, which counts all steps that were allowed; of a
            record the last measurement at or before that share of the steps that were done.
        settings: Name of the JSON beside a record.

    Returns:
        Columns ``setting/...`` (also of the seed), ``early/...`` (measures: ``early/complexity/...``), ``final/...``.
        What was not measured is missing: so is all that is early of a network that had no measurement by
        then, but for its initialization.

    Raises:
        FileNotFoundError: If there are neither results nor records.
        ValueError: If ``share`` is not between 0 and 1, or a file cannot be read.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share!r}.")
    paths = sorted(Path(folder).rglob("result.json"))
    if paths:
        return pd.DataFrame([_row_of_result(path.parent, Path(folder), share) for path in paths])
    return _table_of_records(Path(folder), share, settings)


def _row_of_result(place: Path, folder: Path, share: float) -> dict[str, Any]:
    from lightning_complexity.studies.training.runs import Moment, read_result

    def judged(moment: Moment) -> dict[str, float | None]:
        values = (*moment.train, *moment.test, moment.generalization_gap, moment.accuracy_gap)
        return dict(zip(_JUDGED, values, strict=True))

    result = read_result(place)
    row: dict[str, Any] = {"folder": str(place.relative_to(folder))}
    row |= {SETTING + k: "None" if v is None else v for k, v in result.asked["setting"].items()}
    moment = result.moment(f"share {share:g}")
    if moment is not None and moment is not result.end:
        row |= {EARLY + k: v for k, v in judged(moment).items() if v is not None}
        row |= {MEASURES + k: moment.measures[k] for k in _whole(moment.measures)}
    return row | {FINAL + k: v for k, v in judged(result.end).items() if v is not None}


def _table_of_records(folder: Path, share: float, settings: str) -> pd.DataFrame:
    end = read_records(folder, settings=settings)
    if end.empty:
        raise ValueError(f"no network in {folder} has been measured yet.")
    end = end.set_index(FOLDER)
    early = read_records(folder, settings=settings, at=share).set_index(FOLDER)
    measured = [c for c in end.columns if re.match(r"(complexity|probe)/", c)]
    early = early.loc[early[STEP] > 0, _whole(c for c in early.columns if c in measured)]
    others = [c for c in end.columns if c not in measured and not c.startswith("record.")]
    table = pd.concat(
        [
            end[others].add_prefix(SETTING),
            early.add_prefix(EARLY),
            end[[c for c in measured if c.startswith("probe/")]].add_prefix(FINAL),
        ],
        axis=1,
    )
    return table.rename_axis("folder").reset_index()


def _whole(names: Iterable[str]) -> list[str]:
    """Measures of whole networks: neither standard errors, nor of single layers, nor what the monitor took."""
    return [
        n for n in names if "/" not in n.removeprefix("complexity/").removeprefix("probe/") and n[-9:] != "/overhead"
    ]
