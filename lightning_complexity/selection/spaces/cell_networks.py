"""Convolutional networks that are stacks of one cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_complexity.selection.spaces.cells import Block


def _convolution(
    inputs: int, filters: int, kernel: int | tuple[int, int], *, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(inputs, filters, kernel, padding="same", dilation=dilation, groups=groups, bias=False)


def _behind_relu(*layers: nn.Conv2d) -> nn.Module:
    return nn.Sequential(nn.ReLU(), *layers, nn.BatchNorm2d(layers[-1].out_channels))


def _separable(kernel: int) -> Callable[[int], nn.Module]:
    return lambda filters: _behind_relu(
        _convolution(filters, filters, kernel, groups=filters), _convolution(filters, filters, 1)
    )


_BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "separable_3x3": _separable(3),
    "separable_5x5": _separable(5),
    "separable_7x7": _separable(7),
    "conv_1x7_7x1": lambda filters: _behind_relu(
        _convolution(filters, filters, (1, 7)), _convolution(filters, filters, (7, 1))
    ),
    "identity": lambda _: nn.Identity(),
    "average_pool_3x3": lambda _: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    "max_pool_3x3": lambda _: nn.MaxPool2d(3, stride=1, padding=1),
    "dilated_3x3": lambda filters: _behind_relu(_convolution(filters, filters, 3, dilation=2)),
    "conv_1x1": lambda filters: _behind_relu(_convolution(filters, filters, 1)),
    "conv_3x3": lambda filters: _behind_relu(_convolution(filters, filters, 3)),
}


class CellModule(nn.Module):
    """A cell: blocks on the outputs of the last cell and of the one before it.

    Args:
        blocks: Of the cell.
        channels: Of what the cell before the last one gives, and of what the last one gives.
        halvings: How often the image of each is to be halved.
        filters: Of each block.
    """

    def __init__(
        self, blocks: Sequence[Block], channels: tuple[int, int], halvings: tuple[int, int], filters: int
    ) -> None:
        super().__init__()
        self.inputs = [(block.input_1, block.input_2) for block in blocks]
        used = {index for pair in self.inputs for index in pair}
        self.outputs = [index for index in range(len(blocks)) if index not in used]
        self.channels = len(self.outputs) * filters
        self.adapted = nn.ModuleDict(
            {
                str(place): _adapted(channels[place], halvings[place], filters)
                for place in (0, 1)
                if place - 2 in used  # -2 and -1
            }
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(_BUILDERS[name](filters) for name in (block.operation_1, block.operation_2))
            for block in blocks
        )

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """Outputs of the blocks that no other takes."""
        states = {int(place) - 2: adapt((before, last)[int(place)]) for place, adapt in self.adapted.items()}
        for index, ((i, j), operations) in enumerate(zip(self.inputs, self.blocks, strict=True)):
            assert isinstance(operations, nn.ModuleList)
            states[index] = operations[0](states[i]) + operations[1](states[j])
        return torch.cat([states[index] for index in self.outputs], 1)


def _adapted(channels: int, halvings: int, filters: int) -> nn.Module:
    """Brings what another cell gives to the size of this one."""
    pools = [nn.AvgPool2d(2, ceil_mode=True) for _ in range(halvings)]
    return nn.Sequential(nn.ReLU(), *pools, _convolution(channels, filters, 1), nn.BatchNorm2d(filters))


class CellNetwork(nn.Module):
    """Stages of equal cells; between stages there is one that halves the image and doubles the filters.

    Where cells take only the one before the last, every other cell would be in vain, and is left out.

    Args:
        blocks: Of each cell.
        input_channels: Of the images.
        num_outputs: Of the linear layer at the end.
        filters: Of the first stage.
        repeats: Cells in a stage.
        stages: How many.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        input_channels: int,
        num_outputs: int,
        *,
        filters: int,
        repeats: int,
        stages: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(input_channels, filters, 3), nn.BatchNorm2d(filters))
        channels, halved = (filters, filters), (0, 0)  # of the cell before the last one, and of the last one
        cells: list[CellModule] = []
        for stage in range(stages):
            for _ in range(repeats + (stage > 0)):
                halvings = (stage - halved[0], stage - halved[1])
                cells.append(CellModule(blocks, channels, halvings, filters * 2**stage))
                channels, halved = (channels[1], cells[-1].channels), (halved[1], stage)
        self.count = len(cells)
        self.cells = nn.ModuleDict({str(place): cells[place] for place in sorted(_needed(cells))})
        self.head = nn.Linear(channels[1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape ``(n, num_outputs)``, of images of shape ``(n, channels, height, width)``."""
        before = last = self.stem(x)
        for place in range(self.count):
            name = str(place)
            before, last = last, self.cells[name](before, last) if name in self.cells else last
        return self.head(torch.relu(last).mean((2, 3)))


def _needed(cells: Sequence[CellModule]) -> set[int]:
    """The last cell, and those that it takes, and that these take."""
    needed = {len(cells) - 1}
    for place in reversed(range(len(cells))):
        if place in needed:
            needed |= {place - 2 + int(name) for name in cells[place].adapted}
    return {place for place in needed if place >= 0}
