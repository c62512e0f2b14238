"""The constraint callback: the measure ends at its limit, and the controller does what is on paper."""

from __future__ import annotations

import math
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, metrics, regularizers
from lightning_complexity.callbacks.penalties.lagrangian import AugmentedLagrangian
from lightning_complexity.callbacks.summing import Step
from tests.networks import mlp
from tests.test_contract import assert_same
from tests.training import Classifier, trainer

X = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=5)


def fitted(*callbacks: Any, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(2)
    module = Classifier(mlp(4, 6, 3))
    trainer(callbacks=list(callbacks), **options).fit(module, data())
    return module.net.state_dict()


# On real data --------------------------------------------------------------------------------------


def digits(*callbacks: Any) -> None:
    torch.manual_seed(0)
    bunch = load_digits()
    samples = TensorDataset(torch.tensor(bunch.data[:900]).float() / 16, torch.tensor(bunch.target[:900]))
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(samples, batch_size=50, shuffle=True, generator=generator)
    trainer(callbacks=list(callbacks), max_epochs=25).fit(Classifier(mlp(64, 32, 32, 10).float()), loader)


@cache
def unconstrained(name: str) -> float:
    monitor = ComplexityMonitor([name], every_n_epochs=None)
    digits(monitor)
    return monitor.curve(monitor.metrics[0].name)[1][-1]


@pytest.mark.parametrize(
    "name",
    ["PathNorm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("LogSpectralProduct", "GeometricComplexity"))],
)
def test_the_measure_ends_at_a_limit_of_half_of_what_it_was(name: str) -> None:
    free = unconstrained(name)
    regularizer = getattr(regularizers, name)()
    is_logarithm = regularizer.metric.is_logarithm
    limit = free - math.log(2.2) if is_logarithm else free / 2.2
    constraint = ComplexityConstraint(regularizer, at_most=limit)
    monitor = ComplexityMonitor([name], every_n_epochs=None)
    digits(constraint, monitor)
    end = monitor.curve(monitor.metrics[0].name)[1][-1]
    excess = math.exp(end - limit) if is_logarithm else end / limit
    assert 0.8 < excess < 1.05
    assert monitor.history[-1].values["probe/train_accuracy"] > 0.95


# The controller --------------------------------------------------------------------------------------


def known(**options: Any) -> ComplexityConstraint:
    return ComplexityConstraint(regularizers.ParameterNorm(), at_most=2.0, **options)


def test_the_multiplier_rises_while_the_limit_is_exceeded_and_falls_while_there_is_slack() -> None:
    lagrangian = AugmentedLagrangian(limit=2.0)
    multipliers = []
    for value in (4.0, 3.0, 3.0, 1.0, 0.0):  # violations 1, 0.5, 0.5, -0.5, -1
        lagrangian.update_multiplier(value)
        multipliers.append(lagrangian.multiplier)
    # The penalty parameter grows by half at the third, where the violation did not fall.
    assert multipliers == [1.0, 1.5, 1.5 + 0.75, 2.25 - 0.75, 0.0]
    assert lagrangian.penalty_parameter == 1.5


def test_the_gradient_is_that_of_the_augmented_lagrangian() -> None:
    constraint = known()
    module = Classifier(nn.Linear(1, 1, bias=False))
    weight = nn.init.constant_(module.net.weight, 3.0)
    constraint.lagrangians["parameter_norm"] = AugmentedLagrangian(2.0, multiplier=0.5, penalty_parameter=4.0)
    ((term, _),) = constraint.terms(Step(module, (X, Y), constraint.measures)).values()
    assert term.item() == pytest.approx(((0.5 + 4 * 0.5) ** 2 - 0.5**2) / 8)
    (gradient,) = torch.autograd.grad(term, weight)
    assert gradient.item() == pytest.approx((0.5 + 4 * 0.5) / 2)
    nn.init.constant_(weight, 1.0)
    ((term, _),) = constraint.terms(Step(module, (X, Y), constraint.measures)).values()
    assert term.item() == pytest.approx(-(0.5**2) / 8)
    assert not term.requires_grad  # its gradient is zero


def test_a_metric_and_a_regularizer_of_any_strength_are_limited_alike() -> None:
    regularizer = regularizers.ParameterNorm(0.01)
    limits = [ComplexityConstraint(m, at_most=1.0, every_n_steps=2) for m in (regularizer, metrics.ParameterNorm())]
    assert_same(fitted(limits[0]), fitted(limits[1]))
    assert limits[0].lagrangians["parameter_norm"].multiplier > 0
    assert regularizer.strength == 0.01
    assert regularizer.measure.calls == 0


def test_a_measure_of_the_weights_needs_no_probe() -> None:
    constraint = known()
    fitted(constraint)
    assert constraint.state_dict()["probe"] is None


def test_a_limit_that_is_never_reached_changes_nothing() -> None:
    loose = ComplexityConstraint(regularizers.PathNorm(), at_most=100.0, every_n_steps=2)
    assert_same(fitted(loose), fitted())
    assert loose.lagrangians["log_path_norm"].multiplier == 0


@pytest.mark.parametrize(
    ("name", "expected"), [("ParameterNorm", lambda v: 0.5 * v), ("PathNorm", lambda v: v - math.log(2))]
)
def test_a_limit_relative_to_the_start(name: str, expected: Any) -> None:
    constraint = ComplexityConstraint(getattr(regularizers, name)(), at_most_relative_to_init=0.5)
    monitor = ComplexityMonitor([name], probe=(X, Y))
    fitted(constraint, monitor)
    measure = monitor.metrics[0].name
    expected_limit = expected(monitor.history[0].values[f"complexity/{measure}"])
    assert constraint.lagrangians[measure].limit == pytest.approx(expected_limit)


class WithSpareLayer(Classifier):
    """Has a layer that its loss does not depend on, which an optimizer with weight decay leaves alone."""

    def __init__(self) -> None:
        super().__init__(mlp(4, 6, 3))
        self.spare = nn.Linear(2, 2).double()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)


def test_parameters_without_a_gradient_have_none_below_the_limit() -> None:
    def trained(*callbacks: Any) -> Any:
        torch.manual_seed(1)
        module = WithSpareLayer()
        trainer(callbacks=list(callbacks)).fit(module, DataLoader(TensorDataset(X, Y), batch_size=8))
        return module.state_dict(), [p.grad is None for p in module.parameters()]

    far = ComplexityConstraint(metrics.ParameterNorm(), at_most=1e6, every_n_steps=1)
    assert_same(trained(), trained(far))


def test_several_measures_have_their_own_multipliers() -> None:
    both = ComplexityConstraint(
        regularizers.ParameterNorm(), regularizers.PathNorm(), at_most=[1.0, 100.0], every_n_steps=2
    )
    fit = trainer(callbacks=[both], max_epochs=2, log_every_n_steps=1)
    fit.fit(Classifier(mlp(4, 6, 3)), data())
    assert both.lagrangians["parameter_norm"].multiplier > 0 == both.lagrangians["log_path_norm"].multiplier
    assert fit.callback_metrics["constraint/log_path_norm/value"] < 100
    assert fit.callback_metrics["penalty/log_path_norm"] == 0 != fit.callback_metrics["penalty/parameter_norm"]


def test_only_the_chosen_layers_count() -> None:
    constraint = ComplexityConstraint(regularizers.ParameterNorm().on("net.0"), at_most_relative_to_init=1.0)
    module = Classifier(mlp(4, 6, 3))
    expected = math.sqrt(sum(float(p.detach().square().sum()) for p in module.net[0].parameters()))
    trainer(callbacks=[constraint], max_epochs=1).fit(module, data())
    assert constraint.lagrangians["parameter_norm"].limit == pytest.approx(expected)


def test_a_limit_out_of_reach_saturates_warns_once_and_training_goes_on() -> None:
    constraint = ComplexityConstraint(regularizers.ParameterNorm(), at_most=1e-3, every_n_steps=1, max_multiplier=2)
    with pytest.warns(UserWarning, match="limit 0.001 is not met at the largest multiplier, 2") as caught:
        state = fitted(constraint, max_epochs=6)
    assert len([w for w in caught if "ComplexityConstraint" in str(w.message)]) == 1
    assert constraint.lagrangians["parameter_norm"].multiplier == 2
    assert all(t.isfinite().all() for t in state.values())


def test_a_measure_that_is_not_finite_is_left_out() -> None:
    class Broken(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (math.nan if self.trainer.global_step == 2 and not self.training else 0)

    torch.manual_seed(2)
    module = Broken(mlp(4, 6, 3))
    constraint = ComplexityConstraint(regularizers.JacobianNorm(), at_most=0.01, every_n_steps=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(callbacks=[constraint]).fit(module, data())
    assert any("ComplexityConstraint of jacobian_norm: the measure is nan" in str(w.message) for w in caught)
    assert all(t.isfinite().all() for t in module.state_dict().values())


def test_logs_and_continues_from_a_checkpoint(tmp_path: Path) -> None:
    def constraint() -> ComplexityConstraint:
        return ComplexityConstraint(regularizers.PathNorm(), at_most=-4.0, every_n_steps=3)

    torch.manual_seed(2)
    whole = Classifier(mlp(4, 6, 3))
    fit = trainer(callbacks=[constraint()], max_epochs=4, log_every_n_steps=1)
    fit.fit(whole, data())
    keys = {f"constraint/log_path_norm/{part}" for part in ("value", "violation", "multiplier")}
    assert keys | {"loss/task", "loss/total", "penalty/log_path_norm"} <= fit.callback_metrics.keys()
    torch.manual_seed(2)
    first, second, continued = Classifier(mlp(4, 6, 3)), Classifier(mlp(4, 6, 3)), constraint()
    half = trainer(callbacks=[constraint()], max_epochs=2)
    half.fit(first, data())
    half.save_checkpoint(tmp_path / "half.ckpt")
    trainer(callbacks=[continued], max_epochs=4).fit(second, data(), ckpt_path=tmp_path / "half.ckpt")
    assert_same(second.net.state_dict(), whole.net.state_dict())
    assert (
        0
        < continued.lagrangians["log_path_norm"].multiplier
        == fit.callback_metrics["constraint/log_path_norm/multiplier"]
    )


def test_mistakes_are_named() -> None:
    norm = regularizers.ParameterNorm()
    for options, message in (
        ({}, "needs one kind of limit"),
        ({"at_most": 1.0, "at_most_relative_to_init": 1.0}, "needs one kind of limit"),
        ({"at_most": [1.0, 2.0]}, "a limit for each of its 1 measures, got 2"),
        ({"at_most": math.nan}, "at_most must be finite"),
        ({"at_most_relative_to_init": 0.0}, "at_most_relative_to_init must be positive"),
        ({"at_most": 1.0, "every_n_steps": 0}, "every_n_steps must be at least 1"),
        ({"at_most": 1.0, "max_multiplier": 0.0}, "max_multiplier must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            ComplexityConstraint(norm, **options)
    with pytest.raises(ValueError, match="needs a measure"):
        ComplexityConstraint(at_most=1.0)
    with pytest.raises(TypeError, match="ComplexityConstraint takes measures"):
        ComplexityConstraint("PathNorm", at_most=1.0)

    class Manual(Classifier):
        def __init__(self) -> None:
            super().__init__(mlp(4, 3))
            self.automatic_optimization = False

    with pytest.raises(ValueError, match="ComplexityConstraint must know which loss it belongs to"):
        trainer(callbacks=[known()]).fit(Manual(), data())


def test_the_loss_it_is_added_to_is_the_tasks() -> None:
    constraint = known()
    torch.manual_seed(2)
    module = Classifier(mlp(4, 6, 3))
    fit = trainer(callbacks=[constraint], max_epochs=1, log_every_n_steps=4)
    fit.fit(module, data())
    values = fit.callback_metrics
    assert values["loss/total"] == pytest.approx(values["loss/task"] + values["penalty/parameter_norm"])
    assert F.cross_entropy(module(X), Y).isfinite()
