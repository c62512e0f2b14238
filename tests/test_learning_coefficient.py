"""Random walks around a point, and what their losses say, against closed forms and quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional import (
    chain_standard_error,
    default_inverse_temperature,
    functional_variance,
    langevin_chain,
    learning_coefficient,
)
from lightning_complexity.metrics import ComplexityMetric, EffectiveDimension, FunctionalVariance, LearningCoefficient
from lightning_complexity.network import MeasureError, Snapshot
from lightning_complexity.network.landscape.sample_losses import has_sample_losses, sample_losses
from lightning_complexity.network.running.task import Task

CURVATURES = torch.tensor([0.01, 0.1, 1.0, 5.0, 20.0], dtype=torch.float64)
TEMPERATURE, LOCALIZATION = 100.0, 10.0


def on_quadratic(curvatures: Tensor, step_size: float, localization: float = LOCALIZATION) -> float:
    """The exact mean over an endless walk."""
    rates = TEMPERATURE * curvatures + localization
    return float((TEMPERATURE * curvatures / (rates * (1 - step_size * rates / 4))).sum() / 2)


def walk_on_copies(copies: int, burn_in: int, draws: int, step_size: float, seed: int = 0) -> Tensor:
    """Losses, times the inverse temperature, of independent walks on the quadratic, shape ``(copies, draws)``."""
    traces = []

    def quadratic(w: Tensor, step: int) -> tuple[Tensor, Tensor]:
        w = w.view(copies, -1)
        losses = (CURVATURES * w.square()).sum(1) / 2
        if step > burn_in:
            traces.append(TEMPERATURE * losses)
        return losses.sum(), (CURVATURES * w).flatten()

    langevin_chain(
        quadratic,
        torch.zeros(copies * len(CURVATURES), dtype=torch.float64),
        num_steps=burn_in + draws,
        step_size=step_size,
        inverse_temperature=TEMPERATURE,
        localization=LOCALIZATION,
        generator=torch.Generator().manual_seed(seed),
    )
    return torch.stack(traces, 1)


class TestWalk:
    def test_quadratic_by_step_size(self) -> None:
        assert on_quadratic(CURVATURES, 0.0) == pytest.approx(1.73771, abs=1e-5)
        assert on_quadratic(CURVATURES, 5e-4) == pytest.approx(1.94506, abs=1e-5)
        for step_size in (5e-4, 2e-4):
            found = walk_on_copies(400, 1000, 500, step_size).mean()
            assert found.item() == pytest.approx(on_quadratic(CURVATURES, step_size), abs=0.02)

    def test_without_a_step_it_is_half_the_effective_dimension(self) -> None:
        alpha = LOCALIZATION / TEMPERATURE
        assert on_quadratic(CURVATURES, 0.0) == pytest.approx(float((CURVATURES / (CURVATURES + alpha)).sum() / 2))

    def test_first_step_by_hand(self) -> None:
        start, noise = torch.tensor([0.5, -0.4], dtype=torch.float64), torch.empty(2, dtype=torch.float64)
        noise.normal_(generator=torch.Generator().manual_seed(3))
        seen = []

        def loss(w: Tensor, step: int) -> tuple[Tensor, Tensor]:
            seen.append(w.clone())
            return w.pow(4).sum(), 4 * w.pow(3)

        chain = langevin_chain(
            loss,
            start,
            num_steps=1,
            step_size=0.04,
            inverse_temperature=8.0,
            localization=3.0,
            generator=torch.Generator().manual_seed(3),
        )
        after = start - 0.02 * 8 * 4 * start.pow(3) + 0.2 * noise
        torch.testing.assert_close(seen[1], after)
        torch.testing.assert_close(chain.losses, after.pow(4).sum()[None])
        # The rule of Metropolis and Hastings, written out.
        target = lambda w: -8 * w.pow(4).sum() - 1.5 * (w - start).square().sum()  # noqa: E731 (a formula)
        mean = lambda w: w - 0.02 * (32 * w.pow(3) + 3 * (w - start))  # noqa: E731 (a formula)
        proposal = lambda to, of: torch.distributions.Normal(mean(of), 0.2).log_prob(to).sum()  # noqa: E731 (a formula)
        ratio = target(after) - target(start) + proposal(start, after) - proposal(after, start)
        torch.testing.assert_close(chain.acceptance, ratio.exp().clamp(max=1))
        assert chain.acceptance < 1

    def test_acceptance_falls_with_the_step_and_is_zero_where_a_walk_explodes(self) -> None:
        def acceptance(step_size: float) -> float:
            return langevin_chain(
                lambda w, step: (w.square().sum() / 2, w),
                torch.zeros(10),
                num_steps=300,
                step_size=step_size,
                inverse_temperature=10.0,
                localization=0.0,
                generator=torch.Generator().manual_seed(0),
            ).acceptance.item()

        assert acceptance(1e-3) > 0.99
        assert 0.3 < acceptance(0.1) < 0.97
        assert acceptance(0.5) < 0.2

    @pytest.mark.parametrize("alike", [True, False])
    def test_batches_are_those_of_their_steps(self, alike: bool) -> None:
        asked = []

        def loss(w: Tensor, step: int) -> tuple[Tensor, Tensor]:
            asked.append(step)
            return w.square().sum(), 2 * w

        langevin_chain(
            loss,
            torch.ones(2),
            num_steps=26,
            step_size=1e-3,
            inverse_temperature=1.0,
            localization=1.0,
            generator=torch.Generator().manual_seed(0),
            evaluated_alike=alike,
        )
        assert asked == [*range(27)] if alike else [*range(25), 24, 25, 25, 26]


def quadrature(powers: tuple[int, int], density: Callable[[Tensor, Tensor], Tensor], reach: float) -> float:
    """Mean of ``n beta L`` for ``L = 4 (w1^a w2^b)^2`` over a square, by the midpoint rule."""
    points = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 * reach
    potential = NORMAL_CROSSING * (points[:, None] ** powers[0] * points ** powers[1]).square()
    weights = (-potential).exp() * density(points[:, None], points)
    return float((potential * weights).sum() / weights.sum())


NORMAL_CROSSING = 4 * default_inverse_temperature(1000)


class TestSingularModels:
    """Of which the asymptotic value is not what is found at a finite temperature."""

    @pytest.mark.parametrize(("powers", "known"), [((0, 1), 0.5), ((0, 2), 0.25), ((1, 1), 0.38), ((2, 2), 0.156)])
    def test_quadrature_gives_the_known_values_in_a_box(self, powers: tuple[int, int], known: float) -> None:
        found = quadrature(powers, lambda first, second: torch.ones_like(first * second), 1.0)
        assert found == pytest.approx(known, abs=6e-4)

    @pytest.mark.parametrize("powers", [(0, 1), (0, 2), (1, 1), (1, 2)])
    def test_walk_gives_the_quadrature(self, powers: tuple[int, int]) -> None:
        localization, copies = 50.0, 400
        expected = quadrature(powers, lambda x, y: (-localization / 2 * (x.square() + y.square())).exp(), 1.5)
        traces = []

        def loss(w: Tensor, step: int) -> tuple[Tensor, Tensor]:
            leaf = w.clone().requires_grad_()
            first, second = leaf.view(2, copies)
            losses = 4 * (first ** powers[0] * second ** powers[1]).square()
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
            if step > 1500:
                traces.append(NORMAL_CROSSING / 4 * losses.detach())
            return losses.sum().detach(), gradient

        langevin_chain(
            loss,
            torch.zeros(2 * copies, dtype=torch.float64),
            num_steps=2500,
            step_size=5e-5,
            inverse_temperature=NORMAL_CROSSING / 4,
            localization=localization,
            generator=torch.Generator().manual_seed(0),
        )
        assert torch.stack(traces).mean().item() == pytest.approx(expected, abs=0.02)


class TestStandardError:
    def test_independent_numbers(self) -> None:
        draws = torch.randn(4, 2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = math.sqrt(4 / 3 / draws.numel())
        assert chain_standard_error(draws).item() == pytest.approx(expected, rel=0.1)

    def test_autoregression(self) -> None:
        generator, rho = torch.Generator().manual_seed(0), 0.8
        noise = torch.randn(4, 4000, dtype=torch.float64, generator=generator)
        chain = [noise[:, 0] / math.sqrt(1 - rho**2)]
        for column in noise.T[1:]:
            chain.append(rho * chain[-1] + column)
        traces = torch.stack(chain, 1)
        expected = math.sqrt(4 / 3 / (1 - rho) ** 2 / traces.numel())
        assert chain_standard_error(traces).item() == pytest.approx(expected, rel=0.15)
        assert chain_standard_error(traces[:1]).item() == pytest.approx(expected * math.sqrt(4 * 2 / (4 / 3)), rel=0.5)

    def test_chains_that_never_meet(self) -> None:
        traces = torch.tensor([[0.0], [1.0], [2.0]]).expand(3, 50)
        assert chain_standard_error(traces).item() == pytest.approx(1 / math.sqrt(2))

    def test_edges(self) -> None:
        assert chain_standard_error(torch.ones(2, 3)).isnan()
        assert chain_standard_error(torch.ones(1, 7)).isnan()
        assert chain_standard_error(torch.ones(2, 4)) == 0
        assert chain_standard_error(torch.tensor([1.0, -1.0]).repeat(2, 50)) > 0

    @pytest.mark.parametrize(("chains", "burn_in", "draws"), [(4, 600, 1000), (8, 600, 400), (2, 600, 1000)])
    def test_two_errors_cover(self, chains: int, burn_in: int, draws: int) -> None:
        traces = walk_on_copies(200 * chains, burn_in, draws, 5e-4).view(200, chains, draws)
        errors = torch.stack([chain_standard_error(of_seed) for of_seed in traces])
        off = (traces.mean((1, 2)) - on_quadratic(CURVATURES, 5e-4)).abs()
        assert 0.90 <= (off <= 2 * errors).double().mean() <= 0.97


COPIES = 12  # of each curvature, so that the spread of a few walks is about normal


class Quadratic(nn.Module):
    """Outputs whose mean squares are a quadratic function of the parameters, of two blocks."""

    curvatures, copies = CURVATURES, COPIES

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 2 * self.copies, bias=False), nn.Linear(1, 3 * self.copies, bias=False)
        for p in self.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        w = torch.cat([self.first.weight, self.second.weight]).flatten()
        return x * (self.curvatures.repeat_interleave(self.copies).sqrt() * w)


class Gentle(Quadratic):
    """Many directions, none much sharper than others, so that few steps see all of them."""

    curvatures, copies = torch.tensor([0.1, 0.2, 0.4, 0.7, 1.0], dtype=torch.float64), 200


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean() / 2


def measured(metric: ComplexityMetric, *args: object, **kwargs: object) -> float:
    metric.update(*args, **kwargs)
    return metric.compute().item()


SETTINGS = {"step_size": 1e-3, "localization": 30.0, "inverse_temperature": TEMPERATURE}


class TestLearningCoefficient:
    @pytest.mark.parametrize(
        ("layers", "block"), [((), slice(None)), (("first",), slice(2)), (("second*",), slice(2, 5))]
    )
    def test_quadratic_and_its_blocks(self, layers: tuple[str, ...], block: slice) -> None:
        metric = LearningCoefficient(4, 200, burn_in=200, **SETTINGS)
        if layers:
            metric.on(*layers)
        value = measured(
            metric,
            Quadratic().double(),
            torch.ones(3, 1).double(),
            torch.zeros(3, 5 * COPIES).double(),
            loss=half_square,
        )
        error = metric.report()["learning_coefficient/standard_error"].item()
        assert abs(value - COPIES * on_quadratic(CURVATURES[block], 1e-3, 30.0)) < 3 * error < 0.5 * value

    def test_short_steps_lead_to_half_the_effective_dimension(self) -> None:
        """Three estimators at once: walks, what their step size does to them, and Lanczos quadrature."""
        localization = 30.0
        alpha = localization / default_inverse_temperature(1000)
        net = Gentle().double()
        snapshot = Snapshot(net, torch.ones(3, 1).double(), torch.zeros(3, 5 * net.copies).double(), loss=half_square)
        dimension = EffectiveDimension(alpha)
        half = measured(dimension, snapshot) / 2
        exact = net.copies * (net.curvatures / (net.curvatures + alpha)).sum().item() / 2
        assert abs(half - exact) < 3 * dimension.standard_error() / 2 < 0.02 * exact
        walks = {"burn_in": 60, "localization": localization, "num_samples": 1000}
        long, short = (LearningCoefficient(3, 60, step_size=step_size, **walks) for step_size in (4e-3, 2e-3))
        biased, less = measured(long, snapshot), measured(short, snapshot)
        error = math.hypot(long.standard_error().item(), 2 * short.standard_error().item())
        # Half the step has half the bias, to first order.
        assert abs(2 * less - biased - half) < 3 * error < 0.1 * half
        assert biased - half > 0.1 * half

    def test_regular_model_has_half_its_parameters(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1000, 4, dtype=torch.float64, generator=generator)
        y = x.sum(1, keepdim=True) + torch.randn(1000, 1, dtype=torch.float64, generator=generator)
        net = nn.Linear(4, 1, bias=False).double()
        with torch.no_grad():
            net.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
        options = {"step_size": 4e-3, "localization": 0.0, "burn_in": 20}
        snapshot = Snapshot(net, x, y, loss=half_square, chunk_size=1000)
        expected = 2 / (1 - 4e-3 * 144.76 / 4)
        assert measured(LearningCoefficient(4, 200, **options), snapshot) == pytest.approx(expected, rel=0.15)
        variance = FunctionalVariance(4, 200, **options)
        variance.update(snapshot)
        report = variance.report()
        assert report["functional_variance/singular_fluctuation"].item() == pytest.approx(expected, rel=0.15)
        beta = 1 / math.log(1000)
        assert report["functional_variance"].item() * beta / 2 == pytest.approx(
            report["functional_variance/singular_fluctuation"].item()
        )

    def test_burn_in_is_left_out(self) -> None:
        # 99 equal directions that are slow: the mean over the first steps is known, and far below 99 / 2.
        step_size, rate, burn_in, draws = 1e-3, 20.0, 150, 60

        class Flat(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.Parameter(torch.zeros(99, dtype=torch.float64))

            def forward(self, x: Tensor) -> Tensor:
                return x * self.w

        def expected(first: int, last: int) -> float:
            shrunk = 1 - step_size * rate / 2
            kept = sum(1 - shrunk ** (2 * t) for t in range(first, last + 1)) / (last - first + 1)
            return 49.5 / (1 - step_size * rate / 4) * kept

        for skipped in (0, burn_in):
            metric = LearningCoefficient(
                6, draws, burn_in=skipped, step_size=step_size, localization=0.0, inverse_temperature=rate
            )
            value = measured(metric, Flat(), torch.ones(2, 1).double(), torch.zeros(2, 99).double(), loss=half_square)
            assert value == pytest.approx(expected(skipped + 1, skipped + draws), rel=0.06)
            assert metric.losses.shape == (6, skipped + draws)
            torch.testing.assert_close(metric.traces, rate * (metric.losses[:, skipped:] - metric.loss_at_start))
        assert expected(1, draws) < 25 < 45 < expected(burn_in + 1, burn_in + draws)

    def test_number_of_samples(self) -> None:
        net, x, y = nn.Linear(2, 3), torch.randn(6, 2), torch.randint(0, 3, (6,))
        few = {"num_chains": 1, "num_draws": 5, "burn_in": 0}
        snapshot = Snapshot(net, x, y)
        by_default = measured(LearningCoefficient(**few), snapshot)
        assert by_default == measured(LearningCoefficient(num_samples=6, **few), snapshot)
        assert by_default == measured(LearningCoefficient(inverse_temperature=6 / math.log(6), **few), snapshot)
        assert by_default != measured(LearningCoefficient(num_samples=1000, **few), snapshot)
        assert default_inverse_temperature(1000) == pytest.approx(144.76, abs=5e-3)

    def test_evaluation_mode_and_own_running_statistics(self) -> None:
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
        noisy = nn.Sequential(*plain[:3], nn.Dropout(0.5), plain[3])
        x, y = torch.randn(20, 3), torch.randint(0, 2, (20,))
        plain(x)
        few = {"num_chains": 1, "num_draws": 20, "burn_in": 5}
        assert measured(LearningCoefficient(**few), noisy.train(), x, y) == measured(
            LearningCoefficient(**few), plain.eval(), x, y
        )

    def test_loss_of_batches_is_walked_on_too(self) -> None:
        net, x, y = nn.Linear(3, 2), torch.randn(10, 3), torch.randint(0, 2, (10,))

        def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(module(batch[0]), batch[1])

        few = {"num_chains": 1, "num_draws": 20, "burn_in": 5}
        of_outputs = measured(LearningCoefficient(**few), net, x, y)
        assert measured(LearningCoefficient(**few), net, x, y, loss=loss) == pytest.approx(of_outputs)
        of_outputs = measured(FunctionalVariance(**few), net, x, y)
        assert measured(FunctionalVariance(**few), net, x, y, loss=loss) == of_outputs  # seen to be the cross-entropy
        smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
        few["num_draws"] = 10  # at each of which samples are run alone
        of_outputs = measured(FunctionalVariance(**few), net, x, y, loss=smoothed)
        alone = measured(
            FunctionalVariance(**few), net, x, y, loss=lambda module, batch: smoothed(module(batch[0]), batch[1])
        )
        assert alone == pytest.approx(of_outputs, rel=1e-3)
        with pytest.raises(MeasureError, match="is the mean of those that samples have alone"):
            FunctionalVariance(**few).update(net, x, y, loss=lambda module, batch: module(batch[0]).square().sum())

    def test_probe_in_chunks(self) -> None:
        net, x, y = nn.Linear(3, 2).double(), torch.randn(10, 3).double(), torch.randint(0, 2, (10,))
        few = {"num_chains": 1, "num_draws": 20, "burn_in": 5}
        for metric in (LearningCoefficient, FunctionalVariance):
            whole = measured(metric(**few), Snapshot(net, x, y))
            assert measured(metric(**few), Snapshot(net, x, y, chunk_size=3)) == pytest.approx(whole)

    def test_batches_are_compared_with_themselves(self) -> None:
        # Targets differ by far more between batches than the loss changes on the way.
        net, x = nn.Linear(1, 1, bias=False).double(), torch.ones(7, 1).double()
        y = net(x).detach() + torch.arange(7.0).double()[:, None] ** 3
        options = {"step_size": 1e-12, "localization": 0.0, "inverse_temperature": 1.0, "num_draws": 7, "burn_in": 0}
        metric = LearningCoefficient(1, batch_size=2, **options)
        assert abs(measured(metric, net, x, y, loss=F.mse_loss)) < 1e-2
        torch.testing.assert_close(metric.loss_at_start, F.mse_loss(net(x), y).detach())

    def test_batches_see_the_same_curvature(self) -> None:
        x, y = torch.ones(8, 1).double(), torch.zeros(8, 5 * COPIES).double()
        metric = LearningCoefficient(4, 200, burn_in=200, batch_size=3, **SETTINGS)
        value = measured(metric, Quadratic().double(), x, y, loss=half_square)
        error = metric.report()["learning_coefficient/standard_error"].item()
        # The pieces have 3, 3 and 2 samples, and weigh as much as they have.
        assert abs(value - COPIES * on_quadratic(CURVATURES, 1e-3, 30.0)) < 3 * error < 0.5 * value

    def test_batches_weigh_as_much_as_they_have_samples(self) -> None:
        # Of a loss that is linear in the weight one epoch goes down its slope, whatever the order; noise is negligible.
        net = nn.Linear(1, 1, bias=False).double()
        x = torch.tensor([[1.0], [1.0], [1.0], [2.0]]).double()
        metric = LearningCoefficient(
            1, 2, burn_in=0, batch_size=3, step_size=1e-10, inverse_temperature=2e8, localization=0.0
        )
        metric.update(net, x, torch.zeros(4, 1).double(), loss=lambda outputs, targets: -(outputs + targets).mean())
        moved = 0.01 * 2 * x.mean().item()
        change = (metric.losses[0, 1] - metric.loss_at_start).item()
        assert min(abs(change + moved * weight) for weight in (1.5 * 1, 0.5 * 2)) < 1e-4

    def test_nothing_is_left_behind(self) -> None:
        net, x, y = nn.Linear(3, 2), torch.randn(10, 3), torch.randint(0, 2, (10,))
        weight, state = net.weight.clone(), torch.get_rng_state()
        snapshot = Snapshot(net, x, y)
        LearningCoefficient(step_size=1e-2).update(snapshot)
        assert torch.equal(net.weight, weight)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(snapshot.parameters["weight"], weight)

    def test_picture(self) -> None:
        net, x, y = nn.Linear(3, 2), torch.randn(10, 3), torch.randint(0, 2, (10,))
        metric, snapshot = LearningCoefficient(3, 10, burn_in=4), Snapshot(net, x, y)
        metric.update(snapshot)
        (figure,) = metric.figures(snapshot).values()
        lines = figure.axes[0].lines
        assert [len(line.get_ydata()) for line in lines[:3]] == [14] * 3
        assert lines[1].get_ydata().tolist() == metric.losses[1].tolist()

    def test_seed(self) -> None:
        net, x, y = nn.Linear(3, 2), torch.randn(10, 3), torch.randint(0, 2, (10,))
        first, again, other = (measured(LearningCoefficient(seed=seed), net, x, y) for seed in (0, 0, 1))
        assert first == again != other

    def test_single_sample_has_no_temperature(self) -> None:
        net = nn.Linear(3, 2)
        assert math.isnan(measured(LearningCoefficient(), net, torch.randn(1, 3), torch.tensor([1])))
        assert not math.isnan(measured(LearningCoefficient(num_samples=9), net, torch.randn(1, 3), torch.tensor([1])))

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"num_chains": 0}, "num_chains"),
            ({"num_draws": 1}, "num_draws"),
            ({"burn_in": -1}, "burn_in"),
            ({"step_size": 0.0}, "step_size"),
            ({"localization": -1.0}, "localization"),
            ({"num_samples": 1}, "num_samples"),
            ({"inverse_temperature": math.inf}, "inverse_temperature"),
            ({"batch_size": 0}, "batch_size"),
        ],
    )
    def test_options_out_of_range(self, options: dict[str, float], named: str) -> None:
        with pytest.raises(ValueError, match=f"{named} must be"):
            LearningCoefficient(**options)


class TestFunctionalVariance:
    def test_formula(self) -> None:
        torch.testing.assert_close(functional_variance(torch.tensor([[0.0, 1.0], [2.0, 5.0]])), torch.tensor(10.0))
        assert learning_coefficient(torch.tensor([[1.0], [2.0]]), torch.tensor(1.0), 4.0) == 2

    def test_shares_its_walks_and_is_the_sum_over_samples(self) -> None:
        net, x, y = nn.Linear(3, 2).double(), torch.randn(10, 3).double(), torch.randint(0, 2, (10,))
        few = {"num_chains": 1, "num_draws": 20, "burn_in": 5, "step_size": 1e-3}
        snapshot = Snapshot(net, x, y)
        LearningCoefficient(**few).update(snapshot)
        known = len(snapshot._memo)
        variance = measured(FunctionalVariance(**few), snapshot)
        assert len(snapshot._memo) == known
        # The same walk, step by step.
        losses = []

        def loss(w: Tensor, step: int) -> tuple[Tensor, Tensor]:
            leaf = w.clone().requires_grad_()
            of_samples = F.cross_entropy(x @ leaf[:6].view(2, 3).T + leaf[6:], y, reduction="none")
            losses.append(of_samples.detach())
            return of_samples.mean().detach(), torch.autograd.grad(of_samples.mean(), leaf)[0]

        langevin_chain(
            loss,
            torch.cat([net.weight.flatten(), net.bias]).detach(),
            num_steps=25,
            step_size=1e-3,
            inverse_temperature=10 / math.log(10),
            localization=100.0,
            generator=torch.Generator().manual_seed(0),
        )
        assert variance == pytest.approx(functional_variance(torch.stack(losses[6:])).item())

    @pytest.mark.parametrize(
        ("loss", "targets"),
        [
            (None, torch.tensor([0, 1, 1, 0])),
            (nn.CrossEntropyLoss(label_smoothing=0.1), torch.tensor([0, 1, 1, 0])),
            (F.mse_loss, torch.zeros(4, 2)),
            (
                lambda outputs, targets: (outputs - targets).abs().mean() if (outputs > -9).all() else 0,
                torch.zeros(4, 2),
            ),
        ],
    )
    def test_losses_of_samples(self, loss: Callable[..., Tensor] | None, targets: Tensor) -> None:
        outputs, task = torch.randn(4, 2), Task(loss=loss)
        alone = [task.loss_of(outputs[i : i + 1], targets[i : i + 1]) for i in range(4)]
        torch.testing.assert_close(sample_losses(task, outputs, targets), torch.stack(alone))
        assert has_sample_losses(task, outputs, targets)

    def test_loss_that_writes_to_outputs_is_called_once_for_all_samples_on_a_copy(self) -> None:
        outputs, targets, calls = torch.randn(4, 2), torch.zeros(4, 2), []

        def halved(outputs: Tensor, targets: Tensor) -> Tensor:
            calls.append(len(outputs))
            return F.mse_loss(outputs.mul_(0.5), targets)

        before = outputs.clone()
        found = sample_losses(Task(loss=halved), outputs, targets)
        assert calls == [1]
        torch.testing.assert_close(found, before.square().mean(1) / 4)
        torch.testing.assert_close(outputs, before, rtol=0, atol=0)

    def test_loss_that_is_no_mean_of_samples_is_refused(self) -> None:
        net, x = nn.Linear(3, 2), torch.randn(10, 3)
        with pytest.raises(MeasureError, match="is the mean of those that samples have alone"):
            FunctionalVariance().update(net, x, torch.zeros(10, 2), loss=lambda o, t: (o - t).square().sum())

    def test_scales_to_the_training_set(self) -> None:
        net, x, y = nn.Linear(3, 2), torch.randn(10, 3), torch.randint(0, 2, (10,))
        one, other = (
            FunctionalVariance(inverse_temperature=5.0),
            FunctionalVariance(inverse_temperature=5.0, num_samples=30),
        )
        assert measured(other, net, x, y) == pytest.approx(3 * measured(one, net, x, y))
