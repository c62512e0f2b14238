"""Geometry of features against scikit-learn, scipy, known manifolds, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean
from sklearn.metrics import davies_bouldin_score
from torch import Tensor, nn

from lightning_complexity.functional import (
    davies_bouldin_index,
    graph_variation,
    hidden_margins,
    same_class_pairs,
    spectrum_decay,
    trimmed_mean,
    two_nn_dimension,
)
from lightning_complexity.metrics import (
    DaviesBouldinIndex,
    FeatureEffectiveRank,
    IntrinsicDimension,
    LabelVariation,
    MixupDaviesBouldin,
    MixupMargin,
)
from lightning_complexity.metrics.function.mixup import mixed
from lightning_complexity.network import Snapshot, features, running_order
from lightning_complexity.network.tracing.calls import with_output_of
from lightning_complexity.network.weights.convolutions import input_shapes
from tests.networks import conv_net, mlp


class TestDaviesBouldin:
    @pytest.mark.parametrize("classes", [2, 5])
    def test_equals_scikit_learn(self, classes: int) -> None:
        y = torch.arange(60) % classes
        x = torch.randn(60, 7) + torch.randn(classes, 7)[y]
        expected = davies_bouldin_score(x.numpy(), y.numpy())
        assert davies_bouldin_index(x, y).item() == pytest.approx(expected, rel=1e-12)

    def test_class_numbers_do_not_matter(self) -> None:
        x, y = torch.randn(20, 3), torch.arange(20) % 3
        torch.testing.assert_close(davies_bouldin_index(x, y), davies_bouldin_index(x, torch.tensor([9, 4, 7])[y]))

    def test_invariant_to_shift_rotation_and_scale(self) -> None:
        x, y = torch.randn(20, 3), torch.arange(20) % 3
        rotation = torch.linalg.qr(torch.randn(3, 3)).Q
        torch.testing.assert_close(davies_bouldin_index(x, y), davies_bouldin_index(5 * x @ rotation + 2, y))

    def test_edges(self) -> None:
        points = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
        assert davies_bouldin_index(points, torch.tensor([0, 0, 1, 1])) == 0
        assert davies_bouldin_index(points, torch.tensor([0, 1, 0, 1])).isinf()
        assert davies_bouldin_index(points, torch.zeros(4, dtype=torch.long)).isnan()

    def test_says_what_it_needs(self) -> None:
        with pytest.raises(ValueError, match=r"needs features of shape \(n, d\)"):
            davies_bouldin_index(torch.zeros(4, 2), torch.zeros(3, dtype=torch.long))


class TestTwoNN:
    @pytest.mark.parametrize(("d", "low", "high"), [(1, 0.95, 1.05), (2, 1.9, 2.1), (5, 4.4, 5.0), (10, 8.0, 9.2)])
    def test_uniform_cube(self, d: int, low: float, high: float) -> None:
        assert low < torch.stack([two_nn_dimension(torch.rand(1000, d)) for _ in range(5)]).mean() < high

    def test_embedding_does_not_matter(self) -> None:
        plane = torch.rand(500, 2)
        basis = torch.linalg.qr(torch.randn(20, 2)).Q
        torch.testing.assert_close(two_nn_dimension(3 * plane @ basis.T + 1), two_nn_dimension(plane))

    def test_fit_by_hand(self) -> None:
        # Distances to the two neighbours: (1, 3), (1, 2), (2, 3), (5, 7): ratios 3, 2, 1.5, 1.4.
        x = torch.tensor([[0.0], [1.0], [3.0], [8.0]])
        ratios = torch.tensor([1.4, 1.5, 2.0]).log()
        y = -(1 - torch.tensor([0.2, 0.4, 0.6])).log()
        expected = (ratios * y).sum() / ratios.square().sum()
        torch.testing.assert_close(two_nn_dimension(x, discard=0.25), expected)

    def test_duplicates_count_once(self) -> None:
        x = torch.rand(200, 2)
        torch.testing.assert_close(two_nn_dimension(torch.cat([x, x[:20]])), two_nn_dimension(x))

    def test_too_few_samples(self) -> None:
        assert two_nn_dimension(torch.rand(2, 3)).isnan()
        assert two_nn_dimension(torch.ones(10, 3)).isnan()

    def test_discard_is_a_share(self) -> None:
        with pytest.raises(ValueError, match="discard must be"):
            two_nn_dimension(torch.rand(5, 2), discard=1.0)


class TestGraphVariation:
    def test_is_the_trace_of_the_dense_laplacian(self) -> None:
        x, y = torch.randn(12, 5), torch.rand(12, 3)
        unit = x / x.norm(dim=1, keepdim=True)
        squares = (unit[:, None] - unit).square().sum(2)
        gamma = 1 / (3 * squares[~torch.eye(12, dtype=torch.bool)].numpy().std())
        a = torch.zeros(12, 12)
        for i in range(12):
            j = min((j for j in range(12) if j != i), key=lambda j: squares[i, j])
            a[i, j] = a[j, i] = torch.exp(-gamma * squares[i, j])
        root = torch.diag(a.sum(1) ** -0.5)
        laplacian = torch.eye(12) - root @ a @ root
        expected = torch.trace(y.T @ laplacian @ y) / 48
        torch.testing.assert_close(graph_variation(x, y), expected)

    def test_separated_classes_vary_less_than_random_labels(self) -> None:
        y = torch.arange(40) % 4
        one_hot = torch.eye(4)[y]
        x = 5 * torch.randn(4, 8)[y] + torch.randn(40, 8)
        assert graph_variation(x, one_hot) < 0.5 * graph_variation(x, one_hot[torch.randperm(40)])

    def test_coinciding_features_are_finite(self) -> None:
        assert graph_variation(torch.ones(5, 3), torch.eye(5)).isfinite()
        assert graph_variation(torch.zeros(5, 3), torch.eye(5)).isfinite()


def brute_force_pairs(targets: list[int], at_most: int) -> set[tuple[int, int]]:
    first: dict[int, list[int]] = {}
    for i, target in enumerate(targets):
        if len(first.setdefault(target, [])) < at_most:
            first[target].append(i)
    return {(i, j) for members in first.values() for i in members for j in members if i < j}


def test_same_class_pairs() -> None:
    targets = torch.randint(0, 4, (30,))
    for at_most in (1, 3, 30):
        pairs = {tuple(pair) for pair in same_class_pairs(targets, at_most).tolist()}
        assert pairs == brute_force_pairs(targets.tolist(), at_most)


def test_hidden_margin_is_the_distance_to_the_boundary_of_a_linear_classifier() -> None:
    w, b, y = torch.randn(3, 4), torch.randn(3), torch.tensor([0, 1, 2, 0, 1])
    h = torch.randn(5, 4, requires_grad=True)
    logits = h @ w.T + b
    margins = hidden_margins(logits, h, y).detach()
    for i in range(5):
        rival = max((c for c in range(3) if c != y[i]), key=lambda c: logits[i, c].item())
        normal = w[y[i]] - w[rival]
        moved = h[i].detach() - margins[i] * normal / normal.norm()
        at_boundary = w @ moved + b
        assert at_boundary[y[i]].item() == pytest.approx(at_boundary[rival].item())


@pytest.mark.parametrize("n", [1, 19, 20, 57])
def test_trimmed_mean_equals_scipy(n: int) -> None:
    values: Tensor = torch.randn(n)
    assert trimmed_mean(values).item() == pytest.approx(trim_mean(values.numpy(), 0.05))


def value(metric: object, model: nn.Module, *batch: Tensor, chunk_size: int = 256) -> float:
    metric.update(Snapshot(model, *batch, chunk_size=chunk_size))
    return metric.compute().item()


class TestSnapshotFeatures:
    def test_are_what_goes_into_layers(self) -> None:
        model, x = mlp(4, 6, 5, 3), torch.randn(10, 4)
        snapshot = Snapshot(model, x, chunk_size=4)
        assert running_order(snapshot) == ["0", "2", "4"]
        torch.testing.assert_close(features(snapshot, -1)["4"], model[:4](x))
        torch.testing.assert_close(features(snapshot, "1")["1"], model[:1](x))
        everything = features(snapshot)
        assert list(everything) == ["0", "2", "4"]
        torch.testing.assert_close(everything["0"], x)

    def test_order_is_that_of_running(self) -> None:
        class Backwards(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.head, self.body = nn.Linear(5, 2), nn.Linear(3, 5)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.body(x).relu_())

        model, x = Backwards(), torch.randn(4, 3)
        assert running_order(Snapshot(model, x)) == ["body", "head"]
        torch.testing.assert_close(features(Snapshot(model, x), -1)["head"], model.body(x).relu())

    def test_a_layer_that_is_called_twice_has_the_features_of_the_first_call(self) -> None:
        shared, x = nn.Linear(3, 3), torch.randn(5, 3)
        snapshot = Snapshot(nn.Sequential(shared, nn.Tanh(), shared), x)
        assert running_order(snapshot) == ["0"]
        torch.testing.assert_close(features(snapshot, 0)["0"], x)

    def test_layers_that_are_called_by_keyword(self) -> None:
        class ByKeyword(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.head = nn.Conv1d(1, 2, 3), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(input=self.conv(input=x).flatten(1))

        model, x = ByKeyword(), torch.randn(5, 1, 4)
        snapshot = Snapshot(model, x)
        assert running_order(snapshot) == ["conv", "head"]
        torch.testing.assert_close(features(snapshot, -1)["head"], model.conv(x).flatten(1))
        assert snapshot.run_one(input_shapes) == {id(model.conv): torch.Size([1, 4])}
        assert not model.conv._forward_pre_hooks
        assert not model.conv._forward_pre_hooks_with_kwargs

    @pytest.mark.parametrize("arguments", [(), (torch.ones(2, 3), torch.ones(2, 3))])
    def test_a_module_that_is_not_called_with_one_tensor_is_refused(self, arguments: tuple[Tensor, ...]) -> None:
        class Ones(nn.Module):
            def forward(self, *_: Tensor) -> Tensor:
                return torch.ones(2, 3)

        class Calling(nn.Sequential):
            def forward(self, x: Tensor) -> Tensor:
                return self[0](x) + self[1](*arguments)

        snapshot = Snapshot(Calling(nn.Linear(3, 3), Ones()), torch.randn(2, 3))
        with pytest.raises(ValueError, match=f"'1' is needed as one tensor, but it is called with {len(arguments)}"):
            features(snapshot, "1")

    def test_an_input_that_is_overwritten_is_kept(self) -> None:
        model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), torch.randn(5, 3)
        torch.testing.assert_close(features(Snapshot(model, x), "1")["1"], model[0](x))

    def test_maps_are_flattened(self) -> None:
        assert features(Snapshot(conv_net(), torch.randn(3, 2, 8, 8)), 1)["second"].shape == (3, 4 * 64)

    @pytest.mark.parametrize(
        ("layer", "message"), [("middle", "no module 'middle'; among its layers are 0, 2"), (5, "has 2 linear")]
    )
    def test_says_which_layers_there_are(self, layer: str | int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            features(Snapshot(mlp(2, 3, 2), torch.ones(1, 2)), layer)

    def test_output_of_a_layer_is_differentiated_before_it_is_overwritten(self) -> None:
        model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), torch.randn(5, 3)
        outputs, hidden, leaf = with_output_of(model, x, "0")
        torch.testing.assert_close(hidden, model[0](x))
        (gradient,) = torch.autograd.grad(outputs[:, 0].sum(), leaf)
        torch.testing.assert_close(gradient, (hidden > 0) * model[2].weight[0])


class TestMetrics:
    def batch(self, n: int = 40) -> tuple[nn.Module, Tensor, Tensor]:
        y = torch.arange(n) % 4
        return mlp(3, 8, 6, 4), torch.randn(n, 3) + 2 * torch.randn(4, 3)[y], y

    @pytest.mark.parametrize("layer", [-1, 1, "1"])
    def test_davies_bouldin_of_a_layer_equals_scikit_learn(self, layer: int | str) -> None:
        model, x, y = self.batch()
        features = {-1: model[:4], 1: model[:2], "1": model[:1]}[layer](x).detach().numpy()
        expected = davies_bouldin_score(features, y.numpy())
        assert value(DaviesBouldinIndex(layer), model, x, y, chunk_size=7) == pytest.approx(expected)

    def test_effective_rank_by_layer(self) -> None:
        model, x, _ = self.batch()
        metric = FeatureEffectiveRank(per_layer=True)
        metric.update(model, x)
        for name, found in {"0": x, "2": model[:2](x), "4": model[:4](x)}.items():
            s = np.linalg.svd(found.detach().numpy(), compute_uv=False)
            p = s[s > 0] / s.sum()
            assert metric.compute()[name].item() == pytest.approx(np.exp(-(p * np.log(p)).sum()))
        assert metric.report()["feature_effective_rank"] == metric.compute()["4"]

    def test_effective_rank_of_a_constant_network_is_1(self) -> None:
        model, x, _ = self.batch()
        with torch.no_grad():
            model[2].weight.zero_()
            model[2].bias.fill_(1.0)
        assert value(FeatureEffectiveRank(), model, x) == pytest.approx(1)

    def test_intrinsic_dimension_of_a_bottleneck(self) -> None:
        model = nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 5), nn.Linear(5, 2))
        x = torch.rand(400, 6)
        metric = IntrinsicDimension(per_layer=True)
        metric.update(model, x)
        assert metric.compute()["0"] > 4
        assert 0.85 < metric.compute()["2"] < 1.15

    def test_mixup_davies_bouldin_by_hand(self) -> None:
        model, x, _ = self.batch()
        x = 5 * x
        y = model(x).argmax(1)  # so that all errors are those of mixes
        first = {i for c in range(4) for i in (y == c).nonzero()[:5, 0].tolist()}
        pairs = [(i, j) for i in first for j in first if i < j and y[i] == y[j]]
        wrong = [model((x[i] + x[j]) / 2).argmax() != y[i] for i, j in pairs]
        assert 0 < np.mean(wrong) < 1
        expected = davies_bouldin_score(model[:4](x).detach().numpy(), y.numpy()) * np.mean(wrong)
        assert value(MixupDaviesBouldin(at_most=5), model, x, y, chunk_size=7) == pytest.approx(expected)

    def test_mixup_margin_by_hand(self) -> None:
        model, x, y = self.batch()
        pairs = [(i, j) for i in range(40) for j in range(i) if y[i] == y[j] and max(i, j) < 12]
        mixes, classes = torch.stack([(x[i] + x[j]) / 2 for i, j in pairs]), torch.stack([y[i] for i, _ in pairs])
        hidden = model[0](mixes).detach()
        margins = []
        for h, c in zip(hidden, classes, strict=True):

            def margin(h: Tensor, c: Tensor = c) -> Tensor:
                f = model[1:](h)
                return f[c] - f[torch.arange(4) != c].max()

            gradient = torch.autograd.functional.jacobian(margin, h)
            margins.append((margin(h) / gradient.norm()).item())
        expected = np.mean(margins) / np.sqrt(trim_mean(hidden.var(0).numpy(), 0.05))
        assert value(MixupMargin(at_most=3), model, x, y, chunk_size=7) == pytest.approx(expected)

    def test_margin_does_not_change_when_a_layer_is_scaled_and_the_next_one_back(self) -> None:
        model, x, y = self.batch()
        before = value(MixupMargin(), model, x, y)
        with torch.no_grad():
            model[0].weight.mul_(7)
            model[0].bias.mul_(7)
            model[2].weight.div_(7)
        assert value(MixupMargin(), model, x, y) == pytest.approx(before)

    def test_margin_under_an_augmentation(self) -> None:
        model, x, y = self.batch()
        metric = MixupMargin(augmentation=lambda inputs: inputs.flip(1))
        assert metric.name == "augmented_margin"
        assert value(metric, model, x, y) == pytest.approx(
            value(MixupMargin(augmentation=lambda i: i), model, x.flip(1), y)
        )

    def test_feature_variation_is_that_of_the_mixes(self) -> None:
        model, x, y = self.batch()
        mixes, labels = mixed(x, torch.eye(4)[y], torch.Generator().manual_seed(0))
        expected = graph_variation(model[:4](mixes), labels).item()
        assert value(LabelVariation(), model, x, y, chunk_size=7) == pytest.approx(expected)

    def test_mixing_shares_have_the_beta_distribution(self) -> None:
        zeros_and_ones = (torch.arange(20_000) % 2).double()[:, None]
        x, _ = mixed(zeros_and_ones, zeros_and_ones, torch.Generator().manual_seed(0))
        shares = x[(x > 0) & (x < 1)]
        assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
        assert shares.var().item() == pytest.approx(1 / 20, abs=0.002)

    def test_says_what_it_needs(self) -> None:
        model, x, _ = self.batch()
        for metric in (MixupMargin(), MixupDaviesBouldin(), LabelVariation(), DaviesBouldinIndex()):
            with pytest.raises(ValueError, match="integer class targets"):
                metric.update(model, x, torch.rand(40))
        for build in (MixupMargin, MixupDaviesBouldin):
            with pytest.raises(ValueError, match="at_most must be at least 2"):
                build(at_most=1)
        with pytest.raises(ValueError, match="calls none"):
            FeatureEffectiveRank().update(nn.Tanh(), x)


class TestSpectrumDecay:
    def test_of_a_power_law(self) -> None:
        x = torch.diag(torch.arange(1.0, 9.0) ** -0.65)
        assert spectrum_decay(torch.cat([x, -x]) + 4).item() == pytest.approx(1.3)

    def test_equals_a_fit_of_covariance_eigenvalues(self) -> None:
        x = torch.randn(40, 6) @ torch.randn(6, 6)
        eigenvalues = np.linalg.eigvalsh(np.cov(x.numpy().T))[::-1]
        slope = np.polyfit(np.log(np.arange(1, 7)), np.log(eigenvalues), 1)[0]
        assert spectrum_decay(x).item() == pytest.approx(-slope)

    def test_directions_without_variance_do_not_count(self) -> None:
        x = torch.randn(40, 3)
        torch.testing.assert_close(spectrum_decay(x @ torch.eye(3, 9)), spectrum_decay(x))
        assert spectrum_decay(torch.randn(2, 5)).isnan()
