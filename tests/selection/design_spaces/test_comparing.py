"""Verdicts on two spaces, their pictures and their command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lightning_complexity.cli import main
from lightning_complexity.selection.design_spaces import pictures
from lightning_complexity.selection.design_spaces.comparing import SpaceComparison, compare_spaces
from lightning_complexity.selection.design_spaces.sampling import read_space
from lightning_complexity.selection.design_spaces.sizes import sample_size


def space(seed: int, low: float, high: float, shift: float = 0.0, count: int = 300) -> pd.DataFrame:
    """Errors fall with the size."""
    generator = np.random.default_rng(seed)
    size = generator.uniform(low, high, count)
    return pd.DataFrame({"size": size, "error": 0.5 - 0.03 * size + shift + generator.normal(0, 0.01, count)})


@pytest.fixture(scope="module")
def comparison() -> SpaceComparison:
    return compare_spaces(space(0, 1, 8), space(1, 3, 10, 0.02), complexity="size", names=("small", "large"), draws=200)


def test_larger_networks_are_better_until_sizes_are_equal(comparison: SpaceComparison) -> None:
    assert (comparison.plain.better, comparison.normalized.better, comparison.changes) == (1, 0, True)  # type: ignore[union-attr]
    text = str(comparison)
    lines = text.splitlines()
    assert lines[0] == "error of 300 networks of small and 300 of large"
    assert lines[1].startswith(
        "As they are: large is better. A random network of large has a lower error than one of small with"
    )
    assert lines[2].startswith("At equal size (10 linear bins from 3.0")
    assert "): small is better. A random network of small" in lines[2]
    assert lines[3] == "The conclusion changes with size: large is better as they are, small is better at equal size."
    assert len(lines) == 4


def test_the_probability_is_that_of_the_better_space(comparison: SpaceComparison) -> None:
    wins = comparison.plain.first_wins
    said = f"with probability {1 - wins.value:.3f} (95 % interval {1 - wins.high:.3f} to {1 - wins.low:.3f})"
    assert said in str(comparison)


def test_the_order_of_spaces_does_not_matter_to_the_verdict() -> None:
    options = {"complexity": "size", "draws": 100}
    turned = compare_spaces(space(1, 3, 10, 0.02), space(0, 1, 8), **options)  # type: ignore[arg-type]
    assert (turned.plain.better, turned.normalized.better) == (0, 1)  # type: ignore[union-attr]
    assert [sample.name for sample in turned.samples] == ["space 1", "space 2"]


def test_one_space_is_no_better_than_itself() -> None:
    found = compare_spaces(space(0, 1, 8), space(1, 1, 8), complexity="size", draws=200)
    assert not found.changes
    assert "no difference is shown" in str(found)
    assert "The conclusion is the same at equal size." in str(found)


def test_spaces_that_cross_differ_without_either_being_better(generator: np.random.Generator) -> None:
    wide, narrow = generator.normal(0, 2, 400), generator.normal(0, 1, 400)
    found = compare_spaces(*(pd.DataFrame({"error": e}) for e in (wide, narrow)), draws=200)
    assert found.plain.is_shown
    assert found.plain.better is None
    assert "they differ without either being better" in str(found)
    assert (found.normalized, found.bins, found.changes) == (None, None, False)


def test_thin_bins_and_rows_left_out_are_said() -> None:
    first, second = space(0, 1, 8), space(1, 3, 10)
    few = pd.concat([first[first["size"] < 7.08], first[first["size"].between(7.1, 7.9)][:3]])
    few.loc[few.index[:2], "error"] = np.nan
    found = compare_spaces(few, second, complexity="size", bins=6, within=(3, 7.9), draws=100, names=("A", "B"))
    warnings = " ".join(found.warnings)
    assert "left out of A are 2 ('error' missing or not finite)" in warnings
    assert found.bins is not None
    counts = np.histogram(few.dropna()["size"], found.bins.edges)[0]
    thin = counts[counts < 5]
    assert len(thin) > 0
    assert f"{len(thin)} of 6 bins have fewer than 5 networks of A: {thin.sum()} of its {counts.sum()}" in warnings
    assert f"carry {len(thin) / 6:.0%} of its weight" in warnings
    assert f"effective sample sizes {found.normalized.distributions[0].effective_size:.0f} of" in str(found)  # type: ignore[union-attr]


def test_logarithmic_bins_are_said_and_other_weights() -> None:
    spaces = space(0, 1, 8), space(1, 1, 10)
    linear, logarithmic = (
        compare_spaces(*spaces, complexity="size", bins=5, logarithmic=log, draws=50) for log in (False, True)
    )
    assert "5 logarithmic bins" in str(logarithmic)
    assert linear.normalized.first_wins != logarithmic.normalized.first_wins  # type: ignore[union-attr]


def test_efficiency_has_both_spaces_and_weights(comparison: SpaceComparison) -> None:
    found = comparison.efficiency([1, 2])
    assert found.groupby(["space", "normalized"]).size().tolist() == [2, 2, 2, 2]
    first = found[found["draws"] == 1].set_index(["space", "normalized"])["mean"]
    for which, sample in enumerate(comparison.samples):
        assert first[sample.name, False] == pytest.approx(sample.errors.mean())
        assert first[sample.name, True] == pytest.approx(sample.errors @ comparison.weights(which))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        ({"draws": 10}, "draws must be at least 20 for a confidence of 0.95, got 10"),
        ({"error": "loss"}, "there is no column 'loss'"),
        ({"complexity": "siz"}, "there is no column 'siz'; similar are size"),
        ({"complexity": "size", "within": (20, 30)}, "one space has none"),
        ({"complexity": "size", "bins": 300}, "has none of space 1; use"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_spaces(space(0, 1, 8), space(1, 3, 10), **options)  # type: ignore[arg-type]


def test_pictures_show_what_was_found(comparison: SpaceComparison, tmp_path: Path) -> None:
    figure = pictures.picture_of_distributions(comparison)
    plain, normalized, complexity = figure.axes
    for axes, found in ((plain, comparison.plain), (normalized, comparison.normalized)):
        assert found is not None
        lines = {line.get_label(): line.get_xydata() for line in axes.lines}
        for name, distribution in zip(("small", "large"), found.distributions, strict=True):
            np.testing.assert_allclose(lines[name][1:, 1], distribution(distribution.errors))
            assert lines[name][0, 1] == 0
        (between,) = [xy for label, xy in lines.items() if label.startswith("distance")]
        assert abs(between[1, 1] - between[0, 1]) == pytest.approx(found.distance.value)
    assert (complexity.get_xlabel(), complexity.get_ylabel()) == ("size", "error")
    figure.savefig(tmp_path / "distributions.png")
    efficiency = pictures.picture_of_efficiency(comparison)
    labels = [text.get_text() for text in efficiency.axes[0].get_legend().get_texts()]
    assert labels == ["small", "small, at equal size", "large", "large, at equal size"]
    efficiency.savefig(tmp_path / "efficiency.png")
    sizes = pictures.picture_of_sample_size(sample_size(comparison.samples[0].errors))
    assert "enough: 181" in [text.get_text() for text in sizes.axes[0].get_legend().get_texts()]
    sizes.savefig(tmp_path / "sizes.png")


def test_names_are_no_formulas_and_one_panel_without_complexity(tmp_path: Path) -> None:
    frames = [frame.rename(columns={"error": "$e_"}) for frame in (space(0, 1, 8), space(1, 1, 8))]
    found = compare_spaces(*frames, error="$e_", names=("a$_{", "b"), draws=50)
    figure = pictures.picture_of_distributions(found)
    assert len(figure.axes) == 1
    figure.savefig(tmp_path / "distributions.png")
    pictures.picture_of_efficiency(found).savefig(tmp_path / "efficiency.png")


def test_what_was_read_can_be_compared() -> None:
    samples = [read_space(space(i, 1, 8), complexity="size", name=name) for i, name in enumerate("ab")]
    assert compare_spaces(*samples, draws=50).bins is not None


def test_the_command_says_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, frame in (("small", space(0, 1, 8)), ("large", space(1, 3, 10, 0.02))):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    output = tmp_path / "out"
    files = [str(tmp_path / "small.csv"), str(tmp_path / "large.csv")]
    options = ["--complexity", "size", "--log", "--bins", "6", "--draws", "100", "--output", str(output)]
    main(["spaces", *files, *options])
    printed = capsys.readouterr().out
    assert "As they are: large is better." in printed
    assert "6 logarithmic bins" in printed
    assert "The conclusion changes with size" in printed
    assert "small: " in printed
    assert " networks are enough" in printed
    assert printed.startswith((output / "verdict.txt").read_text().strip())
    names = ["distributions", "efficiency", "sample_size_1", "sample_size_2"]
    assert all((output / f"{name}.png").stat().st_size > 10_000 for name in names)
    efficiency = pd.read_csv(output / "efficiency.csv")
    assert set(efficiency["space"]) == {"small", "large"}


def test_the_command_ends_with_a_line(tmp_path: Path) -> None:
    space(0, 1, 8).to_csv(tmp_path / "a.csv", index=False)
    file = str(tmp_path / "a.csv")
    with pytest.raises(SystemExit, match=r"^spaces: there is no file or folder .*missing.csv"):
        main(["spaces", file, str(tmp_path / "missing.csv")])
    with pytest.raises(SystemExit, match=r"^spaces: a: there is no column 'loss'"):
        main(["spaces", file, file, "--error", "loss"])
    (tmp_path / "empty.csv").touch()
    with pytest.raises(SystemExit, match=r"^spaces: .*empty.csv is no CSV with a row a network: No columns"):
        main(["spaces", file, str(tmp_path / "empty.csv")])
