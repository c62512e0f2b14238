"""Small networks of many kinds, each with a batch and a loss: by inputs, outputs, targets, layers and precision."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import mlp


class Kind(NamedTuple):
    """A network with a batch; ``loss`` is ``None`` for the cross-entropy."""

    model: nn.Module
    inputs: Any
    targets: Any
    loss: Callable[[Any, Any], Tensor] | None = None


class Body(nn.Module):
    """Two linear layers, and a function of their outputs and of the inputs."""

    def __init__(self, after: Callable[[Tensor, Any], Any], *, before: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        self.layers = mlp(4, 5, 3)
        self.before, self.after = before, after

    def forward(self, x: Any) -> Any:
        return self.after(self.layers(x if self.before is None else self.before(x)), x)


class Headed(nn.Module):
    """Any module between the inputs and a linear layer."""

    def __init__(self, body: nn.Module, run: Callable[[nn.Module, Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.body, self.head, self.run = body, nn.Linear(width, 3), run

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self.body, x))


class Named(NamedTuple):
    logits: Tensor
    hidden: Tensor


@dataclass
class Data:
    logits: Tensor
    loss: Tensor | None = None


class ModelOutput(OrderedDict[str, Any]):
    """A mapping whose entries are attributes too, as in the transformers library."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(**entries)
        self.__dict__.update(entries)


class Adapter(nn.Module):
    """A linear layer and the product of two matrices of low rank, the second one zero as at the start."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        self.base, self.names = nn.Linear(4, 5).requires_grad_(False), (first, second)
        setattr(self, first, nn.Linear(4, 2, bias=False))
        setattr(self, second, nn.Linear(2, 5, bias=False))
        nn.init.zeros_(getattr(self, second).weight)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (getattr(self, name) for name in self.names)
        return F.relu(self.base(x) + 0.5 * second(first(x)))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return F.relu(self.first(x) + self.second(other))


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape or (6, 4))


def _y(n: int = 6) -> Tensor:
    return torch.arange(n) % 3


def _tokens(n: int = 6) -> Tensor:
    return torch.randint(0, 7, (n, 5))


def _quantized_dynamically() -> Kind:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Kind(torch.ao.quantization.quantize_dynamic(mlp(4, 5, 3).float(), {nn.Linear}), _x().float(), _y())


def _quantized_statically() -> Kind:
    import torch.ao.quantization as quantization

    x = _x().float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stubs = quantization.QuantStub(), quantization.DeQuantStub()
        model = nn.Sequential(stubs[0], *mlp(4, 5, 3), stubs[1]).float().eval()
        model.qconfig = quantization.get_default_qconfig("fbgemm")
        quantization.prepare(model, inplace=True)
        model(x)
        quantization.convert(model, inplace=True)
    return Kind(model, x, _y())


def _normed(dim: int, **options: Any) -> Kind:
    convolution = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[dim]
    norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dim]
    first = convolution(4, 5, *([2] if dim else []))
    layers = first, norm(5, track_running_stats=False, **options), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 2**dim, 3)
    return Kind(nn.Sequential(*layers), _x(6, 4, *[3] * dim), _y())


def _mean(body: nn.Module, x: Tensor) -> Tensor:
    return body(x).mean(1)


def _recurrent(layer: type[nn.RNNBase], **options: Any) -> Kind:
    if options.get("batch_first"):
        return Kind(Headed(layer(4, 5, **options), lambda m, x: m(x)[0][:, -1], 5), _x(6, 7, 4), _y())
    turned = Headed(layer(4, 5, **options), lambda m, x: m(x.transpose(0, 1))[0][-1], 5)
    return Kind(turned, _x(6, 7, 4), _y())


def _of_logits(read: Callable[[Any], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda outputs, targets: F.cross_entropy(read(outputs), targets)


def _outputs(wrap: Callable[[Tensor, Any], Any], read: Callable[[Any], Tensor]) -> Callable[[], Kind]:
    return lambda: Kind(Body(wrap), _x(), _y(), _of_logits(read))


OUTPUTS: dict[str, Callable[[], Kind]] = {
    "a tuple of one": _outputs(lambda z, _: (z,), lambda o: o[0]),
    "a list of one": _outputs(lambda z, _: [z], lambda o: o[0]),
    "a mapping with logits": _outputs(lambda z, x: {"logits": z, "hidden": x}, lambda o: o["logits"]),
    "a mapping of one": _outputs(lambda z, _: {"scores": z}, lambda o: o["scores"]),
    "a named tuple": _outputs(lambda z, x: Named(z, x), lambda o: o.logits),
    "a dataclass": _outputs(lambda z, _: Data(z), lambda o: o.logits),
    "a model output": _outputs(lambda z, x: ModelOutput(logits=z, hidden_states=(x, x)), lambda o: o["logits"]),
    "an object": _outputs(lambda z, _: SimpleNamespace(logits=z), lambda o: o.logits),
    "nested": _outputs(lambda z, _: {"out": [{"scores": z}]}, lambda o: o["out"][0]["scores"]),
    "with an index": _outputs(lambda z, _: (z, z.argmax(1)), lambda o: o[0]),
}
"""Networks that compute ``model.layers(x)`` and return it in something."""

KINDS: dict[str, Callable[[], Kind]] = {
    **OUTPUTS,
    "several tensors": _outputs(lambda z, x: (z, x.sum(1)), lambda o: o[0]),
    "one number": lambda: Kind(Body(lambda z, _: z[:, 0]), _x(), _x(6), F.mse_loss),
    "one column": lambda: Kind(Body(lambda z, _: z[:, :1]), _x(), _x(6, 1), F.mse_loss),
    "several numbers": lambda: Kind(Body(lambda z, _: z), _x(), _x(6, 3), F.mse_loss),
    "labels": lambda: Kind(Body(lambda z, _: z), _x(), (_x(6, 3) > 0).double(), F.binary_cross_entropy_with_logits),
    "truth values": lambda: Kind(
        Body(lambda z, _: z[:, :1]),
        _x(),
        _y() > 0,
        lambda z, t: F.binary_cross_entropy_with_logits(z[:, 0], t.double()),
    ),
    "segmentation": lambda: Kind(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)),
        _x(4, 2, 5, 5),
        _y(100).view(4, 5, 5),
    ),
    "positions": lambda: Kind(
        nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 3, 1)), _x(4, 2, 6), _y(24).view(4, 6)
    ),
    "language": lambda: Kind(
        nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 7)), _tokens(), _tokens()
    ),
    "all ignored": lambda: Kind(mlp(4, 5, 3), _x(), torch.full((6,), -100)),
    "another index ignored": lambda: Kind(mlp(4, 5, 3), _x(), _y(), nn.CrossEntropyLoss(ignore_index=0)),
    "soft labels": lambda: Kind(mlp(4, 5, 3), _x(), _x(6, 3).softmax(1)),
    "targets of another length": lambda: Kind(mlp(4, 5, 3), _x(), _y(5)),
    "targets out of range": lambda: Kind(mlp(4, 5, 3), _x(), torch.arange(6)),
    "short integers": lambda: Kind(mlp(4, 5, 3), _x(), _y().int(), lambda z, t: F.cross_entropy(z, t.long())),
    "targets in a mapping": lambda: Kind(mlp(4, 5, 3), _x(), {"y": _y()}, lambda z, t: F.cross_entropy(z, t["y"])),
    "a loss for each sample": lambda: Kind(mlp(4, 5, 3), _x(), _y(), nn.CrossEntropyLoss(reduction="none")),
    "a scalar": lambda: Kind(Body(lambda z, _: z.mean()), _x(), _y(), lambda z, _: z),
    "another length": lambda: Kind(Body(lambda z, _: z.flatten()), _x(), _y(), lambda z, _: z.square().mean()),
    "twice as long": lambda: Kind(
        Body(lambda z, _: torch.cat([z, z])), _x(), _y(), lambda z, t: F.cross_entropy(z, torch.cat([t, t]))
    ),
    "nothing": lambda: Kind(Body(lambda *_: None), _x(), _y()),
    "indices": lambda: Kind(Body(lambda z, _: z.argmax(1)), _x(), _y(), lambda z, t: (z == t).double().mean()),
    "complex outputs": lambda: Kind(
        Body(lambda z, _: torch.fft.fft(z)), _x(), _y(), lambda z, t: F.cross_entropy(z.abs(), t)
    ),
    "detached": lambda: Kind(Body(lambda z, _: z.detach()), _x(), _y()),
    "a mapping in": lambda: Kind(
        Body(lambda z, _: z, before=lambda x: x["x"] * x["mask"]), {"x": _x(), "mask": torch.ones(6, 1)}, _y()
    ),
    "a tuple in": lambda: Kind(Body(lambda z, _: z, before=lambda x: x[0] + x[1]), (_x(), _x()), _y()),
    "a list in": lambda: Kind(Body(lambda z, _: z, before=lambda x: x[0] + x[1]), [_x(), _x()], _y()),
    "truth values in": lambda: Kind(Body(lambda z, _: z, before=lambda x: x.double()), _x() > 0, _y()),
    "one sample": lambda: Kind(mlp(4, 5, 3), _x(1, 4), _y(1)),
    "not contiguous": lambda: Kind(mlp(4, 5, 3), _x(4, 6).T, _y()),
    "half inputs": lambda: Kind(mlp(4, 5, 3).float(), _x().half(), _y()),
    "all half": lambda: Kind(
        Body(lambda z, _: z, before=lambda x: x.half()).half(),
        _x().float(),
        _y(),
        lambda z, t: F.cross_entropy(z.float(), t),
    ),
    "all bfloat16": lambda: Kind(mlp(4, 5, 3).bfloat16(), _x().bfloat16(), _y()),
    "a half body": lambda: Kind(_half_body(), _x().float(), _y()),
    "single inside": lambda: Kind(
        Body(lambda z, _: z, before=lambda x: x.float()).float(),
        _x().double(),
        _y(),
        lambda z, t: F.cross_entropy(z, t),
    ),
    "sparse embedding": lambda: Kind(Headed(nn.Embedding(7, 4, sparse=True), _mean, 4), _tokens(), _y()),
    "bag": lambda: Kind(Headed(nn.EmbeddingBag(7, 4), lambda m, x: F.relu(m(x)), 4), _tokens(), _y()),
    "sparse bag": lambda: Kind(
        Headed(nn.EmbeddingBag(7, 4, mode="sum", sparse=True), lambda m, x: F.relu(m(x)), 4), _tokens(), _y()
    ),
    "largest of a bag": lambda: Kind(Headed(nn.EmbeddingBag(7, 4, mode="max"), lambda m, x: m(x), 4), _tokens(), _y()),
    "quantized dynamically": _quantized_dynamically,
    "quantized statically": _quantized_statically,
    "adapter A and B": lambda: Kind(nn.Sequential(Adapter("lora_A", "lora_B"), nn.Linear(5, 3)), _x(), _y()),
    "adapter down and up": lambda: Kind(nn.Sequential(Adapter("down", "up"), nn.Linear(5, 3)), _x(), _y()),
    "recurrent": lambda: _recurrent(nn.LSTM, batch_first=True),
    "recurrent, turned": lambda: _recurrent(nn.GRU),
    "recurrent, time first": lambda: Kind(Headed(nn.LSTM(4, 5), lambda m, x: m(x)[0][:, -1], 5), _x(6, 7, 4), _y()),
    "transformer": lambda: Kind(
        Headed(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), _mean, 4), _x(6, 7, 4), _y()
    ),
    "transformer, turned": lambda: Kind(
        Headed(nn.TransformerEncoderLayer(4, 2, 8), lambda m, x: m(x.transpose(0, 1)).mean(0), 4), _x(6, 7, 4), _y()
    ),
    "transformer, time first": lambda: Kind(Headed(nn.TransformerEncoderLayer(4, 2, 8), _mean, 4), _x(6, 7, 4), _y()),
    "statistics of the batch": lambda: _normed(0),
    "statistics of a batch of images": lambda: _normed(2),
    "statistics of a batch of volumes": lambda: _normed(3, affine=False),
    "by keyword": lambda: Kind(Headed(nn.Linear(4, 5), lambda m, x: F.relu(m(input=x)), 5), _x(), _y()),
    "two inputs": lambda: Kind(Headed(TwoInputs(), lambda m, x: m(x, other=x * x), 5), _x(), _y()),
    "bilinear": lambda: Kind(Headed(nn.Bilinear(4, 4, 5), lambda m, x: F.relu(m(x, x)), 5), _x(), _y()),
    "complex weights": lambda: Kind(_Magnitudes(), _x(), _y()),
    "without parameters": lambda: Kind(nn.Softmax(1), _x(6, 3), _y()),
    "frozen": lambda: Kind(mlp(4, 5, 3).requires_grad_(False), _x(), _y()),
    "linear": lambda: Kind(nn.Linear(4, 3), _x(), _y()),
    "smooth": lambda: Kind(nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)), _x(), _y()),
}


class _Magnitudes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3, dtype=torch.complex128)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(torch.complex128)).abs()


def _half_body() -> nn.Module:
    model = Headed(nn.Linear(4, 5), lambda m, x: F.relu(m(x.bfloat16())).float(), 5).float()
    model.body.bfloat16()
    return model
