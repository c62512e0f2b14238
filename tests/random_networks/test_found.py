"""What random networks found once: the answer to each, by the smallest network."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_complexity import metrics, regularizers
from lightning_complexity.functional import davies_bouldin_index, graph_variation, two_nn_dimension
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import MeasureError, Snapshot
from tests.random_networks.cases import Case
from tests.random_networks.layers import Function
from tests.random_networks.subjects import METRICS

RELU = ("linear", "relu")


def measured(case: Case, name: str, **options: Any) -> float:
    model, inputs, targets, loss, initial = case.build()
    metric: ComplexityMetric = METRICS[name]()
    metric.update(Snapshot(model, inputs, targets, loss=loss, initial=initial, **options))
    return float(metric.report()[metric.name])


@pytest.mark.parametrize(
    ("case", "name", "message"),
    [
        (Case(outputs="no outputs"), "JacobianNorm", r"at least one output for each sample, got shape \(\d, 0\)"),
        (
            Case(outputs="truth values"),
            "GradientNorm",
            "got torch.bool|returns a tensor of torch.bool",
        ),
        (
            Case(outputs="complex"),
            "GradientNorm",
            "got torch.complex128|returns a tensor of torch.complex128",
        ),
        (Case(probe="sparse"), "MarginPercentile", r"needs dense inputs, got a tensor of layout torch.sparse_coo"),
        (Case(layers=("empty layers",)), "StableRank", r"'layers.0.0.weight' has shape \(0, 4\)"),
        (Case(layers=("empty layers", "batch norm")), "FrobeniusBound", r"'layers.0.0.weight' has shape \(0, 4\)"),
        (Case(layers=("messages",)), "DeadUnits", "samples in the first dimension at every activation"),
        (Case(layers=("messages",)), "RegionBoundaryDistance", "samples in the first dimension at every activation"),
        (Case(layers=("messages",)), "LocalComplexity", "samples in the first dimension at every activation"),
        (Case(layers=("gate by one number",)), "LANNComplexity", "samples in the first dimension at every activation"),
        (Case(layers=("gate by one number",)), "CustomizedL1", "in which a linear layer or convolution reaches"),
        (
            Case(judge="cross-entropy of (n, 1)", outputs="(n, 1)"),
            "GradientNorm",
            "pass loss=.*binary_cross_entropy_with",
        ),
        (
            Case(judge="constant"),
            "GradientNorm",
            "a loss with a derivative, but this one does not depend on the (param|output)",
        ),
        (
            Case(judge="constant"),
            "InputGradientNorm",
            "a loss with a derivative, but this one does not depend on the (in|out)put",
        ),
        (
            Case(outputs="constant"),
            "HessianTrace",
            "a loss with a derivative, but this one does not depend on the (param|output)",
        ),
        (Case(judge="unknown classes"), "MixupMargin", "needs targets from 0 to 2"),
        (Case(outputs="(n, 2, classes)"), "MixupDaviesBouldin", r"needs logits of shape \(n, classes >= 2\)"),
        (
            Case(precision="single", probe="double"),
            "DeadUnits",
            "inputs are torch.float64 and the parameters torch.float32",
        ),
        (
            Case(layers=("half body", "relu"), precision="half body"),
            "LinearRegions",
            "runs the network in double precision, but a part of it computes in torch.bfloat16",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_refusals_name_the_cause(case: Case, name: str, message: str) -> None:
    for options in ({}, {"chunk_size": 3}):
        with pytest.raises(ValueError, match=message):
            measured(case, name, **options)


def test_a_penalty_refuses_what_its_metric_refuses() -> None:
    model, inputs, targets, _, _ = Case(layers=("detach",)).build()
    for penalty in (regularizers.JacobianNorm(1.0), regularizers.GeometricComplexity(1.0)):
        with pytest.raises(ValueError, match="do not depend on the inputs"):
            penalty(model, inputs, targets)
    with pytest.raises(MeasureError, match="does not depend on the inputs"):
        regularizers.InputGradientNorm(1.0)(model, inputs, targets)


@pytest.mark.parametrize("name", ["MarginPercentile", "GradientNorm", "HessianTrace"])
def test_outputs_that_do_not_count_samples_are_computed_at_once(name: str) -> None:
    case = Case(outputs="scalar", judge="of the first tensor with targets")
    if name == "MarginPercentile":
        case = Case(outputs="samples last")
        with pytest.raises(MeasureError, match=r"counts the 7 samples, got shape \(3, 7\)"):
            measured(case, name, chunk_size=3)
        return
    assert measured(case, name) > 0


def test_an_activation_of_one_number_a_sample_is_one_unit() -> None:
    net = Function(lambda x: x[:, 0].relu()[:, None])
    x = torch.tensor([[1.0], [-1.0], [-2.0], [-3.0]])
    dead = metrics.ActivationEntropy()
    dead.update(net, x)
    torch.testing.assert_close(dead.compute().double(), torch.tensor(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75))))
    distance = metrics.RegionBoundaryDistance()
    distance.update(net, x)
    assert distance.compute() == 7 / 4


@pytest.mark.parametrize("name", ["PatternEntropy", "DeadUnits", "ActivationEntropy", "LANNComplexity"])
def test_units_that_depend_on_the_data_are_refused_by_chunks(name: str) -> None:
    halving = Function(lambda x: (0.5 * x).relu().relu() if x.amax() > 1 else x.relu())
    x = torch.tensor([4.0, 4.0, 4.0, 4.0, 0.5, 0.5, 0.5, 0.5])[:, None]
    with pytest.raises(MeasureError, match="go through the same units, but what goes into"):
        METRICS[name]().update(Snapshot(nn.Sequential(halving, nn.Linear(1, 2)), x, chunk_size=4))


def test_functions_that_take_statistics_of_the_batch_couple_samples() -> None:
    model, inputs, targets, _, _ = Case(layers=("functional batch norm",)).build()
    for name in ("JacobianNorm", "GeometricComplexity", "InputGradientNorm", "LocalLipschitzConstant"):
        with pytest.raises(MeasureError, match="calls batch_norm with the statistics of the batch"):
            METRICS[name]().update(model, inputs, targets)
    with pytest.raises(MeasureError, match="calls batch_norm with the statistics of the batch"):
        regularizers.JacobianNorm(1.0)(model, inputs, targets)


@pytest.mark.parametrize("name", ["GradientNorm", "HessianTrace", "JacobianNorm", "MixupMargin"])
def test_networks_that_overwrite_what_their_derivative_needs(name: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Function(lambda x: x.add_(1)), nn.Linear(4, 3))
    with pytest.raises(MeasureError, match="overwrites in place what that derivative is computed from"):
        METRICS[name]().update(net, torch.randn(7, 4), torch.tensor([0, 0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize("name", ["FlopCount", "PeakActivationMemory"])
def test_networks_that_differentiate_in_their_forward_are_counted(name: str) -> None:
    assert measured(Case(layers=("energy", "requires_grad_")), name) > 0


def test_requires_grad_in_forward_changes_no_path() -> None:
    plain, with_it = (measured(Case(layers=layers), "PathNorm") for layers in (RELU, ("requires_grad_", *RELU)))
    assert plain == with_it


def test_hidden_margins_in_a_checkpointed_part() -> None:
    layers = ("linear", "relu", "linear")
    plain, recomputed = (measured(Case(layers=((kind, *layers),)), "MixupMargin") for kind in ("block", "checkpointed"))
    assert plain == recomputed


@pytest.mark.parametrize(
    "name", ["JacobianNorm", "GeometricComplexity", "InputGradientNorm", "LocalLipschitzConstant", "CustomizedL1"]
)
def test_derivatives_where_outputs_are_nan_are_nan(name: str) -> None:
    case = Case(layers=("linear", "relu", "linear", "relu"), probe="a nan")
    assert math.isnan(measured(case, name))
    assert math.isnan(measured(case, name, chunk_size=3))


def test_regression_targets_of_one_are_no_distribution_over_one_class() -> None:
    with pytest.raises(MeasureError, match="needs class targets"):
        metrics.GradientNorm().update(nn.Linear(2, 1), torch.randn(5, 2), torch.ones(5, 1))


def test_cross_entropy_of_several_classes_is_a_loss() -> None:
    model, x, y = nn.Linear(2, 3), torch.randn(5, 2), torch.randint(0, 3, (5,))
    values = []
    for loss in (None, F.cross_entropy, nn.CrossEntropyLoss()):
        metric = metrics.GradientNorm()
        metric.update(model, x, y, loss=loss)
        values.append(metric.compute())
    assert values[0] == values[1] == values[2] > 0


def test_samples_that_differ_by_rounding_coincide() -> None:
    one = torch.randn(1, 5)
    x = one.repeat(8, 1) * (1 + torch.finfo(one.dtype).eps * torch.randint(-2, 3, (8, 1)))
    assert not (x == x[:1]).all()
    y = torch.arange(8) % 2
    assert two_nn_dimension(x).isnan()
    assert davies_bouldin_index(x, y) == 0
    torch.testing.assert_close(graph_variation(x, F.one_hot(y)), graph_variation(one.repeat(8, 1), F.one_hot(y)))


def test_functions_of_integer_inputs_are_no_activations() -> None:
    with pytest.raises(MeasureError, match="this one has none that are known"):
        measured(Case(layers=("exp",), probe="bytes"), "ActivationEntropy")
    assert measured(Case(layers=("exp", *RELU), probe="bytes"), "ActivationEntropy") >= 0


def test_a_trajectory_through_equal_samples_is_a_point() -> None:
    assert math.isnan(measured(Case(layers=RELU, probe="duplicated"), "TrajectoryLength"))


def test_coefficients_are_means_over_samples_wherever_they_lie() -> None:
    """Positions first: shares of chunks are those of the samples, not of the first dimension."""
    case = Case(source="sequence", layers=("transposed",))
    net = nn.Sequential(Function(lambda x, inner: inner(x.transpose(0, 1)).relu().transpose(0, 1), nn.Linear(4, 3)))
    _, x, *_ = case.build()
    values = []
    for size in (256, 3):
        metric = metrics.CustomizedL1()
        metric.update(Snapshot(net, x, chunk_size=size))
        values.append(metric.compute())
    torch.testing.assert_close(values[0], values[1])


def test_nan_preactivations_of_curved_units() -> None:
    assert math.isnan(measured(Case(source="image", layers=("elu",), probe="all nan"), "LANNComplexity"))


def test_samples_last_are_refused_where_each_chunk_is_square() -> None:
    case = Case(outputs="samples last")
    model, inputs, targets, _, _ = case.build()
    six = Snapshot(model, inputs[:6], targets[:6], chunk_size=3)
    with pytest.raises(MeasureError, match=r"counts the 6 samples, got shape \(3, 6\)"):
        METRICS["MarginPercentile"]().update(six)


def test_a_softmax_before_a_layer_with_hidden_weights_is_no_attention() -> None:
    case = Case(source="sequence", layers=("softmax", ("hidden", "gru")))
    for options in ({}, {"chunk_size": 3}):
        with pytest.raises(MeasureError, match="needs a network with attention"):
            measured(case, "LargestAttentionLogit", **options)


def test_features_that_differ_by_rounding_alone_have_no_class_means() -> None:
    case = Case(source="sequence", layers=("transformer",), probe="zeros", seed=701)
    assert math.isnan(measured(case, "CollapseVariability"))
    assert math.isnan(measured(case, "CollapseVariability", chunk_size=3))


def test_scripted_modules_inside_of_checkpoints() -> None:
    assert measured(Case(layers=(("checkpointed", "scripted"),)), "JacobianNorm") > 0


@pytest.mark.parametrize("name", ["HessianTrace by layer", "GaussNewtonTrace with one probe"])
def test_products_between_samples_are_those_of_all_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "GaussNewtonTrace with one probe", lambda: metrics.GaussNewtonTrace(num_probes=1))
    case = Case(source="tokens")
    whole, *parts = (measured(case, name, chunk_size=size) for size in (7, 3, 1))
    assert parts == pytest.approx([whole, whole])


def test_ignored_targets_leave_the_gradient_of_a_penalty_on_curvature_finite() -> None:
    model, inputs, targets, _, _ = Case(source="vector", judge="some ignored").build()
    parameters, counted = list(model.parameters()), targets >= 0

    def gradients(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(regularizers.GaussNewtonTrace(1.0)(model, x, y), parameters)

    for found, expected in zip(gradients(inputs, targets), gradients(inputs[counted], targets[counted]), strict=True):
        torch.testing.assert_close(found, expected)
        assert found.any()


def test_probabilities_of_zero_and_one_leave_a_fisher_rao_norm() -> None:
    case = Case(source="image", layers=("circular conv", "divide", "square"))
    assert math.isfinite(measured(case, "FisherRaoNorm"))


@pytest.mark.parametrize("options", [{}, {"chunk_size": 3}])
def test_mixes_that_are_as_many_as_classes_do_not_pass_for_samples(options: dict[str, int]) -> None:
    case = Case("image", outputs="samples last", seed=3156)
    with pytest.raises(MeasureError, match="needs outputs whose first dimension counts"):
        measured(case, "MixupMargin", **options)


@pytest.mark.parametrize("probe", ["all nan", "a nan"])
def test_gradients_of_samples_that_are_not_finite(probe: str) -> None:
    case = Case(judge="of the first tensor with targets", probe=probe)
    assert not math.isfinite(measured(case, "SampleGradientNorm"))


def test_spectra_of_parameters_of_several_precisions() -> None:
    case = Case(layers=("layer norm",), precision="half body")
    assert measured(case, "LargestHessianEigenvalue") > measured(case, "SmallestHessianEigenvalue")


def test_hessians_of_one_number_for_all_samples() -> None:
    case = Case(outputs="scalar", judge="of the first tensor with targets")
    whole = measured(case, "LargestHessianEigenvalue")
    assert measured(case, "LargestHessianEigenvalue", chunk_size=3) == pytest.approx(whole)


def test_a_last_layer_of_less_precision_than_the_outputs() -> None:
    model, inputs, targets, _, _ = Case(outputs="double", precision="bfloat16").build()
    flatness = regularizers.RelativeFlatness(1.0)(model, inputs, targets)
    assert flatness.isfinite()


def test_gradients_of_samples_behind_an_activation_that_knows_of_training() -> None:
    assert measured(Case(layers=("rrelu",)), "SampleGradientNorm") > 0


def test_regions_of_an_activation_of_one_number_a_sample() -> None:
    assert measured(Case(layers=("by feature",)), "LinearRegions in a plane") >= 1


@pytest.mark.parametrize("options", [{}, {"chunk_size": 3}])
@pytest.mark.parametrize(
    "case", [Case(outputs="expanded"), Case("sequence", ("gate by sample", "transformer"), outputs="expanded")], ids=str
)
def test_a_constant_loss_has_no_curvature(case: Case, options: dict[str, int]) -> None:
    assert math.isnan(measured(case, "NegativeCurvature", **options))
    assert measured(case, "LargestHessianEigenvalue", **options) == 0
