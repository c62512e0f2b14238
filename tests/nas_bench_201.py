"""The networks of NAS-Bench-201 (Dong and Yang, ICLR 2020), built from their cell strings."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TABLE = Path(__file__).parents[2] / "shared" / "data" / "nas" / "nasbench201_mini.csv"
OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
CELLS_IN_A_STAGE = 5


@dataclass(frozen=True)
class Row:
    cell: str
    parameters: int
    macs: int
    """Multiply-accumulates of convolutions and of the linear layer, plus one for each of its ten biases."""


def read_table() -> list[Row]:
    if not TABLE.exists():
        pytest.skip(f"the NAS-Bench-201 table is not beside this checkout: {'/'.join(TABLE.parts[-4:])} is missing")
    with TABLE.open(newline="") as file:
        return [Row(r["cellstr"], int(r["params_c10"]), int(r["conv_flops_c10"])) for r in csv.DictReader(file)]


def edges(cell: str) -> list[list[tuple[str, int]]]:
    """For each node after the first, the operations on the nodes before it.

    >>> edges("|none~0|+|skip_connect~0|nor_conv_1x1~1|")
    [[('none', 0)], [('skip_connect', 0), ('nor_conv_1x1', 1)]]
    """
    return [[(name, int(i)) for name, i in re.findall(r"(\w+)~(\d)", node)] for node in cell.split("+")]


def relu_conv_bn(fan_in: int, fan_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(fan_in, fan_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(fan_out))


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def operation(name: str, channels: int) -> nn.Module:
    if name.startswith("nor_conv"):
        return relu_conv_bn(channels, channels, int(name[-1]))
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return {"none": Nothing, "skip_connect": nn.Identity}[name]()


class Cell(nn.Module):
    def __init__(self, cell: str, channels: int) -> None:
        super().__init__()
        self.sources = [[source for _, source in node] for node in edges(cell)]
        self.nodes = nn.ModuleList(nn.ModuleList(operation(name, channels) for name, _ in node) for node in edges(cell))

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for sources, operations in zip(self.sources, self.nodes, strict=True):
            states.append(sum(op(states[i]) for i, op in zip(sources, operations, strict=True)))
        return states[-1]


class Reduction(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.first = relu_conv_bn(fan_in, fan_out, 3, stride=2)
        self.second = relu_conv_bn(fan_out, fan_out, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(fan_in, fan_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(self.first(x))


class NASBench201(nn.Module):
    """The CIFAR-10 network: five cells each at 16, 32 and 64 channels, residual blocks that halve the image between."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        blocks: list[nn.Module] = []
        for channels in (16, 32, 64):
            if channels > 16:
                blocks.append(Reduction(channels // 2, channels))
            blocks += [Cell(cell, channels) for _ in range(CELLS_IN_A_STAGE)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.blocks(self.stem(x))))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
