"""What a picture of a choice shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lightning_complexity.selection import Points, picture_of_front, read_points


@pytest.fixture
def points() -> Points:
    frame = pd.DataFrame({"size": [10, 20, 60, 900], "error": [0.30, 0.12, 0.14, 0.10], "spread": 0.03, "third": 1.0})
    directions = {"error": "minimize", "size": "minimize", "third": "minimize"}
    return read_points(frame, directions, standard_errors={"error": "spread"})


def test_front_band_knee_and_choice_are_drawn_where_they_are(points: Points, tmp_path: Path) -> None:
    choice = points.simplest("error", "size")
    figure = picture_of_front(points, choice)
    (axes,) = figure.axes
    lines = {line.get_label(): np.column_stack(line.get_data()).tolist() for line in axes.lines}
    assert lines["front"] == [[10, 0.30], [20, 0.12], [900, 0.10]]
    assert lines["knee"] == lines["chosen: row 1"] == [[20, 0.12]]
    assert lines["best: row 3"] == [[900, 0.10]]
    (band,) = axes.patches
    assert band.get_y() == pytest.approx(0.10)
    assert band.get_height() == pytest.approx(0.03)
    assert axes.get_title(loc="left").replace("\n", " ") == choice.sentence
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("size", "error", "log")
    figure.savefig(tmp_path / "front.png")


def test_without_a_choice_the_first_two_objectives(points: Points, tmp_path: Path) -> None:
    figure = picture_of_front(points)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("size", "error")
    assert not figure.axes[0].patches
    figure.savefig(tmp_path / "front.png")


def test_one_model(tmp_path: Path) -> None:
    frame = pd.DataFrame({"accuracy": [0.9], "size": [10], "spread": 0.01})
    directions = {"accuracy": "maximize", "size": "minimize"}
    points = read_points(frame, directions, standard_errors={"accuracy": "spread"})
    picture_of_front(points, points.simplest()).savefig(tmp_path / "front.png")


def test_names_are_no_formulas(tmp_path: Path) -> None:
    frame = pd.DataFrame({"$err_": [0.1, 0.2], "US$ ^": [10, 5], "s": 0.01}, index=["a$_{", "b"])
    points = read_points(frame, {"$err_": "minimize", "US$ ^": "minimize"}, standard_errors={"$err_": "s"})
    picture_of_front(points, points.simplest()).savefig(tmp_path / "front.png")


def test_a_picture_of_other_objectives_is_refused(points: Points) -> None:
    other = read_points(points.values, {"error": "minimize"})
    with pytest.raises(ValueError, match="two objectives"):
        picture_of_front(other)
    with pytest.raises(ValueError, match="it is by 'size'"):
        picture_of_front(other, points.simplest("error", "size"))
