"""The guard: what it sets inside, and that nothing of it remains, exception or not."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from lightning_complexity.metrics import StableRank
from lightning_complexity.network import (
    HessianOperator,
    Snapshot,
    accuracy,
    gradients,
    margins,
    mean_loss,
    observe,
    path_sums,
    predictions,
)
from lightning_complexity.recording.measuring import FailureReport, measure_metrics
from tests.networks import gradient_vector


def random_numbers() -> list[float]:
    return [torch.rand(()).item(), np.random.rand(), random.random()]


class Logging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logged: list[str] = []
        self.norm = nn.BatchNorm1d(3)

    def log(self, name: str, value: Any) -> None:
        self.logged.append(name)

    def forward(self, x: Tensor) -> Tensor:
        self.log("hidden", x.mean())
        torch.rand(3)
        return self.norm(x)


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails: bool) -> None:
    model = nn.Sequential(Logging(), nn.Dropout(), nn.Linear(3, 2))
    model[0].norm.eval()
    modes = [m.training for m in model.modules()]
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = random_numbers()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)

    def inside() -> None:
        with torch.no_grad(), observe(model):
            assert torch.is_grad_enabled()
            assert not any(m.training for m in model.modules())
            random_numbers()
            model(torch.randn(4, 3))
            if fails:
                raise RuntimeError("stop")

    if fails:
        with pytest.raises(RuntimeError, match="stop"):
            inside()
    else:
        inside()
    assert [m.training for m in model.modules()] == modes
    assert random_numbers() == expected
    assert model[0].logged == []
    assert "log" not in model[0].__dict__
    model[0](torch.randn(4, 3))
    assert model[0].logged == ["hidden"]


def test_a_log_method_of_the_users_own_is_put_back() -> None:
    model, calls = Logging(), []
    model.log = lambda *args: calls.append(args)
    with observe(model):
        model.log("a", 1)
    model.log("b", 2)
    assert calls == [("b", 2)]


def test_inference_mode_autocast_and_compiled_code_are_off_inside() -> None:
    model = nn.Linear(2, 2).float()  # autocast leaves double precision alone
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), observe(model):
        x = torch.ones(1, 2, requires_grad=True, dtype=torch.float32)
        y = model(x)
        assert y.dtype == torch.float32
        assert torch.autograd.grad(y.sum(), x)[0].shape == (1, 2)


def test_overridden_train_is_not_called() -> None:
    class Stubborn(nn.Linear):
        def train(self, mode: bool = True) -> nn.Module:
            raise AssertionError("train() was called")

    with observe(Stubborn(2, 2)):
        pass


def test_attention_can_be_differentiated_twice_inside() -> None:
    q = torch.randn(1, 2, 3, 4, requires_grad=True)
    with observe(nn.Identity()):
        (g,) = torch.autograd.grad(F.scaled_dot_product_attention(q, q, q).square().sum(), q, create_graph=True)
        torch.autograd.grad(g.sum(), q)


class Attending(nn.Module):
    """Attention, checkpointed or not, that notes which of its kernels may be used."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.query, self.head, self.checkpointed = nn.Linear(4, 8), nn.Linear(8, 2), checkpointed

    def attend(self, x: Tensor) -> Tensor:
        KERNELS.append(torch.backends.cuda.flash_sdp_enabled())
        q = self.query(x).unflatten(2, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        attended = checkpoint(self.attend, x, use_reentrant=False) if self.checkpointed else self.attend(x)
        return self.head(attended.mean(1))


KERNELS: list[bool] = []


@pytest.mark.parametrize("checkpointed", [True, False])
def test_attention_uses_the_kernels_of_training_where_no_second_derivative_is_taken(checkpointed: bool) -> None:
    model, x, y = Attending(checkpointed), torch.randn(5, 3, 4), torch.tensor([0, 1, 0, 1, 1])
    parameters = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        graph = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=True)
        product = torch.cat([g.flatten() for g in torch.autograd.grad(graph, parameters, [g.detach() for g in graph])])
        KERNELS.clear()
        chosen = gradients(Snapshot(model, x, y))  # math is all that training may use here
    assert KERNELS
    assert not any(KERNELS)
    KERNELS.clear()
    snapshot = Snapshot(model, x, y)
    for found in (chosen, gradients(snapshot)):
        torch.testing.assert_close(list(found.values()), [g.detach() for g in graph])
    assert KERNELS
    assert all(KERNELS)
    KERNELS.clear()
    vector = torch.cat([g.flatten() for g in gradients(snapshot).values()])
    torch.testing.assert_close(HessianOperator(snapshot).matvec(vector), product)
    assert KERNELS
    assert not any(KERNELS)
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_a_compiled_module_is_measured_eagerly() -> None:
    model = nn.Sequential(torch.compile(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))
    plain = nn.Sequential(model[0]._orig_mod, *model[1:])
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    v = torch.randn(sum(p.numel() for p in plain.parameters()))
    torch.testing.assert_close(
        HessianOperator(Snapshot(model, x, y)).matvec(v), HessianOperator(Snapshot(plain, x, y)).matvec(v)
    )
    torch.testing.assert_close(path_sums(Snapshot(model, x, y), 2), path_sums(Snapshot(plain, x, y), 2))
    measured = measure_metrics([StableRank(per_layer=True)], Snapshot(model), FailureReport("raise"))
    assert "complexity/stable_rank/0.weight" in measured.values


# Snapshots --------------------------------------------------------------------------------------


def test_snapshot_calls_the_network_once_for_all_who_ask() -> None:
    calls = []
    model = nn.Sequential(nn.Linear(3, 2))
    model.register_forward_hook(lambda *_: calls.append(1))
    snapshot = Snapshot(model, torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    for _ in range(2):
        _ = predictions(snapshot), margins(snapshot), mean_loss(snapshot), accuracy(snapshot)
    assert len(calls) == 1


def test_chunks_change_nothing() -> None:
    model, x, y = nn.Sequential(nn.Linear(3, 2)), torch.randn(7, 3), torch.randint(0, 2, (7,))
    whole, parts = (Snapshot(model, x, y, chunk_size=size) for size in (100, 3))
    for quantity in (predictions, margins, mean_loss, gradients):
        torch.testing.assert_close(quantity(whole), quantity(parts))


def test_inputs_may_be_nested() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, batch: dict[str, Any]) -> Tensor:
            return self.layer(batch["a"] + batch["more"][0])

    inputs = {"a": torch.randn(5, 3), "more": [torch.randn(5, 3)]}
    snapshot = Snapshot(Nested(), inputs, torch.randint(0, 2, (5,)), chunk_size=2)
    assert predictions(snapshot).shape == (5, 2)
    assert gradient_vector(snapshot).shape == (8,)


def test_tensors_of_inference_mode_can_be_measured() -> None:
    model = nn.Linear(3, 2)
    with torch.inference_mode():
        snapshot = Snapshot(model, torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
        assert len(snapshot.parameters) == 2
    assert HessianOperator(snapshot).matvec(torch.ones_like(gradient_vector(snapshot))).isfinite().all()


def test_buffers_that_change_in_evaluation_mode_are_left_alone() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    model = Counting()
    for differentiable in (False, True):
        _ = predictions(Snapshot(model, torch.randn(4, 3), differentiable=differentiable))
    assert model.calls == 0


def test_gradients_and_hooks_of_parameters_are_left_alone() -> None:
    model, fired = nn.Linear(3, 2), []
    model.weight.register_hook(lambda g: fired.append(g))
    snapshot = Snapshot(model, torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    HessianOperator(snapshot).matvec(torch.ones_like(gradient_vector(snapshot)))
    assert model.weight.grad is None
    assert not fired


def test_live_snapshot_gives_gradients_to_the_real_parameters() -> None:
    model = nn.Linear(3, 2)
    predictions(Snapshot(model, torch.randn(4, 3), differentiable=True)).sum().backward()
    assert model.weight.grad is not None


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.zeros(0, 3), None, "inputs are empty"),
        ({"name": "text"}, None, "got lengths of no tensor"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(3)}, None, r"got lengths \[2, 3\]"),
    ],
)
def test_impossible_batches_are_named(inputs: Any, targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Snapshot(nn.Linear(3, 2), inputs, targets)


def test_missing_parts_are_named() -> None:
    with pytest.raises(ValueError, match="needs targets, which this snapshot was not given"):
        margins(Snapshot(nn.Linear(3, 2), torch.zeros(1, 3)))


def test_soft_labels_are_fine_and_regression_targets_are_not() -> None:
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    assert mean_loss(Snapshot(model, x, torch.full((4, 2), 0.5))).isfinite()
    with pytest.raises(ValueError, match=r"needs class targets .* got torch.float64 of shape \(4, 1\)"):
        mean_loss(Snapshot(model, x, torch.randn(4, 1)))
    assert mean_loss(Snapshot(nn.Linear(3, 1), x, torch.randn(4, 1), loss=F.mse_loss)).isfinite()


def test_several_outputs_are_an_error() -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return x, x

    with pytest.raises(ValueError, match=r"one tensor.* returns a tuple of Tensor, Tensor\. Say which"):
        predictions(Snapshot(Two(3, 2), torch.zeros(1, 3)))


SWITCHES: dict[str, tuple[Any, Any]] = {
    "precision": (lambda: torch.set_default_dtype(torch.float16), torch.get_default_dtype),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        torch.is_deterministic_algorithms_warn_only_enabled,
    ),
    "anomalies": (lambda: torch.autograd.set_detect_anomaly(True, check_nan=False), torch.is_anomaly_enabled),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize("name", SWITCHES)
def test_switches_that_a_network_turns_are_put_back(name: str) -> None:
    turn, see = SWITCHES[name]
    before = see()
    with observe(nn.Linear(2, 2)):
        turn()
        assert see() != before
    assert see() == before


def test_either_way_to_set_the_precision_of_products_is_borne() -> None:
    products = torch.backends.mkldnn.matmul
    before, products.fp32_precision = products.fp32_precision, "tf32"  # with which older getters are errors
    try:
        with observe(nn.Linear(2, 2)):
            pass
    finally:
        products.fp32_precision = before
