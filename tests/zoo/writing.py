"""Networks that write to parameters, inputs, targets and buffers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import mlp
from tests.zoo.base import (
    ZOO,
    Body,
    Specimen,
    classes,
    specimen,
    tokens,
    vectors,
)


@specimen(tokens)
def embedding_with_max_norm() -> nn.Module:
    return nn.Sequential(nn.Embedding(6, 4, max_norm=0.5), nn.Flatten(), nn.Linear(16, 3))


@specimen(tokens)
def embedding_bag_with_max_norm() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(6, 4, max_norm=0.5, mode="sum"), nn.Linear(4, 3))


@specimen(vectors)
class RenormalisedUnderNoGrad(Body):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.head.weight.div_(2 * self.head.weight.norm(dim=1, keepdim=True))
        return super().forward(x)


@specimen(vectors)
class RenormalisedThroughData(Body):
    def forward(self, x: Tensor) -> Tensor:
        self.head.weight.data = F.normalize(self.head.weight.data, dim=1) / 2
        self.first.weight.data.clamp_(-0.2, 0.2)
        return super().forward(x)


@specimen(vectors)
class WritesToInputs(Body):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(x.mean(1, keepdim=True))
        x[:, 0] = 0
        return super().forward(x)


@specimen(vectors)
def first_relu_in_place() -> nn.Module:
    return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))


class WritesToMapping(Body):
    def forward(self, batch: dict[str, Any]) -> Tensor:  # type: ignore[override]
        batch["x"].mul_(0.5)
        batch["more"][0].add_(1)
        batch["new"] = batch.pop("more")
        return super().forward(batch["x"] + batch["new"][0])


ZOO["inputs_in_a_mapping"] = lambda: Specimen(
    WritesToMapping(), {"x": torch.randn(7, 4), "more": [torch.randn(7, 4)]}, classes()
)


def _loss_that_writes(outputs: Tensor, targets: Tensor) -> Tensor:
    targets.clamp_(max=1)
    return F.cross_entropy(outputs.mul_(0.5), targets)


ZOO["loss_writes_to_targets"] = lambda: Specimen(mlp(4, 5, 3), torch.randn(7, 4), classes(), _loss_that_writes)
ZOO["regression"] = lambda: Specimen(mlp(4, 5, 1), torch.randn(7, 4), torch.randn(7, 1), F.mse_loss)


@specimen(vectors)
class BuffersWrittenAndReplaced(Body):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("average", torch.zeros(5))
        self.register_buffer("codebook", torch.randn(5, 5))
        self.register_buffer("last", torch.zeros(1), persistent=False)
        self.register_buffer("later", None)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        self.calls += 1
        self.average.lerp_(h.detach().mean(0), 0.1)
        self.codebook[int(self.calls) % 5] = h.detach()[0]
        self.last = h.detach()
        self.later = h.detach() if self.later is None else self.later + 1
        return self.head(h + 0.1 * self.codebook.mean(0) + self.average)


@specimen(vectors)
class RegistersInForward(Body):
    def forward(self, x: Tensor) -> Tensor:
        if "scale" not in self._buffers:
            self.register_buffer("scale", x.detach().std())
        if not hasattr(self, "lazy"):
            self.lazy = nn.Linear(3, 3, bias=False)
        self.register_forward_hook(lambda *_: None)
        return super().forward(x / self.scale)
