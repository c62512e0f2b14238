"""Pictures of spaces: distributions of errors, efficiency of random search, sample sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_complexity.plots.curves import figure_class
from lightning_complexity.selection.design_spaces.comparing import SpaceComparison
from lightning_complexity.selection.design_spaces.distances import Difference
from lightning_complexity.selection.design_spaces.sizes import SampleSize
from lightning_complexity.selection.pictures import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 0.975
_COLORS = ("tab:blue", "tab:orange")


def picture_of_distributions(comparison: SpaceComparison) -> Figure:
    """Draw the distributions of both spaces' errors, as they are and at equal complexity, and how complex they are.

    The dotted line is where distributions are farthest apart. Axes end where 97.5 % of the networks of both spaces are
    shown.

    Args:
        comparison: Of two spaces.

    Returns:
        A matplotlib figure, which belongs to no window; of one panel if there is no complexity.

    Raises:
        ImportError: Without matplotlib.
    """
    first, second = comparison.samples
    panels = 1 if comparison.normalized is None else 3
    figure = figure_class()(figsize=(4.6 * panels, 4.0), layout="constrained")
    axes = [figure.add_subplot(1, panels, index + 1) for index in range(panels)]
    names = (first.name, second.name)
    _draw_distributions(axes[0], comparison.plain, names, first.error)
    axes[0].set_title("as they are")
    if comparison.normalized is not None:
        _draw_distributions(axes[1], comparison.normalized, names, first.error)
        axes[1].set_title(plain(f"at equal {first.complexity_name}"))
        _draw_complexity(axes[2], comparison)
        axes[2].set_ylim(*_shown(comparison))
    for panel in axes[:2]:
        panel.set_xlim(*_shown(comparison))
    return figure


def _shown(comparison: SpaceComparison) -> tuple[float, float]:
    """Errors without the worst ones of either space, which would leave no room for the others."""
    distributions = comparison.plain.distributions
    low = min(float(distribution.errors[0]) for distribution in distributions)
    high = max(distribution.quantile(_SHOWN) for distribution in distributions)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _draw_distributions(axes: Axes, found: Difference, names: tuple[str, str], error: str) -> None:
    for distribution, name, color in zip(found.distributions, names, _COLORS, strict=True):
        errors = np.concatenate([distribution.errors[:1], distribution.errors])
        shares = np.concatenate([[0.0], distribution(distribution.errors)])
        axes.step(errors, shares, where="post", color=color, label=plain(name))
    heights = [float(distribution(found.at)) for distribution in found.distributions]
    axes.plot([found.at] * 2, heights, ":", color="black", label=f"distance {found.distance.value:.2f}")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(plain(error))
    axes.set_ylabel("share of networks up to this")
    axes.legend(fontsize=8)


def _draw_complexity(axes: Axes, comparison: SpaceComparison) -> None:
    """Errors over complexity, with the edges of the bins and the median error in each."""
    assert comparison.bins is not None
    edges = comparison.bins.edges
    for sample, color in zip(comparison.samples, _COLORS, strict=True):
        assert sample.complexity is not None
        shown = np.random.default_rng(0).permutation(len(sample))[:500]
        axes.plot(sample.complexity[shown], sample.errors[shown], ".", color=color, alpha=0.25, markersize=3)
        places = comparison.bins.place(sample.complexity)
        medians = [np.median(sample.errors[places == place]) for place in range(len(comparison.bins))]
        axes.step(
            edges, [*medians, medians[-1]], where="post", color=color, label=plain(f"{sample.name}: median of bin")
        )
    for edge in edges:
        axes.axvline(edge, color="0.8", linewidth=0.6, zorder=0)
    if comparison.bins.is_logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(plain(comparison.samples[0].complexity_name or ""))
    axes.set_ylabel(plain(comparison.samples[0].error))
    axes.set_title("errors by complexity, and the bins")
    axes.legend(fontsize=8)


def picture_of_efficiency(comparison: SpaceComparison) -> Figure:
    """Draw the least error of k random networks of each space: its mean, and a band that holds 95 of 100 searches.

    Solid lines and bands are of the networks as they are; dashed ones at equal complexity, if there is one.

    Args:
        comparison: Of two spaces.

    Returns:
        A matplotlib figure, which belongs to no window.

    Raises:
        ImportError: Without matplotlib.
    """
    figure = figure_class()(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    found = comparison.efficiency()
    for sample, color in zip(comparison.samples, _COLORS, strict=True):
        own = found[found["space"] == sample.name]
        plainly, weighted = own[~own["normalized"]], own[own["normalized"]]
        axes.plot(plainly["draws"], plainly["mean"], color=color, marker=".", label=plain(sample.name))
        axes.fill_between(plainly["draws"], plainly["q2.5"], plainly["q97.5"], color=color, alpha=0.15)
        if len(weighted):
            label = plain(f"{sample.name}, at equal {sample.complexity_name}")
            axes.plot(weighted["draws"], weighted["mean"], "--", color=color, label=label)
    _draw_powers_of_two(axes)
    low, high = _shown(comparison)
    axes.set_ylim(low, (low + high) / 2)
    axes.set_xlabel("random networks that are tried")
    axes.set_ylabel(plain(f"least {comparison.samples[0].error}: mean, and 95 of 100 searches"))
    axes.legend(fontsize=8)
    return figure


def picture_of_sample_size(found: SampleSize) -> Figure:
    """Draw how far the distribution of a sample is off, by its size, and the size that is enough.

    Args:
        found: What :func:`sample_size` said.

    Returns:
        A matplotlib figure, which belongs to no window.

    Raises:
        ImportError: Without matplotlib.
    """
    figure = figure_class()(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    sizes, level = found.distances["size"], f"{100 * found.confidence:g} %"
    axes.plot(sizes, found.distances["mean"], "o", color="tab:blue", label="of samples of the pilot: mean")
    axes.plot(
        sizes, found.distances["high"], "o", color="tab:red", label=f"of samples of the pilot: {level} are nearer"
    )
    axes.plot(
        sizes, found.distances["expected_high"], color="tab:red", label=f"by Kolmogorov's law: {level} are nearer"
    )
    axes.axhline(found.tolerance, color="0.5", linestyle=":", label=f"tolerance {found.tolerance:g}")
    axes.axvline(found.enough, color="0.5", linestyle="--", label=f"enough: {found.enough}")
    axes.axvline(found.pilot, color="black", linestyle="-.", linewidth=0.8, label=f"pilot: {found.pilot}")
    _draw_powers_of_two(axes)
    axes.set_ylim(0, 1)
    axes.set_xlabel("networks in the sample")
    axes.set_ylabel("Kolmogorov-Smirnov distance to all")
    axes.legend(fontsize=8)
    return figure


def _draw_powers_of_two(axes: Axes) -> None:
    """A logarithmic axis with plain numbers."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
