"""One module, parameter or memory in several places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.base import (
    Body,
    specimen,
    vectors,
)


@specimen(vectors)
def shared_in_sequential() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 3))


@specimen(vectors)
class SharedUnderThreeNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.b = self.a
        self.c = nn.ModuleDict({"again": self.a, "inner": self.a[0]})
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c["inner"](self.b(self.a(x))).relu())


@specimen(vectors)
class TiedAcrossModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = nn.Linear(4, 5), nn.Linear(5, 4, bias=False), nn.Linear(4, 3)
        self.decoder.weight = nn.Parameter(torch.randn(4, 5))
        self.mirror = nn.Linear(5, 4)
        self.mirror.weight = self.decoder.weight
        self.list = nn.ParameterList([self.decoder.weight, self.head.bias])

    def forward(self, x: Tensor) -> Tensor:
        x = (
            self.decoder(self.encoder(x).relu())
            + self.mirror(self.encoder(x).relu())
            + x @ self.list[0] @ self.list[0].T
        )
        return F.linear(x, self.head.weight, self.list[1])


@specimen(vectors)
class ReferredToByPython(Body):
    """Lists and dictionaries refer to parameters, and a list hides a module that is registered too."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [self.first.weight, self.head.weight]
        self.by_name = {"first": {"bias": self.first.bias}, "heads": (self.head.bias,)}
        self.modules_seen = [self.head]

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weights[0], self.by_name["first"]["bias"]).relu()
        return F.linear(x, self.modules_seen[0].weight, self.by_name["heads"][0])


@specimen(vectors)
class ViewsOfOneParameter(nn.Module):
    """Attributes that are views of a parameter, taken once."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Parameter(torch.randn(35))
        self.first = self.flat[:20].view(5, 4)
        self.parts = {"head": self.flat[20:].view(3, 5)}

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.first).relu(), self.parts["head"])


@specimen(vectors)
def parameters_of_one_storage() -> nn.Module:
    model, flat = Body(), torch.randn(35)
    model.first.weight = nn.Parameter(flat[:20].view(5, 4))
    model.head.weight = nn.Parameter(flat[20:].view(3, 5))
    return model


@specimen(vectors)
class HiddenModule(Body):
    """A teacher that a list keeps from the parameters; its BatchNorm is in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))]
        self.others = {"memory": nn.Embedding(3, 3, max_norm=0.1)}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.teacher[0](x).detach() + self.others["memory"].weight.mean(0).detach()
