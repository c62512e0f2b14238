"""Each rule on a run written by hand: it finds what is there, and nothing just below."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lightning_complexity.dashboard.findings import CONSEQUENCES, RULES, Finding, findings
from lightning_complexity.dashboard.findings.evidence import Curve, Evidence, certainty, share_error
from lightning_complexity.dashboard.runs import Run
from tests.dashboard.findings.written import CHANCE, CORRECT, FALLING, FLAT, GROWING, STILL, found, loud, run

NAN = math.nan
HEALTHY = {
    "train": FALLING,
    "val": [v + 0.02 for v in FALLING],
    "train_accuracy": CORRECT,
    "val_accuracy": [v - 0.01 for v in CORRECT],
    "moved": GROWING,
    "norm": [5 + 0.2 * v for v in GROWING],
    "gradient": [0.3] * 10,
    "jacobian": [0.05 + 0.1 * v for v in GROWING],
}
OVERFITTED = [2.3, 1.7, 1.3, 1.0, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4]
PARTS = "complexity/distance_from_initialization/"

# What is added to the healthy run, and which finding is made of it; and the same just below the threshold.
FIRES: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"train": [*FALLING[:5], NAN, NAN, NAN, NAN, NAN]}, "divergence"),
    "infinite weights": ({"norm": [5.0] * 5 + [math.inf] * 5}, "divergence"),
    "rises": ({"train": [2.3, 2.5, 2.8, 3.1, 3.3, 3.4, 3.5, 3.5, 3.5, 3.5]}, "divergence"),
    "falls below zero": ({"train": [-2.3 * 2**i for i in range(10)]}, "wrong_sign"),
    "falls with accuracy": (
        {"train": [-0.1 - 0.01 * i for i in range(10)], "train_accuracy": CORRECT[::-1]},
        "wrong_sign",
    ),
    "does not learn": ({"train": FLAT}, "not_learning"),
    "does not move": ({"train": FLAT, "moved": [0.005 * v for v in GROWING]}, "learning_rate_too_small"),
    "vanishing gradient": (
        {
            "train": FLAT,
            "complexity/gradient_norm/a.weight": [1e-5] * 10,
            "complexity/gradient_norm/b.weight": [0.1] * 10,
        },
        "vanishing_gradient",
    ),
    "learns little": ({"train": [2.3 - 0.06 * i for i in range(10)]}, "underfitting"),
    "constant": (
        {"train": [0.5, *[0.21] * 9], "train_accuracy": [0.95] * 10, "val_accuracy": [0.94] * 10},
        "constant_prediction",
    ),
    "jumps": ({"train": [2.3, 1.5, 2.2, 0.9, 2.1, 1.0, 2.2, 0.8, 1.9, 1.0]}, "learning_rate_too_large"),
    "spike": ({"train": [2.3, 16.0, *FALLING[2:]]}, "learning_rate_too_large"),
    "large steps": ({"train": FLAT, "moved": [0.0, 6.0, *[6.1] * 8]}, "learning_rate_too_large"),
    "does not fall": ({"train": [2.3, 1.5, *[0.8] * 8], "gradient": [9.0] * 10}, "evaluation_differs"),
    "overfits": ({"val": OVERFITTED}, "overfitting"),
    "memorises": ({"val_accuracy": CHANCE}, "memorised_labels"),
    "noisy labels": ({"train_accuracy": [0.8 * v for v in CORRECT]}, "noisy_training_labels"),
    "other validation": (
        {"val": [2.3 + 0.5 * i for i in range(10)], "val_accuracy": [0.1, *[0.01] * 9]},
        "validation_differs",
    ),
    "same validation": ({"val": FALLING}, "leaking_validation"),
    "no gap": (
        {
            "train": [2.3 * 0.7**i for i in range(10)],
            "val": [2.31 * 0.7**i for i in range(10)],
            "train_accuracy": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0, 1.0],
            "val_accuracy": [0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0, 1.0],
        },
        "leaking_validation",
    ),
    "gap": ({"val_accuracy": [0.85 * v for v in CORRECT]}, "generalization_gap"),
    "gap of losses": (
        {"val": [0.5 + v for v in FALLING], "train_accuracy": [], "val_accuracy": []},
        "generalization_gap",
    ),
    "dead layer": (
        {"complexity/dead_units": [0.1] * 10, "complexity/dead_units/net.1": [0.1] * 5 + [0.95] * 5},
        "dead_units",
    ),
    "dying": ({"complexity/dead_units": [0.1 + 0.04 * i for i in range(10)]}, "dead_units"),
    "no Jacobian": ({"jacobian": [0.1] * 5 + [0.0] * 5}, "dead_units"),
    "frozen": ({f"{PARTS}a.weight": STILL, f"{PARTS}b.weight": GROWING}, "frozen_layer"),
    "one direction": (
        {"train": [2.3 - 0.05 * i for i in range(10)], "complexity/feature_effective_rank": [8.0, *[1.01] * 9]},
        "collapsed_features",
    ),
    "large inputs": ({"train": [20.0, *FALLING[1:]]}, "input_scale"),
    "large weights": ({"train": [20.0, *FALLING[1:]], "jacobian": [144.0] * 10}, "exploding_gradient"),
    "gradient grows": ({"gradient": [0.3 * 3**i for i in range(10)]}, "exploding_gradient"),
    "weights shrink": ({"train": FLAT, "norm": [5 * 0.7**i for i in range(10)]}, "too_strong_penalty"),
    "penalty dominates": (
        {"train": FLAT, "penalty/path_norm": [5.0] * 10, "loss/task": [2.3] * 10},
        "too_strong_penalty",
    ),
    "small penalty": ({"penalty/path_norm": [1e-5] * 10, "loss/task": FALLING}, "penalty_without_effect"),
    "out of reach": (
        {"constraint/jacobian_norm/violation": [1.0] * 10, "constraint/jacobian_norm/multiplier": GROWING},
        "constraint_out_of_reach",
    ),
    "too tight": (
        {
            "train": FLAT,
            "constraint/jacobian_norm/violation": [1.0, *[0.0] * 9],
            "constraint/jacobian_norm/multiplier": [9.0] * 10,
        },
        "constraint_too_tight",
    ),
    "idle limit": ({"constraint/jacobian_norm/violation": [0.0] * 10}, "constraint_without_effect"),
    "margins stall": (
        {"train_accuracy": [0.1, *[1.0] * 9], "complexity/margin_over_spectral_product": [-0.1, *[0.2] * 9]},
        "margins_stall",
    ),
    "thinned": ({"complexity/hessian_trace": [1.0] * 4}, "thinned_measures"),
    "dear": ({"complexity/overhead": [1.5] * 10}, "dear_measures"),
}
BELOW: dict[str, dict[str, Any]] = {
    "rises": {"train": [2.3, 2.3, 2.6, 2.9, 3.2, 3.4, 3.4, 3.4, 3.4, 3.4], "val": [3.0] * 10, "val_accuracy": CORRECT},
    "falls below zero": {"train": [0.5 - 0.15 * i for i in range(10)]},
    "falls with accuracy": {"train_accuracy": [0.1, *[0.09] * 9], "val_accuracy": [0.1, *[0.09] * 9]},
    "learns little": {"train": [2.3 - 0.11 * i for i in range(10)]},
    "constant": {"train": [0.5, *[0.18] * 9], "train_accuracy": [0.95] * 10, "val_accuracy": [0.94] * 10},
    "jumps": {"train": [v + 0.08 * (-1) ** i for i, v in enumerate(FALLING)]},
    "spike": {"train": [2.3, 6.0, *FALLING[2:]]},
    "does not fall": {"train": [2.3, 1.5, *[0.8] * 8], "gradient": [0.5] * 10},
    "overfits": {"val": [*OVERFITTED[:5], 0.92, 0.95, 0.97, 0.99, 1.0]},
    "memorises": {"val_accuracy": [0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.6, 0.6, 0.6]},
    "noisy labels": {"train_accuracy": [0.97 * v for v in CORRECT]},
    "other validation": {"val": [2.3, 2.0, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0]},
    "same validation": {"val": [1.00001 * v for v in FALLING]},
    "no gap": {
        "train": [2.3 * 0.7**i for i in range(10)],
        "val": [2.31 * 0.7**i for i in range(10)],
        "train_accuracy": [0.1, 0.6, 0.8, 0.9, 0.95, 0.97, 0.98, 1.0, 1.0, 1.0],
        "val_accuracy": [0.12, 0.6, 0.8, 0.9, 0.95, 0.97, 0.98, 1.0, 1.0, 1.0],
    },
    "gap": {"val_accuracy": [0.92 * v for v in CORRECT]},
    "gap of losses": {"val": [0.2 + v for v in FALLING], "train_accuracy": [], "val_accuracy": []},
    "large weights": {"train": [20.0, *FALLING[1:]], "jacobian": [64.0] * 10},
    "dead layer": {"complexity/dead_units": [0.1] * 10, "complexity/dead_units/net.1": [0.8] * 10},
    "dying": {"complexity/dead_units": [0.1 + 0.03 * i for i in range(10)]},
    "no Jacobian": {"jacobian": [1e-9] * 10},
    "frozen": {f"{PARTS}a.weight": [1e-4 * v for v in GROWING], f"{PARTS}b.weight": GROWING},
    "frozen, again": {f"{PARTS}a.bias": STILL, f"{PARTS}b.weight": GROWING},
    "one direction": {"complexity/feature_effective_rank": [8.0, *[1.01] * 9]},
    "large inputs": {"train": [4.0, *FALLING[1:]]},
    "large inputs, again": {"train": [4.0, *FALLING[1:]], "train_accuracy": [0.9, *CORRECT[1:]]},
    "gradient grows": {"gradient": [0.3 * 1.5**i for i in range(10)]},
    "weights shrink": {"train": FALLING, "norm": [5 * 0.7**i for i in range(10)]},
    "penalty dominates": {"penalty/path_norm": [5.0] * 10, "loss/task": [2.3] * 10},
    "small penalty": {"penalty/path_norm": [1e-2] * 10, "loss/task": FALLING},
    "out of reach": {"constraint/jacobian_norm/violation": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2, 0.1, 0.04]},
    "out of reach, again": {"constraint/jacobian_norm/violation": [2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 0.9, 0.5, 0.3]},
    "too tight": {
        "constraint/jacobian_norm/violation": [1.0, *[0.0] * 9],
        "constraint/jacobian_norm/multiplier": [9.0] * 10,
    },
    "idle limit": {"constraint/jacobian_norm/violation": [0.1, *[0.0] * 9]},
    "margins stall": {
        "train_accuracy": [0.1, *[1.0] * 9],
        "complexity/margin_over_spectral_product": [-0.1, *(0.2 + 0.02 * i for i in range(9))],
    },
    "thinned": {"complexity/hessian_trace": [1.0] * 6},
    "dear": {"complexity/overhead": [0.9] * 10},
}


@pytest.mark.parametrize("case", FIRES)
def test_a_rule_finds_what_is_there(case: str) -> None:
    added, name = FIRES[case]
    finding = found({**HEALTHY, **added})[name]
    assert finding.run == "run"
    assert finding.headline.endswith(".")
    assert finding.evidence
    assert finding.next_step
    assert 0.5 <= finding.confidence <= 0.99


@pytest.mark.parametrize("case", BELOW)
def test_a_rule_finds_nothing_just_below(case: str) -> None:
    assert FIRES[case.removesuffix(", again")][1] not in found({**HEALTHY, **BELOW[case]})


def test_nothing_is_unusual_in_a_healthy_run() -> None:
    assert list(found(HEALTHY)) == ["nothing_unusual"]


@pytest.mark.parametrize("case", FIRES)
def test_the_order_of_measurements_does_not_matter(case: str) -> None:
    whole = run({**HEALTHY, **FIRES[case][0]})
    shuffled = replace(whole, history=random.Random(0).sample(whole.history, len(whole.history)))
    assert findings([whole]) == findings([shuffled])


@pytest.mark.parametrize("case", FIRES)
def test_values_that_are_missing_or_not_finite_lead_to_no_other_fault(case: str) -> None:
    added, name = FIRES[case]
    curves = {**HEALTHY, **added}
    for key in curves:
        if key not in ("train", "norm"):
            holes = {**curves, key: [v if i % 2 else NAN for i, v in enumerate(curves[key])]}
            without = {k: v for k, v in curves.items() if k != key}
            known = {name, *loud(found(curves)), *loud(found(without))}
            followed = {other for cause in known for other in CONSEQUENCES.get(cause, ())}
            assert set(loud(found(holes))) <= known | followed


def test_one_thinned_measure_is_one() -> None:
    thinned = {"complexity/hessian_trace": [1.0] * 4}
    one = found({**HEALTHY, **thinned})["thinned_measures"]
    assert one.headline == "1 measure was taken at half of the moments or fewer: hessian_trace."


@pytest.mark.parametrize("case", FIRES)
def test_one_measurement_says_nothing_of_a_course(case: str) -> None:
    first = {key: list(values[:1]) for key, values in {**HEALTHY, **FIRES[case][0]}.items()}
    assert set(loud(found(first))) <= {"input_scale", "exploding_gradient", "dead_units", "generalization_gap"}


# Numbers -----------------------------------------------------------------------------------------


def test_overfitting_says_when_and_by_how_much() -> None:
    finding = found({**HEALTHY, "val": [2.1, 1.8, 1.5, 1.2, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4]})["overfitting"]
    assert finding.step == 40
    assert finding.value == pytest.approx(0.5)
    assert finding.standard_error == pytest.approx(0.0, abs=1e-9)


def test_the_gap_has_the_binomial_error_of_its_probes() -> None:
    train = [k / 200 for k in (20, 101, 150, 177, 180, 190, 195, 196, 197, 199)]
    val = [k / 50 for k in (5, 15, 20, 25, 31, 33, 37, 38, 39, 39)]
    finding = found({"train": FALLING, "train_accuracy": train, "val_accuracy": val})["generalization_gap"]
    p, q = 200 / 202, 40 / 52
    assert finding.value == pytest.approx(199 / 200 - 39 / 50)
    assert finding.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 200 + q * (1 - q) / 50))


def test_a_difference_that_chance_explains_is_none() -> None:
    train = [k / 20 for k in (2, 5, 9, 11, 12, 13, 15, 16, 17, 19)]
    val = [k / 20 for k in (2, 5, 9, 11, 12, 13, 15, 15, 15, 15)]
    assert "generalization_gap" not in found({"train": FALLING, "train_accuracy": train, "val_accuracy": val})


@pytest.mark.parametrize("samples", [7, 100, 256, 1000])
def test_the_size_of_the_probe_is_read_off_accuracies_in_single_precision(samples: int) -> None:
    shares = [float(np.float32(k / samples)) for k in range(1, samples, max(1, samples // 11))]
    evidence = Evidence(run({"train_accuracy": shares}))
    assert evidence.accuracy_error(0.5) == pytest.approx(share_error(0.5, samples))


def test_noise_is_that_of_normal_numbers_and_none_of_a_trend() -> None:
    steps = np.arange(4000.0)
    values = 3 * np.random.default_rng(0).standard_normal(4000)
    assert Curve(steps, values).noise == pytest.approx(3, rel=0.05)
    assert Curve(steps, values + 7 * steps).noise == pytest.approx(3, rel=0.05)
    assert Curve(steps, 7 * steps).noise == pytest.approx(0, abs=1e-6)


def test_certainty_is_that_of_the_normal_distribution() -> None:
    assert certainty(1.6448536) == pytest.approx(0.95)
    assert certainty(9.0) == 0.99


def test_the_edge_of_stability_needs_the_learning_rate() -> None:
    curves = {**HEALTHY, "complexity/sharpness": [2.0, 5.0, 12.0, 19.0, *[20.5] * 6]}
    finding = found(curves, settings={"optimizer.lr": 0.1})["edge_of_stability"]
    assert finding.value == pytest.approx(20.5 / 20)
    assert "1.025" in finding.headline or "1.02 " in finding.headline or "1.03 " in finding.headline
    assert "edge_of_stability" not in found(curves)
    assert "edge_of_stability" not in found(curves, settings={"optimizer.lr": 0.01})


@pytest.mark.parametrize("name", ["preconditioned_sharpness", "critical_sharpness"])
def test_the_edge_of_stability_of_any_optimizer_is_the_share_of_its_limit(name: str) -> None:
    key = f"complexity/{name}/share_of_limit"
    finding = found({**HEALTHY, key: [0.1, 0.4, 0.8, 1.1, *[1.0] * 6]})["edge_of_stability"]
    assert finding.value == 1
    assert "edge_of_stability" not in found({**HEALTHY, key: [0.1, 0.1, 0.2, 0.3, *[0.4] * 6]})


@pytest.mark.parametrize("amplitude", [0.12, 0.2])
def test_jumps_are_measured_by_what_the_loss_fell(amplitude: float) -> None:
    size = 4 * amplitude / (0.6745 * math.sqrt(6))  # of second differences of +-amplitude
    losses = [2.0, 1.5, *(1.0 + amplitude * (-1) ** i for i in range(8))]
    is_found = "learning_rate_too_large" in found({**HEALTHY, "train": losses})
    assert is_found == (size / (2.0 - min(losses)) > 0.15 * 1.6)  # neither is near the threshold


def test_a_validation_that_falls_behind_late_is_overfitting() -> None:
    curves = {**HEALTHY, "val": [2.3, 1.7, 1.3, 1.5, 1.8, 2.1, 2.3, 2.4, 2.5, 2.6], "val_accuracy": [0.1, *[0.5] * 9]}
    assert loud(found(curves)) == ["overfitting"]
    assert loud(found(curves, per_epoch=9)) == ["validation_differs"]


def test_event_files_without_epochs_say_nothing_of_the_first_passes() -> None:
    other = run({**HEALTHY, **FIRES["other validation"][0]}, per_epoch=100)
    assert "validation_differs" in {f.name for f in findings([other])}
    assert "validation_differs" not in {f.name for f in findings([replace(other, source="events")])}


def test_where_both_losses_rise_nothing_is_overfitted() -> None:
    curves = {**HEALTHY, "val": OVERFITTED, "train": [2.3, 1.7, 1.3, 1.0, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05]}
    assert "overfitting" not in found(curves)


def test_a_few_samples_do_not_show_that_labels_are_memorised() -> None:
    def curves(samples: int) -> dict[str, list[float]]:
        step = samples // 8
        train = [k * step / samples for k in (1, 2, 3, 4, 5, 6, 5, 6, 6, 5)]
        val = [k * step / samples for k in (1, 2, 1, 2, 3, 1, 2, 1, 2, 1)]
        return {"train": FALLING, "train_accuracy": train, "val_accuracy": val}

    assert "memorised_labels" not in found(curves(8))
    many = curves(800)
    for key in ("train_accuracy", "val_accuracy"):  # shares of 800 that are none of 8
        many[key][3:6] = [v + k / 800 for k, v in zip((1, 3, 7), many[key][3:6], strict=True)]
    assert "memorised_labels" in found(many)


def test_a_loss_that_falls_is_the_one_that_is_trained() -> None:
    curves = {**HEALTHY, "train": [2.0 - 0.1 * i for i in range(10)], "gradient": [9.0] * 10}
    assert "evaluation_differs" not in found(curves)


def test_what_is_said_of_the_initial_network_needs_it() -> None:
    large = run({**HEALTHY, **FIRES["large inputs"][0]})
    later = replace(large, history=[replace(m, step=m.step + 5) for m in large.history])
    assert "input_scale" in {f.name for f in findings([large])}
    assert "input_scale" not in {f.name for f in findings([later])}


def test_a_curve_holds_finite_values_only() -> None:
    curve = Evidence(run({"gradient": [0.3, math.inf, NAN, -math.inf, 0.4]})).curve("complexity/gradient_norm")
    assert curve.steps.tolist() == [0, 40]
    assert curve.values.tolist() == [0.3, 0.4]


def test_losses_that_stay_where_they_are_show_no_leak() -> None:
    flat = [2.3025 + 1e-7 * i for i in range(10)]
    assert "leaking_validation" not in found({**HEALTHY, "train": flat, "val": flat})


# Several runs ------------------------------------------------------------------------------------


def with_gaps(number: int, measure: list[float], gaps: list[float]) -> list[Run]:
    return [
        run(
            {**HEALTHY, "probe/generalization_gap": [0.0, gaps[i]], "complexity/log_path_norm": [0.0, measure[i]]},
            name=str(i),
        )
        for i in range(number)
    ]


def explained(runs: list[Run]) -> Finding | None:
    return next((f for f in findings(runs) if f.name == "gap_explained"), None)


def test_a_measure_that_ranks_runs_as_their_gaps_do_explains_them() -> None:
    from scipy.stats import spearmanr

    gaps = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 1.1, 1.0]
    measure = [math.exp(i) for i in range(12)]
    finding = explained(with_gaps(12, measure, gaps))
    assert finding is not None
    assert finding.value == pytest.approx(float(spearmanr(measure, gaps).statistic))
    assert finding.interval is not None
    assert 0 < finding.interval[0] < finding.value < finding.interval[1] <= 1
    assert finding.run is None
    assert "log_path_norm" in finding.headline


def test_the_interval_holds_for_all_measures_that_were_looked_at() -> None:
    gaps = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 1.1, 1.0]
    draw = random.Random(0)
    few = [run({"probe/accuracy_gap": [g], "complexity/a": [g * g]}) for g in gaps]
    many = [
        run(
            {
                "probe/accuracy_gap": [g],
                "complexity/a": [g * g],
                **{f"complexity/{j}": [draw.random()] for j in range(40)},
            }
        )
        for g in gaps
    ]
    one, best_of_41 = explained(few), explained(many)
    assert one is not None
    assert best_of_41 is not None
    assert (best_of_41.interval or (1,))[0] < (one.interval or (0,))[0]


def test_too_few_runs_and_chance_explain_nothing() -> None:
    rising = [float(i) for i in range(12)]
    assert explained(with_gaps(7, rising, rising)) is None
    assert explained(with_gaps(12, rising, random.Random(3).sample(rising, 12))) is None
    assert explained(with_gaps(12, [1.0] * 12, rising)) is None


def test_runs_are_named_in_what_is_found() -> None:
    bad, good, better = (
        run({**HEALTHY, "val": OVERFITTED}, name="bad"),
        run(HEALTHY, name="good"),
        run(HEALTHY, name="b"),
    )
    first, *rest = findings([good, bad, better])
    assert (first.name, first.run) == ("overfitting", "bad")
    assert "in good, b;" in rest[0].evidence
    assert [(f.name, f.headline) for f in rest] == [("nothing_unusual", "Nothing unusual in 2 runs.")]


def test_a_consequence_is_not_said_where_its_cause_is() -> None:
    dead = found({**HEALTHY, "train": FLAT, "complexity/dead_units/net.1": [1.0] * 10})
    assert "dead_units" in dead
    assert "not_learning" not in dead
    half_dead = found({**HEALTHY, "train": FLAT, "complexity/dead_units": [0.1, *[0.6] * 9]})
    assert half_dead["dead_units"].severity == "warning"
    assert "not_learning" in half_dead


def test_without_runs_nothing_was_measured() -> None:
    assert [f.headline for f in findings([])] == ["Nothing was measured in 0 runs."]
    assert [f.headline for f in findings([run({})])] == ["Nothing was measured in one run."]


def test_every_rule_says_what_it_needs() -> None:
    assert all("Needs" in (rule.__doc__ or "") for rule in RULES)


def test_accuracies_of_a_network_whose_outputs_are_nan_are_no_evidence() -> None:
    losses = [1.0, 0.6, *[math.nan] * 6]
    accuracies = {"train_accuracy": [0.4, 0.8, *[0.3] * 6], "val_accuracy": [0.4, 0.8, *[0.5] * 6]}
    curves = {f"probe/{name}": values for name, values in accuracies.items()}
    names = [f.name for f in findings([run({"probe/train_loss": losses, "probe/val_loss": losses, **curves})])]
    assert names == ["divergence"]


def test_layers_that_no_gradient_reaches_are_not_said_to_be_left_out() -> None:
    def said(still: float, other: float = 0.0) -> Finding:
        layers = {"a.weight": (0.0, still), "b.weight": (0.0, other), "c.weight": (1.0, 2.0)}
        curves = {"train": FALLING}
        for name, (moved, gradient) in layers.items():
            curves[f"complexity/distance_from_initialization/{name}"] = [0.0] + [moved] * 9
            curves[f"complexity/gradient_norm/{name}"] = [gradient] * 10
        return found(curves)["frozen_layer"]

    assert said(0.5).evidence.startswith("Their gradient is not zero (0.5): the optimizer leaves them out.")
    assert "requires_grad" in said(0.5).next_step
    assert said(0.0).evidence.startswith("Their gradient is zero.")
    assert said(1e-10, 1e-6).evidence.startswith(
        "Their gradient, 1e-06 at most, is 5e-07 of the largest: too small to move them."
    )
    for finding in (said(0.0), said(1e-10)):
        assert finding.next_step.startswith("Look for what keeps the gradient from them")


CURVES_OF_TWO = {
    "underfitting": {"train": [1.0, 0.8]},
    "not_learning": {"train": [1.0, 0.99]},
    "divergence": {"train": [1.0, 9.0]},
    "generalization_gap": {"train": [1.0, 0.1], "val": [1.0, 0.9]},
}


@pytest.mark.parametrize("name", CURVES_OF_TWO)
def test_two_values_have_no_error_bar(name: str) -> None:
    finding = found(CURVES_OF_TWO[name])[name]
    assert finding.standard_error is None
    assert finding.interval is None
    assert "+-" not in finding.evidence
    assert "differ by" not in finding.evidence


def test_whether_a_loss_still_falls_is_said_where_it_was_measured() -> None:
    short, long = (
        found({"train": [1.0, 0.8]})["underfitting"],
        found({"train": np.linspace(1, 0.8, 10)})["underfitting"],
    )
    assert short.evidence == "What it does in the last third of the training was not measured."
    assert long.evidence == "It still falls over the last third of the training."


def test_samples_that_are_fitted_at_once_may_be_memorised() -> None:
    def said(**curves: list[float]) -> tuple[str, bool]:
        finding = found({**HEALTHY, **curves}, per_epoch=5)["validation_differs"]
        return finding.severity, "memorised at once" in finding.evidence

    train = [2.3, 0.3, 0.05, 0.02, *[0.01] * 6]
    val, poor, worse = [2.3] * 10, [0.1, *[0.3] * 9], [0.1, *[0.01] * 9]
    fitted = [0.1, 0.9, *[1.0] * 8]
    assert said(train=train, val=val, train_accuracy=fitted, val_accuracy=poor) == ("warning", True)
    assert said(train=train, val=val, train_accuracy=fitted, val_accuracy=worse) == ("fault", False)
    slower = [0.1, *[0.9] * 9]
    assert said(train=train, val=val, train_accuracy=slower, val_accuracy=poor) == ("fault", False)


@pytest.mark.parametrize(("left", "severity"), [(0.05, "warning"), (0.4, "fault")])
def test_a_regression_that_is_fitted_at_once_may_be_memorised(left: float, severity: str) -> None:
    curves = {"train": [1.0, *[left] * 9], "val": [1.0] * 10}
    assert found(curves, per_epoch=5)["validation_differs"].severity == severity


@pytest.mark.parametrize("finite", range(1, 10))
def test_a_loss_that_ends_in_nan_at_any_moment_is_a_divergence(finite: int) -> None:
    losses = [2.3 - 0.06 * i if i < finite else math.nan for i in range(10)]
    assert loud(found({"train": losses, "val": [loss + 0.1 for loss in losses]})) == ["divergence"]
