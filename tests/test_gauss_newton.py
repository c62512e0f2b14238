"""Gauss-Newton and Fisher quantities, relative flatness and Takeuchi's criterion, against dense matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from lightning_complexity import regularizers
from lightning_complexity.functional import MatrixOperator, hutch_plus_plus_samples, hutchinson_samples, standard_error
from lightning_complexity.metrics import (
    EmpiricalFisherTrace,
    FisherRaoNorm,
    GaussNewtonTrace,
    GradientNorm,
    HessianTrace,
    RelativeFlatness,
    TakeuchiCriterion,
)
from lightning_complexity.network import HessianOperator, MeasureError, Snapshot, Task
from lightning_complexity.network.curvature.gauss_newton import gauss_newton_samples, is_multilinear
from lightning_complexity.network.curvature.output_curvature import SoftmaxCurvature, output_curvature
from lightning_complexity.network.per_sample.ghosts import GhostCapture
from lightning_complexity.network.tracing.multilinearity import not_multilinear
from tests.networks import conv_net, mlp

Loss = Callable[[Tensor, Tensor], Tensor]


def jacobians(model: nn.Module, x: Tensor) -> Tensor:
    """Shape ``(n, outputs, parameters)``, in evaluation mode."""
    model.eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def one(p: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, p, (sample.unsqueeze(0),)).flatten()

    found = vmap(jacrev(one), in_dims=(None, 0))(parameters, x)
    return torch.cat([found[name].flatten(2) for name in parameters], dim=2)


def output_hessians(outputs: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Blocks of the Hessian of the whole loss for the outputs of each sample."""
    whole = torch.autograd.functional.hessian(lambda z: loss(z, y), outputs.detach())
    n, size = len(outputs), outputs[0].numel()
    whole = whole.reshape(n, size, n, size)
    return torch.stack([whole[i, :, i] for i in range(n)])


def gauss_newton(model: nn.Module, x: Tensor, y: Tensor, loss: Loss = F.cross_entropy) -> Tensor:
    blocks = output_hessians(model.eval()(x), y, loss)
    j = jacobians(model, x)
    return torch.einsum("nki,nkl,nlj->ij", j, blocks, j)


def weighted(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, weight=torch.tensor([1.0, 5.0, 0.3]), label_smoothing=0.1, ignore_index=2)


def of_pairs(z: Tensor, y: Tensor) -> Tensor:
    """Convex in a sample's outputs, in a way that is neither diagonal nor that of a softmax."""
    return ((z[:, 0] - z[:, 1]).square() + (z.sum(1) - y).exp()).mean()


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=1),
        nn.LeakyReLU(),
        nn.Conv1d(4, 4, 2, groups=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def positions() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Flatten())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: mlp(4, 6, 3), (4,)),
    "conv": (conv_net, (2, 8, 8)),
    "conv1d": (convolutions, (2, 8)),
    "positions": (positions, (2, 4)),
    "tanh": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (4,)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 3)), (4,)),
}


def built(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    build, shape = NETWORKS[name]
    return build(), torch.randn(7, *shape), torch.arange(7) % 3


# The trace -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("chunk_size", [3, 100])
def test_exact_it_is_that_of_the_dense_matrix_parameter_by_parameter(name: str, chunk_size: int) -> None:
    model, x, y = built(name)
    metric = GaussNewtonTrace(6, per_layer=True)
    metric.update(Snapshot(model, x, y, chunk_size=chunk_size))
    sizes = [p.numel() for p in model.parameters()]
    expected = [part.sum() for part in gauss_newton(model, x, y).diagonal().split(sizes)]
    torch.testing.assert_close(list(metric.compute().values()), expected)
    assert metric.standard_error() == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_estimated_it_is_within_its_error(name: str) -> None:
    model, x, y = built(name)
    truth = gauss_newton(model, x, y).trace()
    snapshot = Snapshot(model, x, y)
    rows = [gauss_newton_samples(snapshot, 2, seed).samples.sum(1) for seed in range(150)]
    samples = torch.cat(rows)
    assert abs(samples.mean() - truth) <= 3 * samples.std() / len(samples) ** 0.5
    assert samples.std() > 0


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (F.mse_loss, torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)),
        (lambda z, y: F.cross_entropy(z, y, reduction="sum"), torch.arange(7) % 3),
        (weighted, torch.arange(7) % 3),
        (F.binary_cross_entropy_with_logits, torch.rand(7, 3, generator=torch.Generator().manual_seed(0)).double()),
        (of_pairs, torch.rand(7, generator=torch.Generator().manual_seed(0)).double()),
        (lambda z, y: 1e-6 * F.cross_entropy(z, y), torch.arange(7) % 3),
    ],
    ids=["mse", "sum", "weights", "bce", "dense", "millionth"],
)
def test_any_convex_loss_will_do(loss: Loss, targets: Tensor) -> None:
    model, x, _ = built("mlp")
    metric = GaussNewtonTrace()
    metric.update(model, x, targets, loss=loss)
    expected = gauss_newton(model, x, targets, loss).trace()
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "loss",
    [lambda z, y: -F.cross_entropy(z, y), lambda z, y: z.std(0).sum() + z.square().mean()],
    ids=["concave", "coupled"],
)
def test_other_losses_are_refused_and_the_hessian_falls_back(loss: Loss) -> None:
    model, x, y = built("mlp")
    with pytest.raises(MeasureError, match="needs a loss that is a convex function of each sample's own outputs"):
        GaussNewtonTrace().update(model, x, y, loss=loss)
    metric = HessianTrace(400)
    metric.update(model, x, y, loss=loss)
    assert metric.standard_error() > 0
    operator = HessianOperator(Snapshot(model, x, y, loss=loss))
    truth = operator.matmat(torch.eye(operator.shape[0])).trace()
    assert abs(metric.compute() - truth) <= 3 * metric.standard_error()


@pytest.mark.parametrize("known", [F.cross_entropy, F.mse_loss])
def test_a_step_whose_loss_is_known_will_do(known: Loss) -> None:
    model, x, y = built("mlp")
    targets = y if known is F.cross_entropy else torch.randn(7, 3)
    metric = GaussNewtonTrace()
    metric.update(model, x, targets, task=Task(loss=lambda module, batch: known(module(batch[0]), batch[1])))
    torch.testing.assert_close(metric.compute(), gauss_newton(model, x, targets, known).trace())


@pytest.mark.parametrize("factor", [1e-6, 0.3, 1e4])
@pytest.mark.parametrize("known", [F.cross_entropy, F.mse_loss, F.binary_cross_entropy_with_logits])
def test_a_step_whose_loss_is_a_multiple_of_a_known_one_has_that_multiple_of_its_curvature(
    known: Loss, factor: float
) -> None:
    model, x, y = built("mlp")
    targets = y if known is F.cross_entropy else torch.rand(7, 3)
    task = Task(loss=lambda module, batch: factor * known(module(batch[0]), batch[1]))
    for cls in (GaussNewtonTrace, HessianTrace, RelativeFlatness, FisherRaoNorm, EmpiricalFisherTrace):
        metric, plain = cls(), cls()
        metric.update(model, x, targets, task=task)
        plain.update(model, x, targets, loss=lambda z, t: factor * known(z, t))
        torch.testing.assert_close(metric.compute(), plain.compute(), rtol=1e-9, atol=0)
        assert metric.standard_error() == pytest.approx(float(plain.standard_error()), rel=1e-9)


@pytest.mark.parametrize("normalized", [True, False])
def test_a_step_is_known_by_all_samples_and_not_by_the_first_which_may_be_of_one_class(normalized: bool) -> None:
    """Sorted data: weights of classes are a factor, or nothing, on samples of one class."""
    model, x, y = mlp(4, 6, 3), torch.randn(40, 4), torch.arange(40) // 17
    weight = torch.tensor([1.0, 4.0, 0.5]) if normalized else torch.tensor([2.0, 4.0, 0.5])

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if normalized:
            return F.cross_entropy(outputs, targets, weight=weight)
        return (F.cross_entropy(outputs, targets, reduction="none") * weight[targets]).mean()

    task = Task(loss=lambda module, batch: loss(module(batch[0]), batch[1]))
    with pytest.raises(MeasureError, match="this one takes whole batches"):
        GaussNewtonTrace().update(model, x, y, task=task)


def test_a_step_with_something_else_in_its_loss_is_refused() -> None:
    model, x, y = built("mlp")

    def loss(module: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0]), batch[1]) + 1e-3 * sum(p.square().sum() for p in module.parameters())

    with pytest.raises(MeasureError, match="this one takes whole batches"):
        GaussNewtonTrace().update(model, x, y, task=Task(loss=loss))
    metric = HessianTrace()
    metric.update(model, x, y, task=Task(loss=loss))
    assert metric.standard_error() > 0


# Whether it is the Hessian's -------------------------------------------------------------------------


class Tied(nn.Module):
    """Uses a weight twice, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(x).relu()).relu())


class SideBySide(Tied):
    """Uses a weight twice, which the outputs are still linear in."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).relu() + self.layer(-x).relu())


class Cubed(torch.autograd.Function):
    """A function of the user's own, which no table knows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Hidden(Tied):
    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return self.head(h + Cubed.apply(h))


class Computed(Tied):
    """A weight that is a function of the parameter."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(x, self.layer.weight.square()))


class Gated(Tied):
    """A product of two things that depend on one parameter."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return self.head(h * h.relu())


def tokens() -> nn.Module:
    return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


OF_HESSIANS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], bool]] = {
    "mlp": (lambda: mlp(4, 6, 3), lambda: torch.randn(7, 4), True),
    "conv": (conv_net, lambda: torch.randn(7, 2, 8, 8), True),
    "conv1d": (convolutions, lambda: torch.randn(7, 2, 8), True),
    "side by side": (SideBySide, lambda: torch.randn(7, 4), True),
    "embedding": (tokens, lambda: torch.randint(0, 9, (7, 2)), True),
    "tanh": (NETWORKS["tanh"][0], lambda: torch.randn(7, 4), False),
    "layer norm": (NETWORKS["layer norm"][0], lambda: torch.randn(7, 4), False),
    "tied": (Tied, lambda: torch.randn(7, 4), False),
    "hidden": (Hidden, lambda: torch.randn(7, 4), False),
    "computed": (Computed, lambda: torch.randn(7, 4), False),
    "gated": (Gated, lambda: torch.randn(7, 4), False),
}


@pytest.mark.parametrize("name", OF_HESSIANS)
def test_the_shortcut_is_taken_where_it_holds_and_only_there(name: str) -> None:
    build, inputs, holds = OF_HESSIANS[name]
    model, x, y = build(), inputs(), torch.arange(7) % 3
    snapshot = Snapshot(model, x, y)
    operator = HessianOperator(snapshot)
    truth = operator.matmat(torch.eye(operator.shape[0])).trace()
    same = torch.isclose(gauss_newton_samples(snapshot, 3).samples.sum(), truth, rtol=1e-6)
    assert is_multilinear(snapshot) == holds == same
    metric = HessianTrace()
    metric.update(snapshot)
    assert (metric.standard_error() == 0) == holds
    if holds:
        torch.testing.assert_close(metric.compute(), truth)


def test_division_by_a_parameter_and_batch_statistics_are_curved() -> None:
    w, x = torch.randn(3, requires_grad=True), torch.randn(4, 3)
    assert not_multilinear([x * w]) is None
    assert not_multilinear([(x * w) / 2]) is None
    assert not_multilinear([x / w]) == "Div"
    assert not_multilinear([F.batch_norm(x * w, None, None, training=True)]) == "NativeBatchNorm"
    assert not_multilinear([F.batch_norm(x * w, torch.zeros(3), torch.ones(3))]) is None


def test_samples_that_lie_in_another_dimension_are_noticed() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.transpose(0, 1)).transpose(0, 1).flatten(1)

    model, x, y = Turned(), torch.randn(5, 5, 4), torch.arange(5) % 3
    ghosts = GhostCapture(model)
    with ghosts:
        outputs = model(x)
    assert not ghosts.covers(["layer.weight"], outputs)
    metric = GaussNewtonTrace(10)
    metric.update(model, x, y)
    torch.testing.assert_close(metric.compute(), gauss_newton(model, x, y).trace())


# Estimators ------------------------------------------------------------------------------------------


def test_hutch_plus_plus_is_unbiased_and_better_where_eigenvalues_fall() -> None:
    eigenvalues = 20 * torch.exp(-torch.arange(100) / 4.0)
    basis = torch.linalg.qr(torch.randn(100, 100)).Q
    operator = MatrixOperator(basis * eigenvalues @ basis.T)
    errors: dict[str, list[Tensor]] = {"hutch++": [], "hutchinson": []}
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        found = hutch_plus_plus_samples(operator, 30, generator=generator)
        assert len(found) == 10
        errors["hutch++"].append(found.mean() - eigenvalues.sum())
        errors["hutchinson"].append(hutchinson_samples(operator, 30, generator=generator).mean() - eigenvalues.sum())
    ours, plain = (torch.stack(e) for e in errors.values())
    assert ours.square().mean() < 0.5 * plain.square().mean()
    assert abs(ours.mean()) <= 3 * ours.std() / 60**0.5


def test_hutch_plus_plus_is_exact_for_low_rank() -> None:
    w = torch.randn(50, 3)
    found = hutch_plus_plus_samples(MatrixOperator(w @ w.T), 12)
    torch.testing.assert_close(found, w.square().sum().expand(4))
    with pytest.raises(ValueError, match="at least 6 products, got 5"):
        hutch_plus_plus_samples(MatrixOperator(w @ w.T), 5)


def test_estimators_agree_and_are_checked() -> None:
    model, x, y = built("tanh")
    operator = HessianOperator(Snapshot(model, x, y))
    truth = operator.matmat(torch.eye(operator.shape[0])).trace()
    for estimator in ("auto", "hutchinson", "hutch++"):
        metric = HessianTrace(90, estimator=estimator)
        metric.update(model, x, y)
        assert abs(metric.compute() - truth) <= 4 * metric.standard_error()
    with pytest.raises(ValueError, match="takes one snapshot"):
        metric.update(model, x, y)
    for options, message in (
        ({"estimator": "xtrace"}, "estimator must be one of auto, hutchinson, hutch"),
        ({"estimator": "hutch++", "per_layer": True}, "has no layers"),
        ({"estimator": "hutch++", "num_probes": 5}, "at least 6, got 5"),
    ):
        with pytest.raises(ValueError, match=message):
            HessianTrace(**options)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["gauss-newton", "hutch++"])
def test_two_standard_errors_cover_the_truth(estimator: str) -> None:
    model, x, y = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5)), torch.randn(20, 4), torch.arange(20) % 5
    snapshot = Snapshot(model, x, y)
    operator = HessianOperator(snapshot)
    matrix = operator.matmat(torch.eye(operator.shape[0]))
    covered = 0
    for seed in range(200):
        if estimator == "gauss-newton":
            samples = torch.cat([gauss_newton_samples(snapshot, 4, 10 * seed + i).samples.sum(1) for i in range(4)])
        else:
            generator = torch.Generator().manual_seed(seed)
            samples = hutch_plus_plus_samples(MatrixOperator(matrix), 48, generator=generator)
        covered += bool((samples.mean() - matrix.trace()).abs() <= 2 * standard_error(samples))
    assert 0.90 <= covered / 200 <= 0.98


# Fisher ----------------------------------------------------------------------------------------------


def sample_gradients(model: nn.Module, x: Tensor, y: Tensor, loss: Loss = F.cross_entropy) -> Tensor:
    rows = []
    for i in range(len(x)):
        found = torch.autograd.grad(loss(model.eval()(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", NETWORKS)
def test_empirical_fisher_trace_is_the_mean_of_squared_gradients(name: str) -> None:
    model, x, y = built(name)
    y = y if name != "positions" else torch.arange(7) % 6
    each = sample_gradients(model, x, y)
    metric = EmpiricalFisherTrace(per_layer=True)
    metric.update(Snapshot(model, x, y, chunk_size=3))
    sizes = [p.numel() for p in model.parameters()]
    expected = [part.square().sum(1).mean() for part in each.split(sizes, dim=1)]
    torch.testing.assert_close(list(metric.compute().values()), expected)
    spread = each.square().sum(1).std() / 7**0.5
    torch.testing.assert_close(metric.standard_error(), spread)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("biases", [True, False])
def test_fisher_rao_norm_is_that_of_the_dense_fisher(name: str, biases: bool) -> None:
    model, x, y = built(name)
    theta = torch.cat([p.detach().flatten() * (1 if biases or p.ndim > 1 else 0) for p in model.parameters()])
    model_one, empirical = FisherRaoNorm(biases=biases), FisherRaoNorm("empirical", biases=biases, squared=True)
    for metric in (model_one, empirical):
        metric.update(Snapshot(model, x, y, chunk_size=3))
    torch.testing.assert_close(model_one.compute(), (theta @ gauss_newton(model, x, y) @ theta).sqrt())
    squares = (sample_gradients(model, x, y) @ theta).square()
    torch.testing.assert_close(empirical.compute(), squares.mean())
    torch.testing.assert_close(empirical.standard_error(), squares.std() / 7**0.5)
    assert (model_one.name, empirical.name) == ("fisher_rao_norm", "squared_empirical_fisher_rao_norm")


def test_fisher_rao_norm_of_a_homogeneous_network_has_a_closed_form() -> None:
    """Three linear layers without biases: 3^2 times the mean of <dl/df, f>^2, as Liang et al. have it."""
    model, x, y = mlp(4, 6, 5, 3, bias=False), torch.randn(9, 4), torch.arange(9) % 3
    z = model(x).detach()
    p = z.softmax(1)
    expected = 9 * ((p * z).sum(1) - z.gather(1, y.unsqueeze(1)).squeeze(1)).square().mean()
    metric = FisherRaoNorm("empirical", squared=True)
    metric.update(model, x, y)
    torch.testing.assert_close(metric.compute(), expected)
    of_model = FisherRaoNorm(squared=True)
    of_model.update(model, x, y)
    variance = (p * z.square()).sum(1) - (p * z).sum(1).square()
    torch.testing.assert_close(of_model.compute(), 9 * variance.mean())


# Relative flatness -----------------------------------------------------------------------------------


def test_relative_flatness_is_the_sum_over_the_hessian_of_the_last_layer() -> None:
    model, x = mlp(4, 6, 3), torch.randn(9, 4)
    for loss, y in ((F.cross_entropy, torch.arange(9) % 3), (F.mse_loss, torch.randn(9, 3))):
        features = model[:2](x).detach()
        w, b = model[2].weight.detach(), model[2].bias.detach()
        hessian = torch.autograd.functional.hessian(
            lambda v, loss=loss, y=y, features=features, b=b: loss(features @ v.T + b, y), w
        )
        expected = torch.einsum("sd,td,siti->", w, w, hessian)
        metric = RelativeFlatness()
        metric.update(Snapshot(model, x, y, loss=loss, chunk_size=4))
        torch.testing.assert_close(metric.compute(), expected)


def test_relative_flatness_does_not_change_when_the_layers_are_rescaled() -> None:
    model, x, y = mlp(4, 6, 3, bias=False), torch.randn(9, 4), torch.arange(9) % 3
    values = []
    for factor in (1.0, 5.0):
        with torch.no_grad():
            model[0].weight.div_(factor)
            model[2].weight.mul_(factor)
        metric = RelativeFlatness()
        metric.update(model, x, y)
        values.append(metric.compute())
    torch.testing.assert_close(values[1], values[0])


def test_sure_samples_among_weighted_ones_of_many_classes_are_seen_as_cross_entropy() -> None:
    """Their curvature is far below that of others, and a matrix for each sample would be too large."""
    layer, x, y, weight = nn.Linear(4, 70), torch.randn(40, 4), torch.randint(70, (40,)), torch.rand(70)
    with torch.no_grad():
        layer.weight.mul_(40)
    metric = RelativeFlatness()
    metric.update(layer, x, y, loss=lambda outputs, classes: F.cross_entropy(outputs, classes, weight=weight))
    p, w = layer(x).detach().softmax(1), layer.weight.detach()
    assert p.amax(1).max() > 1 - 1e-6
    spread = p @ w.square().sum(1) - (p @ w).square().sum(1)
    expected = (weight[y] / weight[y].sum() * x.square().sum(1) * spread).sum()
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-7, atol=0)


def test_outputs_that_are_not_those_of_a_linear_layer_are_refused() -> None:
    for model in (
        nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
        nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.ReLU()),
    ):
        with pytest.raises(MeasureError, match="whose outputs are those of a linear layer"):
            RelativeFlatness().update(model, torch.randn(5, 4), torch.arange(5) % 3)


# Takeuchi --------------------------------------------------------------------------------------------


def regression(n: int, seed: int) -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    y = x @ torch.ones(5) + torch.randn(n, generator=generator, dtype=torch.float64)
    model = nn.Linear(5, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y.unsqueeze(1)).solution.T)
    return model, x, y.unsqueeze(1)


@pytest.mark.slow
def test_takeuchi_criterion_is_the_gap_of_linear_regression() -> None:
    """Half the squared error: the expected gap is d / n times the variance of the noise, up to higher order."""
    gaps, criteria = [], []
    for seed in range(300):
        model, x, y = regression(100, seed)
        metric = TakeuchiCriterion(exact=True)
        metric.update(model, x, y, loss=lambda z, t: F.mse_loss(z, t) / 2)
        criteria.append(metric.compute())
        error = model.weight.detach().flatten() - 1
        gaps.append((1 + error.square().sum()) / 2 - F.mse_loss(model(x), y).detach() / 2)
    gap, criterion = torch.stack(gaps), torch.stack(criteria)
    assert abs(criterion.mean() - 0.05) < 0.004
    assert abs(gap.mean() - criterion.mean()) <= 3 * gap.std() / 300**0.5 + 0.005


@pytest.mark.parametrize("name", ["mlp", "tanh"])
def test_takeuchi_criteria_are_those_of_dense_matrices(name: str) -> None:
    model, x, y = built(name)
    operator = HessianOperator(Snapshot(model, x, y))
    hessian = operator.matmat(torch.eye(operator.shape[0]))
    covariance = torch.cov(sample_gradients(model, x, y).T)
    exact, cheap = TakeuchiCriterion(exact=True, num_training_samples=50), TakeuchiCriterion(num_probes=5_000)
    for metric in (exact, cheap):
        metric.update(model, x, y)
    expected = (torch.linalg.pinv(hessian, hermitian=True, rtol=1e-8) * covariance).sum() / 50
    torch.testing.assert_close(exact.compute(), expected, rtol=1e-5, atol=0)
    of_traces = covariance.trace() / (7 * hessian.trace())
    torch.testing.assert_close(cheap.compute(), of_traces, rtol=1e-8 if name == "mlp" else 0.05, atol=0)


def test_takeuchi_needs_two_samples_and_a_small_network() -> None:
    metric = TakeuchiCriterion()
    metric.update(mlp(3, 2), torch.randn(1, 3), torch.tensor([0]))
    assert metric.compute().isnan()
    with pytest.raises(MeasureError, match="of 2043 parameters, more than 2000"):
        TakeuchiCriterion(exact=True).update(mlp(30, 60, 3), torch.randn(3, 30), torch.arange(3))
    for options in ({"num_training_samples": 0}, {"num_probes": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            TakeuchiCriterion(**options)


def test_one_snapshot_serves_them_all() -> None:
    """What they share is computed once: a dozen measures do not run the network a dozen times as often as one."""

    class Counting(nn.Sequential):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            type(self).calls += 1
            return super().forward(x)

    model = Counting(*mlp(4, 6, 3))
    x, y = torch.randn(9, 4), torch.arange(9) % 3
    together = [
        HessianTrace(),
        GaussNewtonTrace(),
        EmpiricalFisherTrace(),
        FisherRaoNorm(),
        RelativeFlatness(),
        GradientNorm(),
    ]
    snapshot = Snapshot(model, x, y)
    for metric in together:
        metric.update(snapshot)
    shared, Counting.calls = Counting.calls, 0
    for metric in together:
        metric.reset()
        metric.update(Snapshot(model, x, y))
    assert shared <= 0.7 * Counting.calls


def test_penalty_of_a_curvature_with_directions_of_none_has_its_gradient() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y, seen = torch.randn(6, 4), torch.zeros(6), torch.randn(3, 2)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs @ seen).square().sum(1) + (outputs @ seen[:, 0]).pow(4)).mean()

    penalty, bias = regularizers.GaussNewtonTrace(1.0, num_probes=3), net[0].bias
    (gradient,) = torch.autograd.grad(penalty(net, x, y, loss=loss), [bias])
    for i, slope in enumerate(gradient):
        ends = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                bias[i] += step
            ends.append(penalty(net, x, y, loss=loss).item())
        with torch.no_grad():
            bias[i] += 1e-5
        assert slope.item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_classes_in_a_column_are_classes() -> None:
    net, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.arange(6) % 3
    assert isinstance(output_curvature(Snapshot(net, x, y[:, None])), SoftmaxCurvature)
    column, flat = GaussNewtonTrace(), GaussNewtonTrace()
    column.update(net, x, y[:, None])
    flat.update(net, x, y)
    torch.testing.assert_close(column.compute(), flat.compute())
