"""How gradients of samples differ: by hand, from the gradients, and for Gaussian ones whose law is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_complexity import metrics
from lightning_complexity.functional.optimization.gradient_noise import gradient_noise_scale, jackknife_error
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import Snapshot
from tests.networks import conv_net, mlp
from tests.test_sample_gradients import one_by_one

DEFINITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "GradientVariance": lambda g: torch.cov(g.T).reshape(g.shape[1], -1).diag().sum(),
    "GradientSignalToNoise": lambda g: pairs(g).mean() / g.var(0).sum(),
    "GradientNoiseScale": lambda g: g.var(0).sum() / pairs(g).mean(),
    "GradientCoherence": lambda g: len(g) * g.mean(0).square().sum() / g.square().sum(1).mean(),
    "GradientCosine": lambda g: pairs(g).mean() / g.square().sum(1).mean(),
}
"""From all gradients, shape ``(n, size)``."""


def pairs(g: Tensor) -> Tensor:
    """Products of the gradients of different samples."""
    return (g @ g.T)[~torch.eye(len(g), dtype=torch.bool)]


def linear_loss(outputs: Tensor, _: Any) -> Tensor:
    """Of a linear layer without bias it has the inputs as gradients."""
    return outputs.mean()


def measured(name: str, g: Tensor, **options: Any) -> ComplexityMetric:
    """A metric of given gradients."""
    metric = getattr(metrics, name)(**options)
    metric.update(nn.Linear(g.shape[1], 1, bias=False), g, g, loss=linear_loss)
    return metric


@pytest.mark.parametrize("name", DEFINITIONS)
def test_it_is_what_the_gradients_give(name: str) -> None:
    model, x, y = conv_net(), torch.randn(7, 2, 8, 8), torch.arange(7) % 3
    gradients = one_by_one(model, x, y)
    metric = getattr(metrics, name)(per_layer=True)
    metric.update(Snapshot(model, x, y, chunk_size=3))
    torch.testing.assert_close(metric.total(), DEFINITIONS[name](torch.cat(list(gradients.values()), 1)))
    expected = {layer: DEFINITIONS[name](g) for layer, g in gradients.items()}
    torch.testing.assert_close(metric.compute(), expected)
    assert {f"{metric.name}/{layer}/standard_error" for layer in expected} <= metric.report().keys()


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_error_is_that_of_leaving_samples_out(name: str) -> None:
    g = torch.randn(9, 4) + 1
    without = torch.stack([DEFINITIONS[name](torch.cat([g[:i], g[i + 1 :]])) for i in range(9)])
    expected = ((without - without.mean()).square().sum() * 8 / 9).sqrt()
    torch.testing.assert_close(measured(name, g).report()[f"{measured(name, g).name}/standard_error"], expected)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_chosen_layers_are_measured_as_if_there_were_no_others(name: str) -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.arange(7) % 2
    metric = getattr(metrics, name)().on("2")
    metric.update(model, x, y)
    gradients = one_by_one(model, x, y)
    expected = DEFINITIONS[name](torch.cat([gradients["2.weight"], gradients["2.bias"]], 1))
    torch.testing.assert_close(metric.compute(), expected)


def test_orthogonal_and_equal_gradients() -> None:
    for g, cosine, coherence in ((torch.eye(5), 0.0, 1.0), (torch.ones(5, 3), 1.0, 5.0)):
        torch.testing.assert_close(measured("GradientCosine", g).compute(), torch.tensor(cosine))
        torch.testing.assert_close(measured("GradientCoherence", g).compute(), torch.tensor(coherence))
    assert measured("GradientVariance", torch.ones(5, 3)).compute().abs() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_difference_between_equal_samples(dtype: torch.dtype) -> None:
    model, x = mlp(4, 6, 3).to(dtype), torch.randn(1, 4, dtype=dtype).expand(6, 4)
    expected = {"GradientVariance": 0.0, "GradientNoiseScale": 0.0, "GradientSignalToNoise": torch.inf}
    for name, number in expected.items():
        metric = getattr(metrics, name)(per_layer=True)
        metric.update(Snapshot(model, x, torch.ones(6, dtype=torch.long), chunk_size=4))
        assert {float(value) for value in metric.compute().values()} == {number}


def test_norms_of_samples_are_averaged_over_batches_too() -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.arange(7) % 2
    metric = metrics.SampleGradientNorm(per_layer=True)
    for rows in (slice(0, 5), slice(5, 7)):
        metric.update(model, x[rows], y[rows])
    gradients = one_by_one(model, x, y)
    torch.testing.assert_close(metric.compute(), {name: g.norm(dim=1).mean() for name, g in gradients.items()})
    norms = torch.cat(list(gradients.values()), 1).norm(dim=1)
    report = metric.report()
    torch.testing.assert_close(report["sample_gradient_norm"], norms.mean())
    torch.testing.assert_close(report["sample_gradient_norm/standard_error"], norms.std() / 7**0.5)


def test_parameters_that_take_a_pass_for_each_sample_are_counted() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.PReLU(2))
    for name in ("SampleGradientNorm", "GradientVariance"):
        metric = getattr(metrics, name)()
        metric.update(model, torch.randn(7, 3), torch.arange(7) % 2)
        assert metric.report()[f"{metric.name}/one_by_one"] == 1
        metric = getattr(metrics, name)().on("0")
        metric.update(model, torch.randn(7, 3), torch.arange(7) % 2)
        assert f"{metric.name}/one_by_one" not in metric.report()


def test_too_few_samples_have_no_error() -> None:
    report = measured("GradientVariance", torch.randn(2, 3)).report()
    assert report["gradient_variance"].isfinite()
    assert report["gradient_variance/standard_error"].isnan()


def test_the_noise_scale_of_gaussian_gradients() -> None:
    """Means of numerator and denominator over many draws are the true ones, whose ratio here is 200 / 4."""
    squares, of_mean = [], []
    for _ in range(2000):
        g = torch.randn(20, 50) * 2 + torch.full((50,), (4 / 50) ** 0.5)
        squares.append(g.square().sum(1).mean())
        of_mean.append(g.mean(0).square().sum())
    scale = gradient_noise_scale(20, torch.stack(squares).mean(), torch.stack(of_mean).mean())
    assert abs(scale - 50) < 1.5


@pytest.mark.slow
def test_random_labels_make_gradients_disagree_while_a_network_learns() -> None:
    """On 1000 digits, after the same steps; once the true labels are fitted it is the other way around."""
    images, true = (torch.tensor(t) for t in load_digits(return_X_y=True))
    x, true = (images[:1000] / 16).float(), true[:1000]
    early, late = {}, {}
    for labels in ("true", "random"):
        torch.manual_seed(0)
        y = true if labels == "true" else true[torch.randperm(1000)]
        model = mlp(64, 128, 10).float()
        optimizer, found = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), {}
        for step in range(401):
            if step in (0, 5, 10, 20, 40, 80, 400):
                metric = metrics.GradientCoherence()
                metric.update(model, x, y)
                found[step] = float(metric.compute())
            batch = torch.randint(0, 1000, (100,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        late[labels] = found.pop(400)
        early[labels] = sum(found.values())
    assert early["random"] < 0.2 * early["true"]
    assert late["random"] > late["true"]


# Standard errors -------------------------------------------------------------------------------------

TRUE: dict[str, float] = {
    "GradientVariance": 5.0,
    "GradientSignalToNoise": 0.4,
    "GradientNoiseScale": 2.5,
    "GradientCosine": 2 / 7,
}
"""For five entries of variance 1 and a mean whose squared norm is 2."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUE)
def test_two_standard_errors_cover_the_truth(name: str) -> None:
    covered = 0
    for _ in range(200):
        g = torch.randn(100, 5) + torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
        metric = measured(name, g)
        covered += bool((metric.compute() - TRUE[name]).abs() <= 2 * metric.standard_error())
    assert 0.90 <= covered / 200 <= 0.97


def test_the_jackknife_of_a_mean_is_its_usual_error() -> None:
    g = torch.randn(11)
    error = jackknife_error(lambda n, s, q: q.sqrt(), (g + 9).square(), (g + 9) * (g + 9).mean())
    torch.testing.assert_close(error, g.std() / 11**0.5)
