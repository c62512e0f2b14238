"""Entropy and information against scipy, scikit-learn, and values on paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from lightning_complexity.functional import held_out_linear_classes, output_entropy, performance_correlation
from lightning_complexity.metrics import OutputEntropy, PerformanceCorrelation
from lightning_complexity.network import MeasureError
from tests.networks import mlp


class TestOutputEntropy:
    def test_equals_scipy(self) -> None:
        logits = torch.randn(5, 4)
        torch.testing.assert_close(output_entropy(logits), torch.tensor(entropy(logits.softmax(1).numpy(), axis=1)))

    def test_positions_are_averaged(self) -> None:
        x = torch.randn(5, 4, 6)  # classes along dimension 1
        metric = OutputEntropy()
        metric.update(nn.Identity(), x)
        torch.testing.assert_close(metric.compute(), torch.tensor(entropy(x.softmax(1).numpy(), axis=1).mean()))

    def test_large_logits(self) -> None:
        assert output_entropy(torch.tensor([[1e4, -1e4]])).item() == 0

    def test_regression_is_refused(self) -> None:
        with pytest.raises(MeasureError, match="needs outputs that are logits of several classes"):
            OutputEntropy().update(mlp(4, 5, 1), torch.randn(3, 4), torch.randn(3, 1))


def bits(*columns: int) -> Tensor:
    return torch.tensor(columns)


class TestPerformanceCorrelation:
    def test_simple_model_that_says_the_same(self) -> None:
        # A fifth of the decisions flipped: 1 - H(0.2) bits; both correct the same entropies.
        y = torch.arange(10_000) % 2
        f = torch.where(torch.arange(10_000) % 10 < 2, 1 - y, y)
        assert performance_correlation(f, f, y).item() == pytest.approx(0.278072, abs=2e-4)

    def test_exclusive_or(self) -> None:
        f, s = torch.arange(4000) % 2, (torch.arange(4000) // 2) % 2
        assert performance_correlation(f, s, f ^ s).item() == pytest.approx(-1, abs=2e-3)

    def test_correction_takes_the_bias_away(self) -> None:
        generator = torch.Generator().manual_seed(0)
        draws = [torch.randint(0, 10, (3, 3000), generator=generator) for _ in range(20)]
        mean = torch.stack([performance_correlation(*draw) for draw in draws]).mean()
        # Without it the plug-in estimate is off by 810 / (2 * 3000 * ln 2) bits, which is 0.19 here.
        assert abs(mean) < 0.05

    def test_held_out_classes_equal_scikit_learn(self) -> None:
        x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))
        x = x + 2 * nn.functional.one_hot(y, 4)
        found = held_out_linear_classes(x, y, folds=5, weight_decay=0.02)
        scaled = x - x.mean(0)
        scaled = (scaled / scaled.square().mean().sqrt()).numpy()
        fold = torch.arange(60) % 5
        for held_out in range(5):
            seen = (fold != held_out).numpy()
            model = LogisticRegression(C=1 / (0.02 * seen.sum()), tol=1e-10, max_iter=1000)
            model.fit(scaled[seen], y.numpy()[seen])
            assert found[fold == held_out].tolist() == model.predict(scaled[~seen]).tolist()

    def test_the_regression_is_fitted_once_to_the_same_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fits: list[int] = []

        def counted(inputs: Tensor, targets: Tensor, **options: Any) -> Tensor:
            fits.append(len(inputs))
            return held_out_linear_classes(inputs, targets, **options)

        monkeypatch.setattr("lightning_complexity.metrics.function.information.held_out_linear_classes", counted)
        x, y, metric = torch.randn(50, 4), torch.randint(0, 3, (50,)), PerformanceCorrelation()

        def measured(*samples: Tensor) -> int:
            net, alone = mlp(4, 8, 3).double(), PerformanceCorrelation(weight_decay=metric.weight_decay)
            before = len(fits)
            metric.reset()
            metric.update(net, *samples)
            needed = len(fits) - before
            alone.update(net, *samples)
            assert torch.equal(metric.compute(), alone.compute())
            return needed

        assert [measured(x, y), measured(x, y), measured(x.clone(), y.clone())] == [1, 0, 0]
        x[3, 2] += 1e-9  # written to
        assert [measured(x, y), measured(x, y)] == [1, 0]
        assert [measured(x, (y + 1) % 3), measured(x[::2], y[::2]), measured(x, y)] == [1, 1, 1]
        metric.weight_decay = 1.0
        assert [measured(x, y), measured(x, y)] == [1, 0]

    def test_a_linear_model_of_ones_own(self) -> None:
        x, y = torch.randn(200, 4), torch.randint(0, 3, (200,))
        net, linear = mlp(4, 8, 3).double(), nn.Linear(4, 3)
        for given in (linear, lambda inputs: linear(inputs).argmax(1)):
            metric = PerformanceCorrelation(given)
            metric.update(net, x, y)
            expected = performance_correlation(net(x).argmax(1), linear(x).argmax(1), y)
            torch.testing.assert_close(metric.compute(), expected)
            assert metric.report()["performance_correlation/accuracy_of_linear"] == pytest.approx(
                (linear(x).argmax(1) == y).double().mean()
            )

    def test_inputs_that_are_no_numbers_need_a_linear_model(self) -> None:
        x, y = torch.randint(0, 7, (30, 3)), torch.arange(30) % 3
        net = nn.Sequential(nn.EmbeddingBag(7, 3), nn.Identity())
        with pytest.raises(MeasureError, match=r"but these are torch.int64 of shape \(30, 3\)\. Give one that "):
            PerformanceCorrelation().update(net, x, y)
        metric = PerformanceCorrelation(lambda tokens: nn.functional.one_hot(tokens, 7).sum(1)[:, :3])
        metric.update(net, x, y)
        assert metric.compute().isfinite()

    def test_an_error_of_the_linear_model_is_said(self) -> None:
        with pytest.raises(MeasureError, match=r"linear_model raised an error on inputs of torch.float64 of shape"):
            PerformanceCorrelation(nn.Linear(4, 3)).update(
                nn.Sequential(nn.Flatten(), mlp(4, 3)), torch.randn(6, 2, 2), torch.arange(6) % 3
            )

    def test_what_a_linear_model_must_give(self) -> None:
        metric = PerformanceCorrelation(lambda inputs: inputs.sum())
        with pytest.raises(MeasureError, match=r"needs a linear_model that gives outputs of shape \(6, classes\)"):
            metric.update(mlp(4, 3), torch.randn(6, 4), torch.zeros(6, dtype=torch.long))
