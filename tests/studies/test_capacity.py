"""How many samples are fitted, and how well random signs are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from lightning_complexity import cli
from lightning_complexity.studies import effective_model_complexity, empirical_rademacher_complexity
from lightning_complexity.studies.capacity import SettingFit
from lightning_complexity.studies.capacity.samples import largest_fitted
from lightning_complexity.studies.training.settings import Setting, Stop

Model = Callable[[Tensor], Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_squares(x: Tensor, y: Tensor) -> Model:
    weights = torch.linalg.pinv(x) @ y
    return lambda inputs: inputs @ weights


def best_linear(bound: float) -> Callable[[Tensor, Tensor], Model]:
    """The linear function of bounded norm that follows signs best."""

    def fit(x: Tensor, signs: Tensor) -> Model:
        w = x.T @ signs
        return lambda inputs: inputs @ (bound * w / w.norm())

    return fit


def exact_of_linear(x: Tensor, bound: float) -> float:
    norms = [np.linalg.norm(np.array(signs) @ x.numpy()) for signs in product((-1, 1), repeat=len(x))]
    return bound * float(np.mean(norms)) / len(x)


# Samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [1, 5, 32, 37])
def test_least_squares_fits_as_many_samples_as_it_has_features(features: int) -> None:
    found = effective_model_complexity(least_squares, normal(120, features), normal(120, seed=1), error=1e-12)
    assert found.value == features
    assert not found.is_all
    assert max(found.errors[features]) < 1e-12 < min(found.errors[features + 1])


def test_features_that_depend_on_others_count_once() -> None:
    x = normal(60, 4) @ normal(4, 9, seed=2)
    assert effective_model_complexity(least_squares, x, normal(60, seed=1), error=1e-12).value == 4


def test_a_limit_above_zero_lets_in_more_samples() -> None:
    # The mean of squared residuals of noise is 1 - p / n: half of it is left at n = 2 p.
    found = effective_model_complexity(least_squares, normal(400, 30), normal(400, seed=1), error=0.5, seeds=20)
    assert found.value == pytest.approx(60, abs=3)


def test_all_samples_may_be_fitted() -> None:
    found = effective_model_complexity(least_squares, normal(10, 12), normal(10, seed=1), error=1e-12)
    assert (found.value, found.is_all) == (10, True)
    assert str(found) == "fits at least 10 samples to a mean error of 1e-12"


def test_none_may_be_fitted() -> None:
    found = effective_model_complexity(lambda x, y: lambda inputs: inputs[:, 0] * 0, normal(9, 2), normal(9, seed=1))
    assert (found.value, found.is_all) == (0, False)


@pytest.mark.parametrize("most", [1, 2, 3, 63, 64, 65])
@pytest.mark.parametrize("true", [0, 1, 2, 31, 32, 33, 62, 63, 64, 100])
def test_bisection_finds_any_number(true: int, most: int) -> None:
    found = largest_fitted(lambda size, seed: float(size > true), most, error=0.0, seeds=1)
    assert (found.value, found.is_all) == (min(true, most), true >= most)
    assert found.is_monotone


def test_a_training_may_fail_on_few_samples() -> None:
    found = largest_fitted(lambda size, seed: float(size > 21 or size in (2, 4)), 1000, error=0.0, seeds=1)
    assert found.value == 21
    assert not found.is_monotone
    assert max(found.errors) == 128


def test_fewer_trainings_where_the_number_need_not_be_exact() -> None:
    rough = largest_fitted(lambda size, seed: float(size > 700), 1000, error=0.0, seeds=2, resolution=0.1)
    exact = largest_fitted(lambda size, seed: float(size > 700), 1000, error=0.0, seeds=2)
    assert 630 <= rough.value <= 700
    assert len(rough.errors) < len(exact.errors)


def test_an_error_that_falls_with_more_samples_is_told() -> None:
    found = largest_fitted(lambda size, seed: {1: 0.1, 2: 0.0, 4: 1.0}.get(size, 0.5), 100, error=0.1, seeds=1)
    assert not found.is_monotone
    assert "does not rise throughout" in str(found)


def test_a_training_that_diverges_has_not_fitted() -> None:
    found = largest_fitted(lambda size, seed: float("nan") if size > 3 else 0.0, 50, error=0.1, seeds=2)
    assert found.value == 3


def test_smaller_choices_are_parts_of_larger_ones() -> None:
    seen: list[set[float]] = []

    def fit(x: Tensor, y: Tensor) -> Model:
        seen.append(set(x[:, 0].tolist()))
        return least_squares(x, y)

    effective_model_complexity(fit, normal(50, 6), normal(50, seed=1), error=1e-12, seeds=1)
    ordered = sorted(seen, key=len)
    assert all(small <= large for small, large in pairwise(ordered))


# Signs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1.0, 2.5])
def test_linear_functions_of_bounded_norm(bound: float) -> None:
    x = normal(8, 3)
    found = empirical_rademacher_complexity(best_linear(bound), x, draws=None, bound=None)
    assert found.value == pytest.approx(exact_of_linear(x, bound), rel=1e-12)
    assert found.standard_error == 0
    assert found.value <= bound * float(x.square().sum().sqrt()) / len(x)  # the usual bound


def test_draws_agree_with_all_signs_within_their_error() -> None:
    x = normal(8, 3)
    found = empirical_rademacher_complexity(best_linear(1.0), x, draws=400, bound=None)
    assert 0 < found.standard_error < 0.02
    assert abs(found.value - exact_of_linear(x, 1.0)) < 3 * found.standard_error


def test_a_class_of_few_functions() -> None:
    x = normal(7, 2)
    functions = torch.sign(normal(5, 7, seed=3))  # outputs of five classifiers on the samples

    def fit(inputs: Tensor, signs: Tensor) -> Model:
        best = functions[(functions @ signs).argmax()]
        return lambda inputs: best

    exact = np.mean([(functions.numpy() @ np.array(s)).max() / 7 for s in product((-1, 1), repeat=7)])
    assert empirical_rademacher_complexity(fit, x, draws=None).value == pytest.approx(exact, rel=1e-12)


def test_a_poorer_training_gives_a_lower_bound_and_restarts_raise_it() -> None:
    x = normal(5, 3)

    def ascent(inputs: Tensor, signs: Tensor) -> Model:  # of random directions, not of the best
        w = torch.randn(3, dtype=torch.float64)
        return lambda inputs: inputs @ (w / w.norm())

    values = [empirical_rademacher_complexity(ascent, x, draws=None, restarts=r, bound=None).value for r in (1, 4, 32)]
    assert values == sorted(values)
    assert values[0] < 0.5 * exact_of_linear(x, 1.0)
    assert 0.9 * exact_of_linear(x, 1.0) < values[-1] < exact_of_linear(x, 1.0)


def test_one_function_follows_no_signs() -> None:
    def fit(x: Tensor, signs: Tensor) -> Model:
        return lambda inputs: inputs[:, :1]

    assert empirical_rademacher_complexity(fit, normal(6, 2), draws=None).value == pytest.approx(0, abs=1e-15)


def test_outputs_that_are_not_finite_are_no_fit() -> None:
    def sometimes(x: Tensor, signs: Tensor) -> Model:
        return (lambda inputs: signs) if torch.rand(()) < 0.5 else (lambda inputs: signs * float("nan"))

    assert empirical_rademacher_complexity(sometimes, normal(6, 2), draws=5, restarts=20).value == 1
    never = empirical_rademacher_complexity(lambda x, s: lambda inputs: s * float("nan"), normal(6, 2), draws=2)
    assert np.isnan(never.value)


# Networks ------------------------------------------------------------------------------------------------


def test_networks_of_a_setting() -> None:
    x = normal(16, 4).float()
    setting = Setting(width=64, depth=1, optimizer="adam", learning_rate=0.02, batch_size=16)
    wide = SettingFit(setting, Stop(loss=1e-3, max_steps=600))
    narrow = SettingFit(Setting(width=1, depth=1, optimizer="adam", learning_rate=0.02), Stop(max_steps=150))
    of_wide, of_narrow = (empirical_rademacher_complexity(fit, x, draws=3) for fit in (wide, narrow))
    assert of_wide.value == 1
    assert 0.2 < of_narrow.value < 0.9
    assert empirical_rademacher_complexity(narrow, x, draws=3) == of_narrow
    classes = torch.arange(16) % 3
    fitted = effective_model_complexity(wide, x, classes, error=0.0, seeds=1)
    assert fitted.is_all
    assert effective_model_complexity(narrow, x, classes, error=0.0, seeds=1).value < 12


def test_a_network_of_ones_own() -> None:
    fit = SettingFit(
        Setting(optimizer="lbfgs", learning_rate=1.0, weight_decay=1e-9),
        Stop(loss=1e-14, max_steps=200),
        make_network=lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False, dtype=torch.float64),
    )
    found = effective_model_complexity(fit, normal(40, 6), normal(40, seed=1), error=1e-6, seeds=2)
    assert found.value == 6


def test_images_are_for_networks_of_ones_own() -> None:
    images, classes = normal(6, 1, 4, 4).float(), torch.arange(6) % 2
    setting, stop = Setting(optimizer="sgd"), Stop(max_steps=1)
    with pytest.raises(ValueError, match=r"inputs must have the shape \(n, d\) .* got \(6, 1, 4, 4\)"):
        SettingFit(setting, stop)(images, classes)

    def convolutional(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(18, outputs))

    assert SettingFit(setting, stop, make_network=convolutional)(images, classes)(images).shape == (6, 2)


def test_random_numbers_stay_as_they_were() -> None:
    before = torch.get_rng_state()
    fit = SettingFit(Setting(width=2, depth=1), Stop(max_steps=2))
    empirical_rademacher_complexity(fit, normal(4, 2).float(), draws=1)
    effective_model_complexity(fit, normal(4, 2).float(), torch.arange(4) % 2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: effective_model_complexity(least_squares, normal(4, 2), normal(3)), "got 4 and 3"),
        (
            lambda: effective_model_complexity(least_squares, normal(4, 2), normal(4), seeds=0),
            "seeds must be at least 1",
        ),
        (
            lambda: effective_model_complexity(least_squares, normal(4, 2), normal(4), error=-1),
            "error must be a number",
        ),
        (
            lambda: effective_model_complexity(least_squares, normal(4, 2), normal(4), resolution=1),
            "resolution must be at least 0 and below 1",
        ),
        (lambda: empirical_rademacher_complexity(least_squares, normal(0, 2)), "at least one sample"),
        (
            lambda: empirical_rademacher_complexity(least_squares, normal(3, 2), draws=0),
            "must be at least 1, got 0 and 1",
        ),
        (lambda: empirical_rademacher_complexity(least_squares, normal(17, 2), draws=None), "give draws"),
        (
            lambda: empirical_rademacher_complexity(lambda x, s: lambda inputs: inputs, normal(3, 2)),
            r"one output for each of 3 samples, got the shape \(3, 2\)",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# The command -----------------------------------------------------------------------------------------------


def test_the_command_finds_that_wider_networks_have_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["--widths", "1", "32", "--seeds", "1", "--samples", "32", "--draws", "1", "--resolution", "0.9"]
    arguments = ["study", "capacity", *sizes, "--max_steps", "100", "--error", "0.05", "--output", str(tmp_path)]
    cli.main(arguments)
    first = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "capacity.csv").set_index("width")
    assert table.samples_fitted[1] < 32 < table.samples_fitted[32]
    assert table.rademacher[1] < table.rademacher[32] == 1
    errors = pd.read_csv(tmp_path / "errors.csv")
    assert set(errors.width) == {1, 32}
    assert "a lower bound" in first
    monkeypatch.setattr("lightning_complexity.studies.training.runs.fit", None)  # nothing is trained again
    cli.main(arguments)
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "9999"], "study capacity: samples must be at most 1437, as digits has, got 9999"),
        (["--error", "-1"], "study capacity: error must be a number of at least 0, got -1.0"),
        (["--widths", "0"], "study capacity: width must be a whole number of at least 1, got 0"),
        (["--optimizer", "adma"], "study capacity: optimizer must be one of sgd"),
        (["--draws", "0"], "study capacity: draws must be at least 1, got 0"),
        (["--data", "nowhere"], "study capacity: there is no data 'nowhere'"),
    ],
)
def test_errors_are_said_in_words(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        cli.main(["study", "capacity", *arguments, "--output", str(tmp_path / "unused")])
    assert not (tmp_path / "unused").exists()
