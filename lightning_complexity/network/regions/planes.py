"""The linear regions of a network in a rectangle of a plane, exactly."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lightning_complexity.network.regions.segments import RESOLUTION, SAME_SLOPE, AffineParts, Restriction, bends

Array = NDArray[np.float64]
_BORDER = -1
MAX_CELLS = 500_000


@dataclass(frozen=True)
class _Cell:
    """A convex polygon; ``cuts[i]`` says which cut made the edge that begins at ``vertices[i]``."""

    vertices: Array
    cuts: tuple[int, ...]


@dataclass(frozen=True)
class PlaneRegions:
    """The linear regions of a network in a rectangle.

    Attributes:
        cells: Convex polygons, each of shape ``(vertices, 2)``, on which no unit bends.
        regions: For each cell the number of the linear region that it is part of, from 0.
        parts: Values of the outputs at the cells' mean vertices, and their slopes.
    """

    cells: list[Array]
    regions: NDArray[np.int32]
    parts: AffineParts

    @property
    def num_linear_regions(self) -> int:
        """How many connected regions there are on each of which the network is one affine map."""
        return int(self.regions.max()) + 1

    @property
    def num_activation_regions(self) -> int:
        """How many cells there are, before those were merged between which the outputs do not bend."""
        return len(self.cells)


def rectangle_around(points: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor, Array]:
    """The plane through three points, and a rectangle in it.

    Args:
        points: Shape ``(3, ...)``.
        margin: How far the rectangle reaches beyond the points on each side, as a share of their extent.

    Returns:
        Origin, the first point; two orthonormal directions, shape ``(2, ...)``; coordinates of the points, shape
        ``(3, 2)``; corners of the rectangle, shape ``(4, 2)``, counter-clockwise.

    Raises:
        ValueError: If the points lie on a line.
    """
    flat = points.double().flatten(1)
    basis, lengths = torch.linalg.qr((flat[1:] - flat[0]).T)
    if lengths.diagonal().abs().min() <= 1e-9 * lengths.abs().max():
        raise ValueError("a plane needs three samples that are not on a line; these are.")
    coordinates = (flat - flat[0]) @ basis
    low, high = coordinates.amin(0), coordinates.amax(0)
    reach = margin * (high - low)
    (left, bottom), (right, top) = (low - reach).tolist(), (high + reach).tolist()
    corners = np.array([(left, bottom), (right, bottom), (right, top), (left, top)])
    return points[0], basis.T.reshape(2, *points.shape[1:]), coordinates, corners


def plane_regions(restriction: Restriction, corners: Array) -> PlaneRegions:
    """Cut a convex polygon wherever the network bends.

    Layer by layer: on the cells that the layers before left, a preactivation is affine, so that its kinks
    are lines. Each cell takes two rows in one forward pass a layer. Lines that coincide are one; at the end
    neighbours with equal slopes are merged, since a unit may bend without the outputs doing so.

    Args:
        restriction: The network along two directions.
        corners: Shape ``(k, 2)``, counter-clockwise.

    Raises:
        UnsupportedOperationError: If the network is not piecewise linear.
        NotFiniteError: If its values are not finite.
        ValueError: If there are more than ``MAX_CELLS`` cells.
    """
    resolution = RESOLUTION * float(np.ptp(corners, axis=0).max())
    cells, numbers = [_Cell(corners, (_BORDER,) * len(corners))], itertools.count()
    for index in range(len(restriction.kinks)):
        cut: list[_Cell] = []
        for cell, lines in zip(cells, _lines(restriction, _centers(cells), index), strict=True):
            cut += _subdivided(cell, lines, resolution, numbers)
            if len(cut) > MAX_CELLS:
                raise ValueError(
                    f"{restriction.measure}: more than {MAX_CELLS} regions in this plane; cut a smaller one."
                )
        cells = cut
    return _merged(restriction, cells, resolution)


def _centers(cells: list[_Cell]) -> Tensor:
    return torch.from_numpy(np.stack([cell.vertices.mean(0) for cell in cells]))


def _lines(restriction: Restriction, centers: Tensor, index: int) -> Iterator[Array]:
    """For each cell the lines on which some unit has a kink: ``(a, b, c)`` with ``a x + b y + c`` the distance."""
    done = 0
    for parts in restriction.layer(centers, index):
        here = centers[done : done + len(parts.values)]
        done += len(here)
        values, slopes, bending = parts.values.cpu(), parts.slopes.cpu(), bends(parts.slopes).cpu()
        sizes = torch.where(bending, torch.linalg.vector_norm(slopes, dim=2), 1.0)
        normals = slopes / sizes[..., None]
        offsets = values / sizes - (normals * here[:, None]).sum(2)
        lines = torch.cat([normals, offsets[..., None]], 2)
        yield from (of_cell[used].numpy() for of_cell, used in zip(lines, bending, strict=True))


def _subdivided(cell: _Cell, lines: Array, resolution: float, numbers: Iterator[int]) -> list[_Cell]:
    """Cut a cell by all lines that pass through it."""
    whole, waiting = [], [(cell, lines)]
    while waiting:
        cell, lines = waiting.pop()
        distances = lines[:, :2] @ cell.vertices.T + lines[:, 2:]
        through = (distances.min(1) < -resolution) & (distances.max(1) > resolution)
        if not through.any():
            whole.append(cell)
            continue
        first = int(through.argmax())
        through[first] = False
        halves = _halves(cell, distances[first].tolist(), resolution, next(numbers))
        waiting += [(half, lines[through]) for half in halves]
    return whole


def _halves(cell: _Cell, distances: list[float], resolution: float, number: int) -> tuple[_Cell, _Cell]:
    """The parts of a cell on the two sides of a line."""
    sides: tuple[list[tuple[Array, int]], list[tuple[Array, int]]] = ([], [])
    vertices, size = cell.vertices, len(distances)
    for i, here in enumerate(distances):
        there = distances[(i + 1) % size]
        for side, sign in zip(sides, (-1, 1), strict=True):
            if sign * here >= -resolution:
                # From a vertex on the line to the other side, the edge that begins here is the cut.
                leaves = sign * here <= resolution and sign * there < -resolution
                side.append((vertices[i], number if leaves else cell.cuts[i]))
        if (here < -resolution and there > resolution) or (here > resolution and there < -resolution):
            crossing = vertices[i] + (vertices[(i + 1) % size] - vertices[i]) * (here / (here - there))
            rises = there > 0
            sides[0].append((crossing, number if rises else cell.cuts[i]))
            sides[1].append((crossing, cell.cuts[i] if rises else number))
    low, high = (_Cell(np.stack([v for v, _ in side]), tuple(cut for _, cut in side)) for side in sides)
    return low, high


def _merged(restriction: Restriction, cells: list[_Cell], resolution: float) -> PlaneRegions:
    centers = _centers(cells)
    parts = restriction.outputs(centers)
    # Off the centre, where a paraboloid could go unnoticed.
    corners = torch.from_numpy(np.stack([cell.vertices[0] for cell in cells]))
    restriction.check_linear(centers, torch.lerp(centers, corners, 0.6), parts)
    slopes = parts.slopes.cpu().flatten(1).numpy()
    first, second = _neighbours(cells, resolution)
    same = (np.abs(slopes[first] - slopes[second]) <= SAME_SLOPE * np.abs(slopes).max()).all(1)
    links = coo_array((np.ones(same.sum()), (first[same], second[same])), shape=(len(cells), len(cells)))
    regions = connected_components(links, directed=False)[1]
    return PlaneRegions([cell.vertices for cell in cells], regions, parts)


def _neighbours(cells: list[_Cell], resolution: float) -> NDArray[np.int64]:
    """Pairs of cells that share more than a point, shape ``(2, pairs)``.

    Whatever lies between two neighbours was made by one cut, so only edges of equal numbers are compared.
    """
    edges = defaultdict(list)
    for number, cell in enumerate(cells):
        for i, cut in enumerate(cell.cuts):
            if cut != _BORDER:
                edges[cut].append((number, cell.vertices[i], cell.vertices[(i + 1) % len(cell.cuts)]))
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for along in edges.values():
        index = np.array([i for i, _, _ in along])
        begin, end = np.stack([b for _, b, _ in along]), np.stack([e for _, _, e in along])
        direction = (end - begin)[np.abs(end - begin).sum(1).argmax()]
        direction = direction / np.linalg.norm(direction)
        low, high = np.sort(np.stack([begin @ direction, end @ direction]), axis=0)
        overlap = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
        pairs.append(index[np.stack(np.nonzero(np.triu(overlap > resolution, 1)))])
    return np.concatenate(pairs, axis=1)


def decision_boundary(regions: PlaneRegions) -> Array:
    """Where the largest output changes; for a single output, where its sign does.

    Args:
        regions: Their outputs are affine on each cell.

    Returns:
        Line segments, shape ``(segments, 2, 2)``: which, which end, which coordinate.
    """
    values, slopes = regions.parts.values.cpu().numpy(), regions.parts.slopes.cpu().numpy()
    if values.shape[1] == 1:
        values, slopes = np.pad(values, ((0, 0), (0, 1))), np.pad(slopes, ((0, 0), (0, 1), (0, 0)))
    found = []
    for vertices, value, slope in zip(regions.cells, values, slopes, strict=True):
        outputs = value + (vertices - vertices.mean(0)) @ slope.T
        if len(set(outputs.argmax(1))) > 1:
            found += _boundary_in_cell(vertices, outputs)
    return np.array(found).reshape(-1, 2, 2)


def _boundary_in_cell(vertices: Array, outputs: Array) -> list[Array]:
    """Segments of a cell on which two outputs are equal and none is larger; ``outputs`` at its vertices."""
    found = []
    following, outputs_there = np.roll(vertices, -1, 0), np.roll(outputs, -1, 0)
    for i, j in itertools.combinations(range(outputs.shape[1]), 2):
        here, there = outputs[:, i] - outputs[:, j], outputs_there[:, i] - outputs_there[:, j]
        crossed = (here > 0) != (there > 0)
        if crossed.sum() != 2:
            continue
        share = (here[crossed] / (here - there)[crossed])[:, None]
        ends = vertices[crossed] + share * (following - vertices)[crossed]
        lead = outputs[crossed] + share * (outputs_there - outputs)[crossed]
        ahead = lead[:, [i]] - np.delete(lead, [i, j], axis=1)
        low, high = _where_positive(ahead[0], ahead[1])
        if low < high:
            found.append(ends[0] + np.array([[low], [high]]) * (ends[1] - ends[0]))
    return found


def _where_positive(first: Array, last: Array) -> tuple[float, float]:
    """The part of ``[0, 1]`` on which all affine functions with these values at 0 and 1 are positive."""
    low, high = 0.0, 1.0
    for a, b in zip(first, last, strict=True):
        if a <= 0 and b <= 0:
            return 0.0, 0.0
        if a < 0:
            low = max(low, a / (a - b))
        elif b < 0:
            high = min(high, a / (a - b))
    return low, high
