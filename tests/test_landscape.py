"""The loss away from the parameters: slices, ways between networks, and matching of units, against what is exact."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional import UnitAxis, filter_normalized, loss_barrier, match_units, permute_units
from lightning_complexity.metrics import LossSlice, ModeConnectivityBarrier
from lightning_complexity.network import (
    MeasureError,
    Snapshot,
    UnsupportedOperationError,
    initial_state,
    linear_mode_connectivity,
)
from lightning_complexity.network.tracing.units import unit_axes
from tests.networks import Attending, conv_net, mlp, randomize_batch_norm


class Residual(nn.Module):
    """Convolutions with BatchNorm around a skip connection, then a mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.inner, self.inner_norm = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.outer = nn.Conv2d(5, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = x + self.outer(F.silu(self.inner_norm(self.inner(x))))
        return self.head(F.relu(x).mean((2, 3)))


def flattening() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 2), nn.Tanh()),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(24, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)),
    )


NETWORKS: dict[str, Any] = {
    "mlp": (lambda: mlp(4, 6, 5, 3), (9, 4)),
    "convolutions": (flattening, (9, 2, 8, 8)),
    "residual": (Residual, (9, 2, 8, 8)),
}


def network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    build, shape = NETWORKS[name]
    model = build().double().eval()
    randomize_batch_norm(model)
    return model, torch.randn(*shape).double(), torch.randint(0, 3, (len(torch.empty(shape)),))


def with_own_statistics(model: nn.Module, x: Tensor) -> None:
    """Let BatchNorm have the running statistics of one batch."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.train().momentum = None
    with torch.no_grad():
        model(x)
    model.eval()


def permuted_copy(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    state = {name: t.clone() for name, t in model.state_dict().items()}
    for axes in unit_axes(model, x, measure="test"):
        axis = next(a for a in axes if a.repeat == 1)
        state = permute_units(state, axes, torch.randperm(state[axis.name].shape[axis.dim]).tolist())
    return state


class TestUnits:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_a_permuted_copy_is_the_same_function(self, name: str) -> None:
        model, x, _ = network(name)
        state, other = permuted_copy(model, x), copy.deepcopy(model)
        assert any(not torch.equal(t, state[n]) for n, t in model.state_dict().items())
        other.load_state_dict(state)
        torch.testing.assert_close(other(x), model(x))

    def test_a_skip_connection_has_one_order_of_units(self) -> None:
        model, x, _ = network("residual")
        found = [{(axis.name, axis.dim) for axis in axes} for axes in unit_axes(model, x, measure="test")]
        stream = {("stem.weight", 0), ("inner.weight", 1), ("outer.weight", 0), ("outer.bias", 0), ("head.weight", 1)}
        stream |= {(f"stem_norm.{t}", 0) for t in ("weight", "bias", "running_mean", "running_var")}
        assert stream in found
        assert len(found) == 2

    def test_inputs_and_outputs_keep_their_places(self) -> None:
        net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
        (axes,) = unit_axes(net, torch.zeros(1, 3), measure="test")
        assert {(axis.name, axis.dim) for axis in axes} == {("0.weight", 0), ("0.bias", 0), ("2.weight", 1)}

    def test_outputs_that_are_features_too_are_fixed(self) -> None:
        class Skip(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

            def forward(self, x: Tensor) -> Tensor:
                h = self.first(x)
                return h + self.second(h.relu())

        assert unit_axes(Skip(), torch.zeros(1, 3), measure="test") == []

    @pytest.mark.parametrize(
        ("build", "shape", "named"),
        [
            (lambda: conv_net(), (1, 2, 8, 8), "conv2d"),
            (lambda: Attending(), (1, 3, 4), "add"),
            (lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)), (1, 4), "layer_norm"),
            (lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 2)), (1, 4), "prelu"),
            (lambda: nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 2)), (1, 4), "glu"),
            (lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Linear(4, 2)), (1, 1, 4, 4), "linear"),
            (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), (1, 4), "linear"),
        ],
    )
    def test_what_cannot_be_followed_is_refused_by_name(
        self, build: Callable[[], nn.Module], shape: tuple[int, ...], named: str
    ) -> None:
        with pytest.raises(UnsupportedOperationError, match=named):
            unit_axes(build().eval(), torch.zeros(shape), measure="matching of units")


class TestMatching:
    def test_equals_brute_force_for_one_layer(self) -> None:
        torch.manual_seed(0)
        one = {"a": torch.randn(4, 3).double(), "b": torch.randn(2, 4).double()}
        other = {"a": torch.randn(4, 3).double(), "b": torch.randn(2, 4).double()}
        axes = [UnitAxis("a", 0), UnitAxis("b", 1)]

        def likeness(state: dict[str, Tensor]) -> float:
            return sum((one[n] * state[n]).sum() for n in one)

        best = max(likeness(permute_units(other, axes, order)) for order in itertools.permutations(range(4)))
        assert likeness(match_units(one, other, [axes])) == pytest.approx(best)
        assert best > likeness(other)

    def test_what_does_not_count_comes_along(self) -> None:
        one = {"a": torch.tensor([1.0, 2.0]), "mean": torch.tensor([9.0, -9.0])}
        other = {"a": torch.tensor([2.0, 1.0]), "mean": torch.tensor([9.0, -9.0])}
        axes = [UnitAxis("a", 0), UnitAxis("mean", 0, counts=False)]
        assert match_units(one, other, [axes])["mean"].tolist() == [-9.0, 9.0]

    def test_repeated_entries_move_together(self) -> None:
        state = {"a": torch.arange(6.0)}
        assert permute_units(state, [UnitAxis("a", 0, 2)], [2, 0, 1])["a"].tolist() == [4.0, 5.0, 0.0, 1.0, 2.0, 3.0]


class TestModes:
    @pytest.mark.parametrize("statistics", ["interpolated", "reset"])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_a_permuted_copy_has_a_barrier_until_it_is_matched(self, name: str, statistics: Any) -> None:
        model, x, _ = network(name)
        with_own_statistics(model, x)
        y, state = model(x).detach(), permuted_copy(model, x)
        options: dict[str, Any] = {"statistics": statistics, "loss": F.mse_loss}
        apart = linear_mode_connectivity(model, model.state_dict(), state, x, y, matching=False, **options)
        together = linear_mode_connectivity(model, model.state_dict(), state, x, y, **options)
        assert apart.barrier > 1e-4
        assert together.barrier < 1e-12
        torch.testing.assert_close(apart.losses[[0, -1]], together.losses[[0, -1]])
        assert all(torch.equal(together.second[n], p) for n, p in model.named_parameters())

    def test_losses_on_the_way_are_those_of_the_networks_there(self) -> None:
        model, x, y = network("convolutions")
        first, second = model.state_dict(), network("convolutions")[0].state_dict()
        second = {n: t + 0.3 if t.is_floating_point() else t for n, t in second.items()}
        found = linear_mode_connectivity(model, first, second, x, y, num_points=5, matching=False)
        for position, loss in zip(found.positions.tolist(), found.losses, strict=True):
            there = copy.deepcopy(model)
            there.load_state_dict({n: (1 - position) * t + position * second[n] for n, t in first.items()})
            torch.testing.assert_close(loss, F.cross_entropy(there(x), y))
        torch.testing.assert_close(found.barrier, loss_barrier(found.losses, found.positions))

    def test_reset_statistics_are_those_of_the_data(self) -> None:
        model, x, y = network("convolutions")
        found = linear_mode_connectivity(
            model, model.state_dict(), model.state_dict(), x, y, matching=False, statistics="reset"
        )
        again = copy.deepcopy(model)
        with_own_statistics(again, x)
        torch.testing.assert_close(found.losses[0], F.cross_entropy(again(x), y))
        assert not torch.isclose(found.losses[0], F.cross_entropy(model(x), y))

    def test_the_model_is_left_alone(self) -> None:
        model, x, y = network("convolutions")
        before = {n: t.clone() for n, t in model.state_dict().items()}
        model.train()
        linear_mode_connectivity(model, before, permuted_copy(model.eval(), x), x, y, statistics="reset")
        model.train()
        linear_mode_connectivity(model, before, before, x, y, statistics="reset")
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
        assert all(module.training for module in model.modules())
        assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, nn.BatchNorm2d))

    def test_barrier_by_hand(self) -> None:
        positions = torch.tensor([0.0, 0.25, 1.0])
        assert loss_barrier(torch.tensor([1.0, 2.0, 3.0]), positions) == 0.5
        assert loss_barrier(torch.tensor([1.0, 0.0, 3.0]), positions) == 0
        assert loss_barrier(torch.tensor([1.0, torch.nan, 3.0]), positions).isnan()

    def test_metric_goes_from_the_start_or_another_network(self) -> None:
        model, x, _ = network("mlp")
        initial, now, y = initial_state(model), copy.deepcopy(model), model(x).detach()
        now.load_state_dict(permuted_copy(model, x))
        with torch.no_grad():
            now[2].weight.mul_(1.1)
        options: dict[str, Any] = {"loss": F.mse_loss}
        expected = linear_mode_connectivity(now, initial, now.state_dict(), x, y, matching=False, **options)
        for metric, given in (
            (ModeConnectivityBarrier(), {"initial": initial}),
            (ModeConnectivityBarrier(initial), {}),
        ):
            metric.update(now, x, y, **given, **options)
            torch.testing.assert_close(metric.compute(), expected.barrier)
            torch.testing.assert_close(metric.losses, expected.losses)
        assert expected.barrier > 0
        matched = ModeConnectivityBarrier(permuted_copy(now, x), matching=True)
        snapshot = Snapshot(now, x, y, **options)
        matched.update(snapshot)
        assert matched.compute() < 1e-12
        (figure,) = matched.figures(snapshot).values()
        assert len(figure.axes[0].lines[0].get_ydata()) == 11

    def test_states_that_do_not_fit(self) -> None:
        model, x, y = network("mlp")
        with pytest.raises(MeasureError, match=r"has no '0.weight' of the same shape"):
            linear_mode_connectivity(model, model.state_dict(), mlp(4, 7, 3).double().state_dict(), x, y)
        with pytest.raises(ValueError, match="num_points must be at least 3"):
            ModeConnectivityBarrier(num_points=2)
        with pytest.raises(ValueError, match="statistics must be"):
            ModeConnectivityBarrier(statistics="fresh")  # type: ignore[arg-type]


class TestSlices:
    def test_filters_have_the_norms_of_the_weight(self) -> None:
        direction, weight = torch.randn(3, 2, 2).double(), torch.randn(3, 2, 2).double()
        weight[1] = 0
        found = filter_normalized(direction, weight)
        torch.testing.assert_close(found.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
        torch.testing.assert_close(F.cosine_similarity(found[0], direction[0], dim=1), torch.ones(2).double())

    def test_quadratic_is_known_along_any_direction(self) -> None:
        # Of sum_i c_i |w_i|^2 the slices are parabolas, whose rise at r is r^2 times the loss without the cross term.
        curvatures = torch.tensor([1.0, 3.0]).double()
        net = nn.Linear(3, 2, bias=False).double()

        def loss(module: nn.Module, batch: Tensor) -> Tensor:
            return (curvatures * module.weight.square().sum(1)).sum()

        metric = LossSlice(3, radius=0.7)
        metric.update(net, torch.zeros(2, 3).double(), loss=loss)
        expected = 0.49 * (curvatures * net.weight.square().sum(1)).sum()
        torch.testing.assert_close(metric.compute(), expected.detach())
        assert metric.standard_error() < 1e-12

    def test_losses_are_those_of_moved_networks(self) -> None:
        model, x, y = network("convolutions")
        metric = LossSlice(plane=True, num_points=3, radius=0.2)
        snapshot = Snapshot(model, x, y)
        metric.update(snapshot)
        moved = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            for p in moved.parameters():
                if p.ndim > 1:
                    noise = torch.randn(p.shape, generator=generator).double()
                    original = dict(model.named_parameters())[next(n for n, q in moved.named_parameters() if q is p)]
                    p.data += 0.2 * filter_normalized(noise, original.detach())
        assert metric.losses.shape == (3, 3)
        torch.testing.assert_close(metric.losses[2, 2], F.cross_entropy(moved(x), y).detach())
        torch.testing.assert_close(metric.losses[1, 1], F.cross_entropy(model(x), y).detach())
        along = LossSlice(num_points=3, radius=0.2)
        along.update(snapshot)
        torch.testing.assert_close(along.losses, torch.stack([metric.losses[:, 1], metric.losses[1]]))
        torch.testing.assert_close(along.compute(), metric.compute())

    def test_rescaled_filters_of_a_relu_network_have_the_same_slices(self) -> None:
        model, x, y = mlp(4, 6, 3, bias=False).double(), torch.randn(8, 4).double(), torch.randint(0, 3, (8,))
        other = copy.deepcopy(model)
        with torch.no_grad():
            other[0].weight.mul_(5)
            other[2].weight.div_(5)
        values = []
        for net in (model, other):
            metric = LossSlice()
            metric.update(net, x, y)
            values.append(metric.losses)
        torch.testing.assert_close(values[0], values[1])

    def test_biases_and_normalization_stay(self) -> None:
        model, x, y = network("convolutions")
        with pytest.raises(MeasureError, match="at least two dimensions"):
            LossSlice().on("1").update(model, x, y)  # BatchNorm

    @pytest.mark.parametrize(("plane", "drawn"), [(False, 2), (True, 1)])
    def test_pictures(self, plane: bool, drawn: int) -> None:
        model, x, y = network("mlp")
        metric, snapshot = LossSlice(plane=plane, num_points=5), Snapshot(model, x, y)
        metric.update(snapshot)
        (figure,) = metric.figures(snapshot).values()
        assert len(figure.axes[0].lines) == drawn
        if not plane:
            assert figure.axes[0].lines[1].get_ydata().tolist() == metric.losses[1].tolist()

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"num_directions": 0}, "num_directions must be"),
            ({"num_directions": 3, "plane": True}, "plane=True takes"),
            ({"num_points": 4}, "num_points must be"),
            ({"radius": math.inf}, "radius must be"),
        ],
    )
    def test_options_out_of_range(self, options: dict[str, Any], named: str) -> None:
        with pytest.raises(ValueError, match=named):
            LossSlice(**options)
