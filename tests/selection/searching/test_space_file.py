"""Spaces in YAML: what is read, what a trial is asked for, and mistakes with their line and name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lightning_complexity.selection.searching.space_file import ParameterSpace, read_space

YAML = """
width: {type: int, low: 4, high: 64, log: true}
depth: {type: int, low: 1, high: 5, step: 2}
lr: {type: float, low: 1e-4, high: 1e-1, log: true}   # YAML 1.1 takes 1e-4 for a word
optimizer: [adam, sgd]
momentum: {type: float, low: 0, high: 0.9, when: {optimizer: sgd}}
rate: {type: categorical, choices: [1e-3, 0.5, null, true]}
hidden: [8, 16]
name: fixed
"""


def space_of(text: str, folder: Path) -> ParameterSpace:
    (folder / "space.yaml").write_text(text)
    return ParameterSpace(read_space(folder / "space.yaml"))


def test_what_trials_are_asked_for(tmp_path: Path) -> None:
    space = space_of(YAML, tmp_path)
    choices = {"width": 8, "depth": 3, "lr": 1e-3, "optimizer": "sgd", "momentum": 0.5, "rate": None, "hidden": 16}
    structure = space.read(choices)
    assert space.distributions(structure) == {
        "width": IntDistribution(4, 64, log=True),
        "depth": IntDistribution(1, 5, step=2),
        "lr": FloatDistribution(1e-4, 1e-1, log=True),
        "optimizer": CategoricalDistribution(("adam", "sgd")),
        "momentum": FloatDistribution(0.0, 0.9),
        "rate": CategoricalDistribution((1e-3, 0.5, None, True)),
        "hidden": CategoricalDistribution((8, 16)),
    }
    assert space.parameters(structure) == choices
    assert space.arguments(structure) == {**choices, "name": "fixed"}
    assert space.describe(structure).startswith("width=8, depth=3, lr=0.001, optimizer=sgd, momentum=0.5")


def test_a_parameter_with_a_condition_is_there_with_it_alone(tmp_path: Path) -> None:
    space = space_of(YAML, tmp_path)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = [space.arguments(space.suggest(study.ask())) for _ in range(20)]
    assert {a["optimizer"] for a in found} == {"adam", "sgd"}
    assert all(("momentum" in a) == (a["optimizer"] == "sgd") for a in found)


def test_conditions_on_what_is_not_there_either(tmp_path: Path) -> None:
    text = "a: [1, 2]\nb: {type: categorical, choices: [x, y], when: {a: 1}}\n"
    text += "c: {type: fixed, value: 3, when: {b: [x, y]}}"
    space = space_of(text, tmp_path)
    assert space.arguments(space.read({"a": 2})) == {"a": 2}
    assert space.arguments(space.read({"a": 1, "b": "y"})) == {"a": 1, "b": "y", "c": 3}


MISTAKES: list[tuple[str, str]] = [
    ("a: {type: integer, low: 1, high: 2}", "line 1: a has the unknown type 'integer'; types are int, .* mean int"),
    ("a: {low: 1, high: 2}", "line 1: a has no type; types are int, float, categorical, fixed"),
    ("b: [1]\na: {type: int, low: 9, high: 2}", "line 2: a: low 9 is greater than high 2"),
    ("a: []", "line 1: a needs choices, a list of at least one, got []"),
    ("a: {type: categorical}", "line 1: a needs choices, a list of at least one, got None"),
    ("a: [1, 1]", "line 1: a has the choice 1 twice"),
    ("a: [[1, 2], 3]", "line 1: a: choices must be numbers, words, true, false or null, got [1, 2]"),
    ("a: [1]\n\na: [2]", "line 3: a is there twice"),
    ("a: {type: int, low: 1, low: 2, high: 3}", "line 1: a has 'low' twice"),
    ("a: {type: int, low: 1, hgih: 3}", "line 1: a has the unknown entry 'hgih'; int has .* Did you mean high"),
    ("a: {type: int, low: 1}", "line 1: a needs high"),
    ("a: {type: int, low: 1.5, high: 3}", "line 1: a: low must be a whole number, got 1.5"),
    ("a: {type: float, low: small, high: 3}", "line 1: a: low must be a number, got 'small'"),
    ("a: {type: float, low: 0, high: 3, log: true}", "line 1: a: with log, low must be greater than 0, got 0"),
    ("a: {type: float, low: 1, high: 3, log: maybe}", "line 1: a: log must be true or false, got 'maybe'"),
    ("a: {type: float, low: 1, high: 3, log: true, step: 1}", "line 1: a cannot have both log and step"),
    ("a: {type: int, low: 1, high: 3, step: 0}", "line 1: a: step must be greater than 0, got 0"),
    ("a: {type: fixed}", "line 1: a is fixed and needs a value"),
    ("b: [1]\na: {type: fixed, value: 2020-01-01}", "line 2: a must be numbers, words, lists or mappings"),
    ("a: 3", "has nothing to choose from: all parameters are fixed"),
    ("b: [1, 2]\na: {type: int, low: 1, high: 3, when: {c: 1}}", "line 2: a: when names 'c', which is no parameter"),
    ("b: [1, 2]\na: {type: int, low: 1, high: 3, when: {b: 3}}", "line 2: a: when says b: 3, which is no choice of b"),
    ("b: [1, 2]\na: {type: int, low: 1, high: 3, when: b}", "line 2: a: when must be such as {optimizer: sgd}"),
    ("a: [1, 2\nb: 3", "line 2: this is no YAML: "),
    ("a: {type: int\n", "line 2: this is no YAML: "),
    ("- a\n- b", "must have an entry for each parameter"),
    ("", "must have an entry for each parameter"),
    ("a: !!python/object:os.system x", "a cannot be read: could not determine a constructor"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes(text: str, message: str, tmp_path: Path) -> None:
    pattern = re.escape(message).replace(re.escape(".*"), ".*")
    with pytest.raises(ValueError, match=pattern) as raised:
        space_of(text, tmp_path)
    assert "space.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match="is no text"):
        read_space(tmp_path / "space.yaml")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_space(tmp_path)


def test_a_space_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    import json

    space = space_of(YAML, tmp_path)
    again: Any = json.loads(json.dumps(space.definitions))
    assert ParameterSpace(again).definitions == space.definitions
    assert list(again) == list(space.definitions)
