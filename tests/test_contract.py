"""What holds for every metric and every regularizer, found by discovery; none is named but for documented reasons."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_complexity import metrics, regularizers
from lightning_complexity.metrics import SUITES, ComplexityMetric, catalogue
from lightning_complexity.network import MissingInputError, Snapshot, initial_state, predictions
from lightning_complexity.regularizers import Regularizer
from tests.networks import Attending, conv_net, live_steps, mlp
from tests.quick import quick

METRICS = [entry.metric for entry in catalogue()]
EXPORTED = [getattr(regularizers, name) for name in regularizers.__all__]
REGULARIZERS = [c for c in EXPORTED if isinstance(c, type) and issubclass(c, Regularizer) and c is not Regularizer]

Network = tuple[nn.Module, Tensor, Tensor]
NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": lambda: (mlp(4, 5, 5, 3), torch.randn(7, 4), torch.randint(0, 3, (7,))),
    "conv": lambda: (conv_net(), torch.randn(7, 2, 8, 8), torch.randint(0, 3, (7,))),
    "two layers": lambda: (mlp(4, 5, 3), torch.randn(7, 4), torch.randint(0, 3, (7,))),
    "attention": lambda: (Attending(), torch.randn(7, 3, 4), torch.randint(0, 3, (7,))),
}
# Defined for this kind of network alone.
ONLY_FOR = {
    "TwoLayerBound": "two layers",
    "ShiftSensitivity": "conv",
    "AttentionEntropy": "attention",
    "LargestAttentionLogit": "attention",
}
# What catalogue, plots, the report page and `list` show of every metric; there is no default that could be wrong.
DECLARED = {
    "increases_with_complexity": "`increases_with_complexity = True` if a higher value is more complex, False if a "
    "lower one is, None if neither.",
    "units": '`units = "..."`, what the value counts or is measured in, such as "output / input", "parameters" or '
    '"pure number"; for a logarithm, what it is taken of.',
    "misleads_when": '`misleads_when = "..."`, when its value says something else than how the network generalizes; '
    'one true sentence, without its beginning "Misleads when" and its full stop.',
}


@pytest.fixture(params=["mlp", "conv"])
def network(request: pytest.FixtureRequest) -> Network:
    name = request.getfixturevalue("cls").__name__
    if name in ONLY_FOR and request.param == "conv":
        pytest.skip("the one kind of network that it is defined for is tested already")
    return NETWORKS[ONLY_FOR.get(name, request.param)]()


def moved(network: Network) -> dict[str, Tensor]:
    """Initial state, the model moved away from it, and several labels, those that it gives: no margin is negative."""
    model, x, y = network
    initial = initial_state(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        list(model.modules())[-1].bias.sub_(predictions(Snapshot(model, x)).mean(0))
    y.copy_(predictions(Snapshot(model, x)).argmax(1))
    return initial


def given(
    metric: ComplexityMetric, network: Network, initial: dict[str, Tensor], rows: Any = slice(None)
) -> dict[str, Any]:
    model, x, y = network
    everything = {"inputs": x[rows], "targets": y[rows], "initial": initial}
    if "live" in metric.needs:
        everything["live"] = live_steps(model)
    return {need: everything[need] for need in metric.needs if need != "loss"}


def measured(metric: ComplexityMetric, network: Network, initial: dict[str, Tensor]) -> Tensor:
    metric.update(network[0], **given(metric, network, initial))
    return metric.compute()


def fingerprint(model: nn.Module) -> list[Any]:
    """Everything of a model and of the random states that a measure must leave as it was."""
    return [
        {n: t.clone() for n, t in model.state_dict().items()},
        {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        {n: (p.requires_grad, id(p)) for n, p in model.named_parameters()},
        {n: id(b) for n, b in model.named_buffers()},
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(m.__dict__)) for m in model.modules()],
        [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()],
        [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
    ]


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        assert first == second


@pytest.mark.parametrize("cls", METRICS)
class TestMetric:
    def test_is_described(self, cls: type[ComplexityMetric]) -> None:
        assert cls.__doc__
        assert "Example:" in cls.__doc__
        assert cls.formula
        assert cls.reference
        assert cls.name == cls.name.lower()
        assert not cls.is_logarithm or cls.name.startswith("log_")

    @pytest.mark.parametrize("attribute", DECLARED)
    def test_says_which_way_is_more_complex_its_units_and_when_it_misleads(
        self, cls: type[ComplexityMetric], attribute: str
    ) -> None:
        own = cls.__mro__[: cls.__mro__.index(ComplexityMetric)]
        assert any(attribute in vars(c) for c in own), f"Write into {cls.__name__}: {DECLARED[attribute]}"

    def test_says_it_in_words_that_fit_a_sentence_and_an_axis(self, cls: type[ComplexityMetric]) -> None:
        assert cls.increases_with_complexity in (True, False, None)
        assert 0 < len(cls.units) <= 24, DECLARED["units"]
        assert not (cls.is_logarithm and cls.units.startswith("ln")), DECLARED["units"]
        assert "misleads_when" in vars(cls), f"Write into {cls.__name__}: {DECLARED['misleads_when']}"
        assert cls.misleads_when[-1] not in ".;"
        assert not cls.misleads_when.startswith("when")

    def test_is_a_finite_scalar(self, cls: type[ComplexityMetric], network: Network) -> None:
        value = measured(cls(), network, moved(network))
        assert value.shape == ()
        assert value.isfinite()
        assert not value.requires_grad

    def test_leaves_the_model_untouched(self, cls: type[ComplexityMetric], network: Network) -> None:
        model, x, y = network
        initial = moved(network)
        nn.functional.cross_entropy(model(x), y).backward()
        next(model.modules()).eval().train()
        list(model.children())[-1].eval()
        before = fingerprint(model)
        measured(quick(cls), network, initial)
        assert_same(before, fingerprint(model))

    def test_two_batches_equal_one_in_any_order(self, cls: type[ComplexityMetric], network: Network) -> None:
        initial = moved(network)
        if cls.single_update_reason is not None:
            metric = quick(cls)
            with pytest.raises(MissingInputError):
                metric.update(network[0])  # does not count
            measured(metric, network, initial)
            with pytest.raises(
                ValueError, match=f"{cls.__name__} takes one snapshot, since {cls.single_update_reason}"
            ):
                measured(metric, network, initial)
            return
        whole = measured(quick(cls), network, initial)
        for parts in ([slice(0, 3), slice(3, 7)], [slice(5, 7), slice(0, 4), slice(4, 5)]):
            metric = quick(cls)
            for rows in parts:
                metric.update(network[0], **given(metric, network, initial, rows))
            torch.testing.assert_close(metric.compute(), whole)

    def test_calling_gives_the_batch_and_accumulates(self, cls: type[ComplexityMetric], network: Network) -> None:
        initial, called, updated = moved(network), quick(cls), quick(cls)
        for rows in (slice(0, 3), slice(3, 7)):
            parts = given(called, network, initial, rows)
            alone = quick(cls)
            alone.update(network[0], **parts)
            torch.testing.assert_close(called(network[0], **parts), alone.compute(), equal_nan=True)
            if cls.single_update_reason is not None:
                with pytest.raises(ValueError, match="takes one snapshot"):
                    called(network[0], **parts)
                return
            updated.update(network[0], **parts)
        torch.testing.assert_close(called.compute(), updated.compute())

    def test_works_in_a_collection(self, cls: type[ComplexityMetric], network: Network) -> None:
        initial, metric = moved(network), quick(cls)
        collection = MetricCollection({"one": quick(cls), "other": metrics.ParameterNorm(p=1)}, compute_groups=False)
        live = live_steps(network[0])
        collection.update(network[0], inputs=network[1], targets=network[2], initial=initial, live=live)
        torch.testing.assert_close(collection.compute()["one"], measured(metric, network, initial))

    def test_reset_forgets(self, cls: type[ComplexityMetric], network: Network) -> None:
        initial, metric = moved(network), quick(cls)
        first = measured(metric, network, initial)
        metric.reset()
        torch.testing.assert_close(measured(metric, network, initial), first)

    def test_snapshot_and_model_agree(self, cls: type[ComplexityMetric], network: Network) -> None:
        model, x, y = network
        initial, metric = moved(network), quick(cls)
        metric.update(Snapshot(model, x, y, initial=initial, live=live_steps(model), chunk_size=3))
        torch.testing.assert_close(metric.compute(), measured(quick(cls), network, initial))

    def test_works_where_validation_runs(self, cls: type[ComplexityMetric], network: Network) -> None:
        initial = moved(network)
        value = measured(quick(cls), network, initial)
        with torch.no_grad():
            torch.testing.assert_close(measured(quick(cls), network, initial), value)
        with torch.inference_mode():
            torch.testing.assert_close(measured(quick(cls), network, initial), value)

    def test_is_picklable_and_clonable(self, cls: type[ComplexityMetric], network: Network) -> None:
        initial, metric = moved(network), quick(cls)
        value = measured(metric, network, initial)
        for other in (pickle.loads(pickle.dumps(metric)), metric.clone(), copy.deepcopy(metric)):
            torch.testing.assert_close(other.compute(), value)
        assert len(pickle.dumps(metric)) < 20_000
        assert not metric.state_dict()

    def test_layers_combine_to_the_whole(self, cls: type[ComplexityMetric], network: Network) -> None:
        if not cls.has_layers:
            with pytest.raises(ValueError, match="has no value for a layer"):
                quick(cls, per_layer=True)
            return
        initial, metric = moved(network), quick(cls, per_layer=True)
        layers = measured(metric, network, initial)
        assert len(layers) > 1
        children = {n for n, _ in network[0].named_children()}
        # A nonlinearity that the network's own forward calls has no module; its function gives the name.
        assert {name.split(".")[0] for name in layers} <= children | {"relu"}
        report = metric.report()
        assert {f"{metric.name}/{layer}" for layer in layers} <= report.keys()
        torch.testing.assert_close(report[metric.name], measured(quick(cls), network, initial))

    def test_says_what_is_missing(self, cls: type[ComplexityMetric], network: Network) -> None:
        metric = quick(cls)
        for need in metric.needs - {"loss"}:
            rest = {k: v for k, v in given(metric, network, {}).items() if k != need}
            with pytest.raises(MissingInputError, match=f"{cls.__name__} needs .*{need}"):
                metric.update(network[0], **rest)

    def test_nan_weights_give_nan_not_an_error(self, cls: type[ComplexityMetric], network: Network) -> None:
        initial = moved(network)
        with torch.no_grad():
            for p in network[0].parameters():
                p.fill_(torch.nan)
        value = measured(quick(cls), network, initial)
        of_shapes = {metrics.VCGeneralizationBound, metrics.RegionBound}
        counts = cls.__module__ == metrics.size.__name__ or cls in of_shapes
        assert value.isfinite() if counts else value.isnan()

    def test_single_sample(self, cls: type[ComplexityMetric], network: Network) -> None:
        model, x, y = network
        initial = moved(network)
        value = measured(quick(cls), (model, x[:1], y[:1]), initial)
        assert value.isfinite() or "single sample" in cls.__doc__, "an undefined value must be documented"

    def test_half_precision_is_measured_in_single(self, cls: type[ComplexityMetric], network: Network) -> None:
        model, x, y = network
        initial = moved(network)
        value = measured(quick(cls), (model.bfloat16().float(), x.bfloat16().float(), y), initial)
        half = measured(quick(cls), (model.bfloat16(), x.bfloat16(), y), initial)
        torch.testing.assert_close(half.double(), value.double(), rtol=1e-5, atol=1e-5)


OTHER_DEFAULTS: dict[str, dict[str, Any]] = {
    "HessianTrace": {"num_probes": 1, "estimator": "hutchinson"},
    "GaussNewtonTrace": {"num_probes": 1},
}  # a step draws fewer than a measurement


def pair(cls: type[Regularizer]) -> tuple[Regularizer, ComplexityMetric]:
    return cls(1.0), getattr(metrics, cls.__name__)(**OTHER_DEFAULTS.get(cls.__name__, {}))


def penalty(regularizer: Regularizer, network: Network) -> Tensor:
    needed = given(regularizer.metric, network, {})
    needed.pop("initial", None)
    regularizer.measure.calls = 0  # the same random probes each time, where there are any
    return regularizer(network[0], **needed)


@pytest.mark.parametrize("cls", REGULARIZERS)
class TestRegularizer:
    def test_equals_the_metric(self, cls: type[Regularizer], network: Network) -> None:
        regularizer, metric = pair(cls)
        regularizer.initial = moved(network)
        value = penalty(regularizer, network)
        expected = measured(metric, network, regularizer.initial)
        torch.testing.assert_close(value.detach(), expected)
        torch.testing.assert_close(penalty(cls(0.5).requires_grad_(), network).shape, torch.Size([]))

    def test_strength_is_a_factor(self, cls: type[Regularizer], network: Network) -> None:
        initial = moved(network)
        values = []
        for strength in (1.0, -0.25):
            regularizer = cls(strength)
            regularizer.initial = initial
            values.append(penalty(regularizer, network))
        torch.testing.assert_close(values[1], -0.25 * values[0])

    def test_gradient_is_the_central_difference(self, cls: type[Regularizer], network: Network) -> None:
        model, regularizer = network[0], cls(1.0)
        regularizer.initial = moved(network)
        parameters = list(model.parameters())
        gradient = torch.autograd.grad(penalty(regularizer, network), parameters, materialize_grads=True)
        direction = [torch.randn_like(p) for p in parameters]
        step = 1e-6

        def value_at(sign: float) -> Tensor:
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(sign * step * d)
                value = penalty(regularizer, network)
                for p, d in zip(parameters, direction, strict=True):
                    p.sub_(sign * step * d)
            return value

        expected = (value_at(1) - value_at(-1)) / (2 * step)
        actual = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_gradient_at_degenerate_weights(self, cls: type[Regularizer], rank: int, network: Network) -> None:
        model, regularizer = network[0], cls(1.0)
        regularizer.initial = initial_state(model)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1:
                    p.copy_(torch.ones_like(p) if rank else torch.zeros_like(p))
        value = penalty(regularizer, network)
        gradients = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
        if not (value.isfinite() and all(g.isfinite().all() for g in gradients)):
            assert rank == 0
            assert "zero" in cls.__doc__, "a gradient that is not finite must be documented"

    def test_leaves_the_model_untouched(self, cls: type[Regularizer], network: Network) -> None:
        regularizer = cls(1.0)
        regularizer.initial = moved(network)
        before = fingerprint(network[0])
        penalty(regularizer, network)
        assert_same(before, fingerprint(network[0]))

    def test_strength_zero_computes_nothing(self, cls: type[Regularizer], network: Network) -> None:
        value = cls(0.0)(network[0])
        assert value == 0
        assert not value.requires_grad

    def test_is_picklable_and_leaves_no_trace_in_checkpoints(self, cls: type[Regularizer], network: Network) -> None:
        regularizer = cls(1.0)
        penalty(regularizer, network)
        assert not regularizer.state_dict()
        assert not list(regularizer.parameters())
        assert type(pickle.loads(pickle.dumps(regularizer))) is cls

    def test_no_graph_under_no_grad(self, cls: type[Regularizer], network: Network) -> None:
        with torch.no_grad():
            assert not penalty(cls(1.0), network).requires_grad

    def test_strength_must_be_finite(self, cls: type[Regularizer]) -> None:
        with pytest.raises(ValueError, match="strength must be finite, got nan"):
            cls(float("nan"))

    def test_half_precision_is_penalised_in_single(self, cls: type[Regularizer], network: Network) -> None:
        model, x, y = network
        value = penalty(cls(1.0), (model.bfloat16(), x.bfloat16(), y))
        assert value.dtype == torch.float32
        assert value.isfinite()


def test_every_metric_is_in_a_suite() -> None:
    of_trainings = {cls.__name__ for cls in METRICS if "live" in cls.needs}  # a network alone has none
    # Hundreds of training steps.
    dear = {"LearningCoefficient", "FunctionalVariance", "WorstCaseTolerance", "SharpnessMeasure"}
    assert {cls.__name__ for cls in METRICS} - ONLY_FOR.keys() - of_trainings - dear == set(SUITES["full"])


def test_every_metric_has_a_regularizer_or_a_reason() -> None:
    without = {cls.__name__ for cls in METRICS if cls.no_penalty_reason is not None}
    with_one = {cls.__name__ for cls in REGULARIZERS}
    assert {cls.__name__ for cls in METRICS} == without | with_one
    assert not without & with_one


def test_names_are_distinct() -> None:
    names = [cls.name for cls in METRICS]
    assert len(set(names)) == len(names)
