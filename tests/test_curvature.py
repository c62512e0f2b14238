"""The Hessian trace, against exact Hessians."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional import hutchinson_samples, standard_error
from lightning_complexity.metrics import HessianTrace
from lightning_complexity.network import LossFunction, Snapshot
from tests.networks import conv_net, mlp


def exact_hessian(model: nn.Module, x: Tensor, y: Tensor, loss_function: LossFunction = F.cross_entropy) -> Tensor:
    parameters = dict(model.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = [part.view_as(p) for part, p in zip(flat.split(sizes), parameters.values(), strict=True)]
        outputs = torch.func.functional_call(model, dict(zip(parameters, parts, strict=True)), (x,))
        return loss_function(outputs, y)

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("chunk_size", [3, 100])
def test_products_and_gradient_are_exact(chunk_size: int) -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.randint(0, 2, (7,))
    snapshot = Snapshot(model, x, y, chunk_size=chunk_size)
    hessian = exact_hessian(model, x, y)
    v = torch.randn(len(hessian))
    torch.testing.assert_close(snapshot.hvp(v), hessian @ v)
    expected = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    torch.testing.assert_close(snapshot.gradient, torch.cat([g.flatten() for g in expected]))


def test_estimate_is_within_its_standard_error() -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.randint(0, 2, (7,))
    hessian = exact_hessian(model, x, y)
    metric = HessianTrace(num_probes=2000)
    metric.update(model, x, y)
    error = metric.standard_error()
    assert abs(metric.compute() - hessian.trace()) < 3 * error
    # The variance of one probe is twice the sum of the squared off-diagonal entries.
    variance = 2 * (hessian.square().sum() - hessian.diagonal().square().sum())
    torch.testing.assert_close(error, (variance / 2000).sqrt(), rtol=0.1, atol=0)


def test_layers_are_the_diagonal_blocks() -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.randint(0, 2, (7,))
    diagonal = exact_hessian(model, x, y).diagonal()
    sizes = [p.numel() for p in model.parameters()]
    metric = HessianTrace(num_probes=4000, per_layer=True)
    metric.update(model, x, y)
    blocks = torch.stack(list(metric.compute().values()))
    torch.testing.assert_close(blocks, torch.stack([part.sum() for part in diagonal.split(sizes)]), rtol=0.1, atol=0.02)
    assert list(metric.compute()) == [name for name, _ in model.named_parameters()]


def test_linear_regression_has_a_closed_form() -> None:
    model, x, y = nn.Linear(1, 1), torch.randn(9, 1), torch.randn(9, 1)
    metric = HessianTrace(num_probes=3000)
    metric.update(model, x, y, loss=F.mse_loss)
    expected = 2 * (x.square().mean() + 1)
    assert abs(metric.compute() - expected) < 4 * metric.standard_error()


def test_trace_of_a_piecewise_linear_network_is_that_of_its_gauss_newton_matrix() -> None:
    model, x, y = mlp(3, 5, 4), torch.randn(6, 3), torch.randint(0, 4, (6,))
    gauss_newton = torch.zeros(())
    for sample in x:
        logits = model(sample)
        jacobian = torch.stack(
            [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(logit, list(model.parameters()), retain_graph=True)]
                )
                for logit in logits
            ]
        )
        p = logits.detach().softmax(0)
        gauss_newton += (jacobian.T @ (p.diag() - p.outer(p)) @ jacobian).trace() / len(x)
    torch.testing.assert_close(exact_hessian(model, x, y).trace(), gauss_newton)
    metric = HessianTrace(num_probes=2000)
    metric.update(model, x, y)
    assert abs(metric.compute() - gauss_newton) < 3 * metric.standard_error()


def test_frozen_parameters_do_not_count() -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.randint(0, 2, (7,))
    model[0].requires_grad_(False)
    metric = HessianTrace(num_probes=1, per_layer=True)
    metric.update(model, x, y)
    assert list(metric.compute()) == ["2.weight", "2.bias"]


def test_network_without_trained_parameters_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a network with parameters that are trained"):
        HessianTrace().update(mlp(3, 2).requires_grad_(False), torch.randn(2, 3), torch.tensor([0, 1]))


def test_batch_norm_counts_with_running_statistics() -> None:
    model, x, y = conv_net(), torch.randn(5, 2, 8, 8), torch.randint(0, 3, (5,))
    whole, single = HessianTrace(num_probes=2), HessianTrace(num_probes=2)
    whole.update(model, x, y)
    for i in range(5):
        single.update(model, x[i : i + 1], y[i : i + 1])
    torch.testing.assert_close(whole.compute(), single.compute())


def test_attention_has_second_derivatives() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 2))
    metric = HessianTrace(num_probes=2)
    metric.update(model, torch.randn(5, 3, 4), torch.randint(0, 2, (5,)))
    assert metric.compute().isfinite()


def test_one_probe_is_exact_for_a_diagonal_matrix() -> None:
    diagonal = torch.tensor([1.0, 2.0, 4.0])
    samples = hutchinson_samples(lambda v: diagonal * v, [2, 1], 3, like=diagonal)
    torch.testing.assert_close(samples, torch.tensor([[3.0, 4.0]] * 3))


def test_one_sample_tells_no_spread() -> None:
    assert standard_error(torch.ones(1)).isnan()
    assert standard_error(torch.tensor([1.0, 3.0])) == 1


def test_number_of_probes_is_checked() -> None:
    with pytest.raises(ValueError, match="num_probes must be at least 1, got 0"):
        HessianTrace(num_probes=0)
