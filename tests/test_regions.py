"""Linear regions against counts that are known: arrangements, folding maps, bounds, brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional import (
    activation_codes,
    hyperplane_regions,
    log_region_bound,
    montufar_lower_bound,
    montufar_upper_bound,
    serra_upper_bound,
    transitions,
)
from lightning_complexity.metrics import (
    LinearRegions,
    LocalComplexity,
    RegionBound,
    RegionBoundaryDistance,
    SmoothLocalComplexity,
)
from lightning_complexity.network import (
    Context,
    PlaneRegions,
    SegmentPieces,
    Snapshot,
    UnsupportedOperationError,
    decision_boundary,
    rectangle_around,
    segment_pieces,
)
from lightning_complexity.network.regions.planes import _Cell, _halves
from lightning_complexity.network.regions.restrictions import regions_around_samples, restriction
from tests.networks import conv_net, mlp

Map = Callable[[Tensor], Tensor]


class Iterated(nn.Module):
    def __init__(self, step: Map, times: int) -> None:
        super().__init__()
        self.step, self.times = step, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.step(x)
        return x


def pieces(model: nn.Module, start: Tensor, end: Tensor) -> SegmentPieces:
    snapshot = Snapshot(model, torch.stack([start, end]), chunk_size=32)
    return segment_pieces(restriction(snapshot, start, (end - start)[None], measure="A measure"))


def regions(model: nn.Module, points: Tensor, margin: float = 0.0) -> PlaneRegions:
    return regions_around_samples(Snapshot(model, points, chunk_size=64), margin)


def value(metric: LinearRegions, model: nn.Module, x: Tensor) -> float:
    metric.update(model, x)
    return metric.compute().item()


def he_initialized(*widths: int) -> nn.Sequential:
    model = mlp(*widths)
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=1e-3)
    return model


# Bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_inputs", "widths", "lower", "serra", "upper"),
    [
        (2, [12], 79, 79, 79),
        (2, [4, 4], 44, 121, 121),
        (2, [8, 8], 592, 1369, 1369),
        (2, [16, 16, 16], 561152, 2571353, 2571353),
        (1, [8, 8], 72, 81, 81),
        (10, [4, 4, 4], 0, 1634, 4096),
    ],
)
def test_bounds_have_the_known_values(num_inputs: int, widths: list[int], lower: int, serra: int, upper: int) -> None:
    assert montufar_lower_bound(num_inputs, widths) == lower
    assert serra_upper_bound(num_inputs, widths) == serra
    assert montufar_upper_bound(num_inputs, widths) == upper


def serra_by_definition(num_inputs: int, widths: list[int]) -> int:
    total = 0
    for js in itertools.product(*(range(n + 1) for n in widths)):
        dims = [
            min([num_inputs, *(n - j for n, j in zip(widths[:i], js, strict=False)), widths[i]]) for i in range(len(js))
        ]
        if all(j <= d for j, d in zip(js, dims, strict=True)):
            total += math.prod(math.comb(n, j) for n, j in zip(widths, js, strict=True))
    return total


def test_bounds_are_ordered_and_serra_is_its_definition() -> None:
    for num_inputs, widths in itertools.product((1, 2, 3, 5), ([3], [4, 2], [2, 5, 3], [3, 3, 3, 2])):
        serra = serra_upper_bound(num_inputs, widths)
        assert serra == serra_by_definition(num_inputs, widths)
        upper = montufar_upper_bound(num_inputs, widths)
        assert montufar_lower_bound(num_inputs, widths) <= serra <= upper <= math.prod(2**n for n in widths)
        assert math.log(upper) <= log_region_bound(num_inputs, widths) + 1e-9


def test_bounds_of_wide_networks_stay_exact() -> None:
    # Behind 784 inputs a first layer of 20 units has all patterns; behind j active ones 20 - j dimensions are left.
    assert serra_upper_bound(784, [20, 1]) == sum(math.comb(20, j) * (2 if j < 20 else 1) for j in range(21))
    assert 2**900 < serra_upper_bound(784, [512, 512]) < montufar_upper_bound(784, [512, 512])
    assert log_region_bound(3, [1000, 7]) == pytest.approx(
        math.log(hyperplane_regions(3, 1000) * hyperplane_regions(3, 7)), rel=1e-12
    )


@pytest.mark.parametrize("widths", [[], [0], [3, 0]])
def test_bounds_need_layers(widths: list[int]) -> None:
    for bound in (montufar_lower_bound, montufar_upper_bound, serra_upper_bound):
        with pytest.raises(ValueError, match="needs at least one input and widths"):
            bound(2, widths)


# Along a segment --------------------------------------------------------------------------------


def tent(x: Tensor) -> Tensor:
    return 2 * F.relu(x) - 4 * F.relu(x - 0.5)


def cantor(x: Tensor) -> Tensor:
    return F.relu(1 - 3 * x) + F.relu(3 * x - 2)


@pytest.mark.parametrize("depth", range(1, 8))
def test_folding_maps(depth: int) -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    found = pieces(Iterated(tent, depth), zero, one)
    assert found.num_linear_regions == 2**depth
    torch.testing.assert_close(found.breakpoints, torch.linspace(0, 1, 2**depth + 1))
    assert pieces(Iterated(cantor, depth), zero, one).num_linear_regions == 2 ** (depth + 1) - 1


def test_one_hidden_layer_has_one_piece_more_than_sign_changes() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        model, start, end = mlp(5, 40, 3), 3 * torch.randn(5), 3 * torch.randn(5)
        signs = [model[0](x) > 0 for x in (start, end)]
        assert pieces(model, start, end).num_linear_regions == 1 + (signs[0] != signs[1]).sum()


def test_bounds_hold_and_are_attained_in_one_dimension() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        count = pieces(mlp(1, 8, 8, 1), torch.full((1,), -1e6), torch.full((1,), 1e6)).num_linear_regions
        assert 1 < count <= serra_upper_bound(1, [8, 8])
    shallow = mlp(1, 8, 1)
    count = pieces(shallow, torch.full((1,), -1e6), torch.full((1,), 1e6)).num_linear_regions
    assert count == serra_upper_bound(1, [8]) == 9


class Transformed(nn.Module):
    """A transformer's MLP blocks with skip connections, on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + self.down(F.relu(self.up(x)))
        return x.mean(1)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "mlp": lambda: (mlp(6, 12, 12, 12, 3), (6,)),
    "hardtanh": lambda: (
        nn.Sequential(nn.Linear(6, 12), nn.Hardtanh(), nn.Linear(12, 9), nn.ReLU6(), nn.Linear(9, 2)),
        (6,),
    ),
    "leaky, in place": lambda: (
        nn.Sequential(
            nn.Linear(6, 12), nn.LeakyReLU(0.2, inplace=True), nn.Linear(12, 9), nn.ReLU(True), nn.Linear(9, 2)
        ),
        (6,),
    ),
    "convolutional with skip and pooling": lambda: (conv_net().eval(), (2, 8, 8)),
    "overlapping pooling": lambda: (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)),
        (1, 8, 8),
    ),
    "tokens": lambda: (Transformed(), (3, 4)),
    "maxout along a dimension": lambda: (
        nn.Sequential(
            nn.Linear(6, 24),
            nn.Unflatten(1, (8, 3)),
            Iterated(lambda x: x.amax(2), 1),
            nn.Linear(8, 8),
            nn.Unflatten(1, (2, 4)),
            Iterated(lambda x: x.min(dim=1)[0], 1),
        ),
        (6,),
    ),
    "recombined by maximum": lambda: (
        nn.Sequential(nn.Linear(6, 48), nn.Unflatten(1, (2, 24)), Iterated(lambda x: torch.max(x[:, 0], x[:, 1]), 1)),
        (6,),
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_pieces_are_what_dense_sampling_sees(network: str) -> None:
    """Between the breakpoints the second difference of the outputs is zero, across each of them it is not."""
    model, shape = NETWORKS[network]()
    start, end = 2 * torch.randn(2, *shape)
    found = pieces(model, start, end)
    assert found.num_linear_regions > 3
    grid = torch.linspace(0, 1, 40_001)
    with torch.no_grad():
        outputs = torch.cat([model(start + t.reshape(-1, *[1] * len(shape)) * (end - start)) for t in grid.split(5000)])
    second = outputs.diff(n=2, dim=0).abs().amax(1)
    inner = found.breakpoints[1:-1]
    containing = torch.histc(inner, bins=40_000, min=0, max=1) > 0
    near = containing[1:] | containing[:-1]
    assert second[~near].max() < 1e-11
    # Each lone breakpoint is seen: pairs of neighbouring second differences, one of which may vanish.
    for t in inner.tolist():
        cell = int(t * 40_000)
        assert second[max(cell - 1, 0) : cell + 1].max() > 1e-9


def test_a_unit_that_does_not_reach_the_outputs_is_not_counted() -> None:
    model = mlp(3, 10, 2)
    start, end = torch.randn(2, 3) * 5
    before = pieces(model, start, end)
    with torch.no_grad():
        model[2].weight[:, ::2] = 0
    after = pieces(model, start, end)
    assert after.num_activation_regions == before.num_activation_regions
    signs = [model[0](x)[1::2] > 0 for x in (start, end)]
    assert after.num_linear_regions == 1 + (signs[0] != signs[1]).sum() < before.num_linear_regions


def test_coinciding_kinks_are_one() -> None:
    model = mlp(3, 4, 2)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = -2 * model[0].weight[0], -2 * model[0].bias[0]
    start = torch.randn(3)
    end = start - 2 * (model[0](start)[0] / model[0].weight[0].square().sum() * model[0].weight[0]).detach()
    breakpoints = pieces(model, start, end).breakpoints
    assert (breakpoints - 0.5).abs().min() < 1e-12
    assert breakpoints.diff().min() > 1e-6


def test_regions_per_neuron_do_not_depend_on_depth_at_initialization() -> None:
    """Hanin and Rolnick: along a line as many as there are neurons; a naive count would grow with depth."""
    per_neuron = []
    for widths in ([48], [24] * 2, [12] * 4):
        counts = []
        for seed in range(12):
            torch.manual_seed(seed)
            start = torch.randn(10)
            model = he_initialized(10, *widths, 1)
            counts.append(pieces(model, -20 * start + torch.randn(10), 20 * start).num_linear_regions)
        per_neuron.append(np.mean(counts) / 48)
    assert per_neuron == pytest.approx([1.0, 1.0, 1.0], abs=0.15)


def test_many_layers_of_many_units_are_counted_in_few_forward_passes() -> None:
    model, calls = mlp(50, 64, 64, 64, 5), []
    model.register_forward_hook(lambda *args: calls.append(len(args[1][0])))
    count = pieces(model, *torch.randn(2, 50)).num_linear_regions
    assert count > 50
    assert sum(calls) < 6 * count


# In a plane -------------------------------------------------------------------------------------

TRIANGLE = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("num_lines", [1, 2, 5, 12])
def test_generic_lines_cut_a_huge_box_as_zaslavsky_says(num_lines: int) -> None:
    found = regions(mlp(2, num_lines, 3), 1e5 * TRIANGLE)
    assert found.num_linear_regions == found.num_activation_regions == hyperplane_regions(2, num_lines)


@pytest.mark.parametrize("widths", [[6], [4, 4], [5, 3, 4]])
def test_exact_counts_stay_below_the_bounds(widths: list[int]) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        count = regions(mlp(2, *widths, 2), 1e4 * TRIANGLE).num_linear_regions
        assert 1 < count <= serra_upper_bound(2, widths) <= montufar_upper_bound(2, widths)
        assert math.log(count) <= log_region_bound(2, widths)


@pytest.mark.parametrize("widths", [[48], [24] * 2, [12] * 4])
def test_regions_in_a_plane_do_not_depend_on_depth_at_initialization(widths: list[int]) -> None:
    counts = []
    for seed in range(3):
        torch.manual_seed(seed)
        counts.append(regions(he_initialized(2, *widths, 1), TRIANGLE).num_linear_regions)
    assert np.mean(counts) == pytest.approx(48**2 / 2, rel=0.15)


@pytest.mark.parametrize("network", ["mlp", "hardtanh", "tokens"])
def test_cells_tile_the_rectangle_and_know_the_function(network: str) -> None:
    model, shape = NETWORKS[network]()
    points = torch.randn(3, *shape)
    found = regions(model, points, margin=0.1)
    area = sum(shoelace(cell) for cell in found.cells)
    everything = np.concatenate(found.cells)
    assert area == pytest.approx(np.prod(np.ptp(everything, axis=0)), rel=1e-9)
    # Each cell's affine map is the network at random points inside of it.
    origin, directions, coordinates, _ = rectangle_around(points, 0.1)
    torch.testing.assert_close(origin + torch.tensordot(coordinates, directions, 1), points)
    weights = torch.rand(len(found.cells), 1, 1)
    for cell, at_center, slopes, w in zip(found.cells, found.parts.values, found.parts.slopes, weights, strict=True):
        corners = torch.from_numpy(cell)
        inside = torch.lerp(corners, corners.mean(0), w[0])
        predicted = at_center + (inside - corners.mean(0)) @ slopes.T
        torch.testing.assert_close(model(origin + torch.tensordot(inside, directions, 1)), predicted)


def shoelace(polygon: np.ndarray) -> float:
    (x, y), (u, v) = polygon.T, np.roll(polygon, -1, 0).T
    return 0.5 * float((x * v - u * y).sum())


def test_brute_force_in_a_plane() -> None:
    """Connected parts of a fine grid on which the gradient is the same."""
    from scipy.ndimage import label

    model = mlp(2, 3, 2, 1)
    found = regions(model, 8 * TRIANGLE)
    axis = torch.linspace(-8, 8, 800)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(model(grid).sum(), grid)
    maps, which = gradient.round(decimals=9).unique(dim=0, return_inverse=True)
    image = which.reshape(800, 800).numpy()
    assert found.num_linear_regions == sum(label(image == i)[1] for i in range(len(maps)))


def test_equal_maps_are_merged_across_what_does_not_bend_the_outputs() -> None:
    model = mlp(2, 5, 2)
    with torch.no_grad():
        model[2].weight[:, 3:] = 0
        model[0].weight[1], model[0].bias[1] = 3 * model[0].weight[0], 3 * model[0].bias[0]
    found = regions(model, 1e5 * TRIANGLE)
    assert found.num_activation_regions == hyperplane_regions(2, 4)
    assert found.num_linear_regions == hyperplane_regions(2, 2)
    assert len(set(found.regions)) == found.num_linear_regions


def test_equal_maps_apart_are_two_regions() -> None:
    class Ridge(nn.Module):
        """Zero on both sides of a ridge, which crosses the whole plane."""

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(1 - x[:, :1].abs())

    found = regions(Ridge(), 3 * TRIANGLE)
    assert found.num_linear_regions == 4


@pytest.mark.parametrize("used", range(7))
def test_lines_through_one_point(used: int) -> None:
    model = mlp(2, 7, 1, bias=False)
    with torch.no_grad():
        model[2].weight[:, [i for i in range(7) if i != used]] = 0
    found = regions(model, torch.tensor([[-3.0, -2.0], [3.0, -2.0], [-3.0, 4.0]]))
    assert found.num_activation_regions == 14
    assert found.num_linear_regions == 2


def test_a_cut_through_corners_is_known_as_one_edge_of_each_half() -> None:
    square = _Cell(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), (0, 1, 2, 3))
    for line, ends in (
        ((1, -1, 0), {(0, 0), (1, 1)}),
        ((-1, 2, 0), {(0, 0), (1, 0.5)}),
        ((2, 1, -1), {(0.5, 0), (0, 1)}),
    ):
        normal = np.array(line[:2]) / np.linalg.norm(line[:2])
        distances = square.vertices @ normal + line[2] / np.linalg.norm(line[:2])
        for half in _halves(square, distances.tolist(), 1e-10, number=7):
            following = np.roll(half.vertices, -1, 0)
            (cut,) = (i for i, number in enumerate(half.cuts) if number == 7)
            assert {tuple(half.vertices[cut]), tuple(following[cut])} == ends
            sides = [square.vertices[n] for n in half.cuts if n != 7]
            directions = [np.roll(square.vertices, -1, 0)[n] - square.vertices[n] for n in half.cuts if n != 7]
            kept = [i for i, n in enumerate(half.cuts) if n != 7]
            for i, corner, direction in zip(
                kept, sides, directions, strict=True
            ):  # each lies on the side it is said to
                for point in (half.vertices[i], following[i]):
                    assert np.linalg.det(np.stack([point - corner, direction])) == pytest.approx(0)


def test_regions_that_share_a_line_but_no_part_of_it_are_two() -> None:
    class Saddle(nn.Module):
        """Zero on two opposite quadrants, and positive on the others."""

        def forward(self, x: Tensor) -> Tensor:
            F.relu(x)  # cuts along both axes at once
            a, b = x[:, :1], x[:, 1:]
            return F.relu(torch.minimum(a, -b)) + F.relu(torch.minimum(-a, b))

    assert regions(Saddle(), torch.tensor([[-3.0, -2.0], [3.0, -2.0], [-3.0, 4.0]])).num_linear_regions == 6


def test_pooling_in_a_plane() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.MaxPool1d(2), nn.Flatten())
    assert regions(model, TRIANGLE).num_linear_regions == 2


@pytest.mark.parametrize("outputs", [1, 3])
def test_decision_boundary(outputs: int) -> None:
    model = he_initialized(2, 16, 16, outputs)
    segments = torch.from_numpy(decision_boundary(regions(model, 3 * TRIANGLE)))
    assert len(segments) > 3
    origin, directions, _, _ = rectangle_around(3 * TRIANGLE, 0.0)
    for share in (0.1, 0.5, 0.9):
        logits = model(origin + torch.lerp(segments[:, 0], segments[:, 1], share) @ directions)
        top = F.pad(logits, (0, 1)) if outputs == 1 else logits
        first, second = top.sort(descending=True).values[:, :2].T
        torch.testing.assert_close(first, second)
    # All of it: a fine grid changes class only near a segment, as often as the segments say.
    axis = torch.linspace(-3, 3, 400)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    logits = model(grid)
    label = (F.pad(logits, (0, 1)) if outputs == 1 else logits).argmax(1).reshape(400, 400)
    changes = torch.nonzero(label[1:] != label[:-1])
    middle = torch.stack([(axis[changes[:, 0]] + axis[changes[:, 0] + 1]) / 2, axis[changes[:, 1]]], 1)
    basis = directions.T
    along = torch.cat([torch.lerp(segments[:, 0], segments[:, 1], s) for s in torch.linspace(0, 1, 200)])
    distance = torch.cdist((middle - origin) @ basis, along).amin(1)
    assert distance.max() < 0.05


# The metric -------------------------------------------------------------------------------------


def test_segments_join_consecutive_samples() -> None:
    model, x = mlp(4, 30, 3), 3 * torch.randn(6, 4)
    counts = [pieces(model, a, b).num_linear_regions for a, b in itertools.pairwise(x)]
    assert value(LinearRegions(num_segments=3), model, x) == np.mean(counts[:3])
    assert value(LinearRegions(), model, x) == np.mean(counts)
    assert value(LinearRegions(), model, x[:1]) == value(LinearRegions(), model, x[[0, 0]]) == 1
    assert value(LinearRegions(along="plane"), mlp(2, 12, 1), 1e5 * TRIANGLE) == 79


def test_single_precision_networks_are_counted_in_double() -> None:
    model, x = mlp(4, 30, 30, 3), 3 * torch.randn(4, 4)
    model, x = model.float(), x.float()
    single = value(LinearRegions(), model, x)
    assert single == value(LinearRegions(), model.double(), x.double())
    assert single > 10


@pytest.mark.parametrize("along", ["segment", "plane"])
@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Tanh(), "tanh"),
        (nn.GELU(), "gelu"),
        (nn.Softmax(1), "softmax"),
        (nn.LayerNorm(4), "layer_norm"),
        (Iterated(lambda x: x * x, 1), "mul of two activations"),
        (Iterated(lambda x: x * x.sin(), 1), "sin"),
        (Iterated(lambda x: torch.where(x > 0.1, x, -x), 1), "where by comparisons"),
    ],
)
def test_what_is_not_piecewise_linear_is_refused(along: str, layer: nn.Module, name: str) -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), layer, nn.Linear(4, 2)), torch.randn(3, 3)
    with pytest.raises(UnsupportedOperationError, match=f"LinearRegions has no meaning for the operation .*{name}"):
        LinearRegions(along=along).update(model, 5 * x)


@pytest.mark.parametrize("cls", [RegionBoundaryDistance, LocalComplexity, SmoothLocalComplexity])
def test_smooth_activations_have_no_boundaries(cls: type) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(UnsupportedOperationError, match=f"{cls.__name__} has no meaning for the operation 'tanh'.*'1'"):
        cls().update(model, torch.randn(3, 3))
    with pytest.raises(ValueError, match=f"{cls.__name__} needs a network with nonlinearities"):
        cls().update(nn.Linear(3, 2), torch.randn(3, 3))


def test_bad_options() -> None:
    for build, message in (
        (lambda: LinearRegions("line"), 'along must be "segment" or "plane"'),
        (lambda: LinearRegions(num_segments=0), "num_segments must be at least 1"),
        (lambda: LinearRegions(margin=-1), "margin must not be negative"),
        (lambda: LocalComplexity(0), "radius must be positive"),
        (lambda: LocalComplexity(num_directions=0), "num_directions must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(ValueError, match="needs three samples, got 2"):
        LinearRegions("plane").update(mlp(3, 4, 2), torch.randn(2, 3))
    with pytest.raises(ValueError, match="not on a line"):
        LinearRegions("plane").update(mlp(3, 4, 2), torch.arange(9.0).reshape(3, 3))
    with pytest.raises(ValueError, match="must be at most the number of inputs, 3, got 4"):
        LocalComplexity(num_directions=4).update(mlp(3, 4, 2), torch.randn(2, 3))
    with pytest.raises(ValueError, match="RegionBoundaryDistance looks at each of 9 units, more than max_units=8"):
        RegionBoundaryDistance(max_units=8).update(mlp(3, 9, 2), torch.randn(2, 3))


def test_the_figure_shows_every_cell_and_belongs_to_no_window() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()  # others may have left some
    snapshot, metric = Snapshot(mlp(4, 8, 8, 3), torch.randn(5, 4)), LinearRegions("plane")
    metric.update(snapshot)
    figure = metric.figures(snapshot)["linear_regions/picture"]
    polygons, lines, samples = figure.axes[0].collections
    assert len(polygons.get_paths()) == regions_around_samples(snapshot, 0.25).num_activation_regions
    assert len(lines.get_segments()) == len(decision_boundary(regions_around_samples(snapshot, 0.25)))
    assert len(samples.get_offsets()) == 3
    assert plt.get_fignums() == before
    assert LinearRegions().figures(snapshot) == {}


def test_bounds_of_networks() -> None:
    x = torch.randn(3, 2)
    for of in ("any", "serra", "montufar"):
        assert value(RegionBound(of), mlp(2, 4, 4, 3), x) == pytest.approx(math.log(121), rel=1e-12)
    assert value(RegionBound("serra"), mlp(10, 4, 4, 4, 1), torch.randn(1, 10)) == pytest.approx(math.log(1634))
    assert value(RegionBound("montufar"), mlp(10, 4, 4, 4, 1), torch.randn(1, 10)) == pytest.approx(math.log(4096))
    hardtanh = nn.Sequential(nn.Linear(2, 4), nn.Hardtanh(), nn.Linear(4, 1))
    assert value(RegionBound(), hardtanh, x) == pytest.approx(math.log(hyperplane_regions(2, 8)))
    assert value(RegionBound(), nn.Linear(2, 1), x) == value(RegionBound("serra"), nn.Linear(2, 1), x) == 0
    images = torch.randn(1, 2, 8, 8)
    # Two layers of 256 units, and 4 times 16 windows with 6 comparisons each.
    layers = [hyperplane_regions(128, n) for n in (256, 256, 4 * 16 * 6)]
    assert value(RegionBound(), conv_net().eval(), images) == pytest.approx(sum(map(math.log, layers)), rel=1e-9)


def test_sharp_bounds_are_refused_where_they_do_not_hold() -> None:
    for model, x, operation in (
        (conv_net().eval(), torch.randn(1, 2, 8, 8), "add"),
        (Transformed(), torch.randn(1, 3, 4), "add"),
        (nn.Sequential(nn.Linear(2, 4), nn.Hardtanh(), nn.Linear(4, 1)), torch.randn(1, 2), "hardtanh"),
        (nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(1, 2), "tanh"),
        (nn.Sequential(nn.MaxPool1d(2), nn.ReLU()), torch.randn(1, 1, 4), "max_pool1d"),
    ):
        with pytest.raises(
            UnsupportedOperationError, match=f"RegionBound has no meaning for the operation .*{operation}"
        ):
            RegionBound("serra").update(model, x)
    with pytest.raises(ValueError, match="of must be"):
        RegionBound("best")


# Distances and neighbourhoods -------------------------------------------------------------------


def test_no_boundary_is_nearer_than_the_boundary_distance_and_one_is_there() -> None:
    model, x = mlp(3, 8, 8, 2), torch.randn(5, 3)
    distances = RegionBoundaryDistance().per_sample(Snapshot(model, x, chunk_size=2), Context())
    directions = F.normalize(torch.randn(4000, 3), dim=1)

    def codes(points: Tensor) -> Tensor:
        first = model[:1](points)
        return activation_codes(torch.cat([first, model[:3](points)], 1))

    for sample, distance in zip(x, distances, strict=True):
        assert (codes(sample + 0.999 * distance * directions) == codes(sample[None])).all()
        assert (codes(sample + 1.05 * distance * directions) != codes(sample[None])).any()


def test_boundary_distance_of_several_kinks_and_of_none() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Hardtanh())
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[0].bias.fill_(0.0)
    distances = RegionBoundaryDistance().per_sample(Snapshot(model, torch.tensor([[0.0], [0.4], [-2.0]])), Context())
    torch.testing.assert_close(distances, torch.tensor([0.5, 0.1, 1.5]))
    with torch.no_grad():
        model[0].weight.fill_(0.0)
    assert RegionBoundaryDistance().per_sample(Snapshot(model, torch.ones(1, 1)), Context()).isinf().all()


def test_boundary_distance_falls_as_neurons_are_added() -> None:
    """Hanin and Rolnick: inversely proportional to their number, whatever the depth."""
    means = []
    for widths in ([25], [100], [50, 50], [25] * 4, [400]):
        values = []
        for seed in range(8):
            torch.manual_seed(seed)
            metric = RegionBoundaryDistance()
            metric.update(he_initialized(20, *widths, 1), torch.randn(20, 20))
            values.append(metric.compute().item() * sum(widths))
        means.append(np.mean(values))
    assert means == pytest.approx([np.mean(means)] * len(means), rel=0.25)


@pytest.mark.parametrize("num_directions", [None, 1, 3])
@pytest.mark.parametrize("radius", [0.1, 1.0])
def test_local_complexity_of_the_first_layer_in_closed_form(num_directions: int | None, radius: float) -> None:
    model, x = mlp(6, 40, 3), torch.randn(9, 6)
    snapshot, options = Snapshot(model, x), {"num_directions": num_directions}
    context, count = Context(seed=3), num_directions or 6
    noise = torch.randn(6, count, generator=context.generator(), dtype=torch.float64)
    frame = torch.linalg.qr(noise)[0].T
    torch.testing.assert_close(frame @ frame.T, torch.eye(count))
    reach = radius * (model[0].weight @ frame.T).abs().amax(1)
    gap = model[0](x).abs()
    sharp = LocalComplexity(radius, **options).per_sample(snapshot, context)
    assert torch.equal(sharp, (reach > gap).sum(1).double())
    assert sharp.sum() > 0
    smooth = SmoothLocalComplexity(radius, **options).per_sample(snapshot, context)
    torch.testing.assert_close(smooth, (1 - gap / reach).relu().sum(1))


def test_local_complexity_counts_hidden_layers_only_and_every_one() -> None:
    model, x = mlp(4, 6, 5, 3), torch.randn(8, 4)
    huge = LocalComplexity(1e6).per_sample(Snapshot(model, x), Context())
    assert (huge <= 11).all()
    assert huge.amax() > 6
    tiny = LocalComplexity(1e-9).per_sample(Snapshot(model, x), Context())
    assert (tiny == 0).all()
    doubled = nn.Sequential(model[0], nn.Hardtanh(-1e-9, 1e-9))
    torch.testing.assert_close(  # two kinks in the same place: still one unit
        LocalComplexity(0.3).per_sample(Snapshot(doubled, x), Context()),
        LocalComplexity(0.3).per_sample(Snapshot(model[:2], x), Context()),
    )


def test_transitions_on_a_segment_are_the_sign_changes() -> None:
    layer, start, end = nn.Linear(4, 30), torch.randn(4), torch.randn(4)
    points = torch.lerp(start, end, torch.linspace(0, 1, 5000)[:, None])
    codes = activation_codes(layer(points))
    changes = (codes[0] != codes[-1]).sum()
    assert transitions(codes, closed=False) == changes
    assert transitions(codes, closed=True) == 2 * changes


def test_large_networks_are_refused_before_their_regions_take_hours() -> None:
    with pytest.raises(ValueError, match="LinearRegions looks at each of 9 units, more than max_units=8"):
        LinearRegions(max_units=8).update(mlp(3, 9, 2), torch.randn(2, 3))
