"""The gradient of each sample, read off one backward pass, against a backward pass of each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_complexity.functional.optimization.sample_gradients import (
    OneByOne,
    Outer,
    Summed,
    inner_products,
    squared_norms,
)
from lightning_complexity.network import MeasureError, Snapshot, gradients
from lightning_complexity.network.per_sample import orders, sample_gradient_products, squared_sample_gradients
from tests.networks import conv_net, mlp

Case = tuple[nn.Module, Tensor, Tensor]
Loss = Callable[[Any, Any], Tensor]


class Function(nn.Module):
    """Some modules, and a function of them and of the inputs."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def _y() -> Tensor:
    return torch.arange(5) % 3


def _image(*layers: nn.Module, size: tuple[int, ...] = (2, 6, 6)) -> Case:
    body = nn.Sequential(*layers, nn.Flatten()).eval()
    x = torch.randn(5, *size)
    return nn.Sequential(body, nn.Linear(body(x).shape[1], 3)), x, _y()


def _encoder(batch_first: bool, length: int) -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        embedded = m.embedding(x) + m.position
        embedded = torch.cat([m.token.expand(len(x), -1, -1), embedded], 1) * m.scale
        if batch_first:
            return m.head(m.layer(embedded).mean(1))
        return m.head(m.layer(embedded.transpose(0, 1)).mean(0))

    parts = {
        "embedding": nn.Embedding(7, 4),
        "position": nn.Parameter(torch.randn(length, 4)),
        "token": nn.Parameter(torch.randn(1, 1, 4)),
        "scale": nn.Parameter(torch.randn(4)),
        "layer": nn.TransformerEncoderLayer(4, 2, 8, batch_first=batch_first, dropout=0.0),
        "head": nn.Linear(4, 3),
    }
    return Function(forward, **parts), torch.randint(0, 7, (5, length)), _y()


def _decoder() -> Case:
    layer = nn.TransformerDecoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    forward = lambda m, x: m.head(m.layer(x, x.flip(1).cos()).mean(1))  # noqa: E731 (one of a table)
    return Function(forward, layer=layer, head=nn.Linear(4, 3)), torch.randn(5, 6, 4), _y()


def _tied(*, twice: bool) -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        hidden = torch.tanh(m.layer(m.embedding(x)))
        hidden = torch.tanh(m.layer(hidden)) if twice else hidden
        return F.linear(hidden, m.embedding.weight).transpose(1, 2)

    x = torch.randint(0, 7, (5, 6))
    return Function(forward, embedding=nn.Embedding(7, 4, padding_idx=0), layer=nn.Linear(4, 4)), x, x.roll(1, 1)


def _recurrent(layer: nn.Module) -> Case:
    forward = lambda m, x: m.head(m.layer(x)[0][:, -1])  # noqa: E731 (one of a table)
    return Function(forward, layer=layer, head=nn.Linear(5, 3)), torch.randn(5, 6, 4), _y()


def _shared_convolution() -> Case:
    forward = lambda m, x: m.head(torch.tanh(m.conv(torch.tanh(m.conv(x)))).flatten(1))  # noqa: E731 (one of a table)
    return (
        Function(forward, conv=nn.Conv2d(2, 2, 3), head=nn.Linear(2 * 5 * 5, 3)),
        torch.randn(5, 2, 9, 9),
        _y(),
    )


def _of_frames() -> Case:
    """A convolution that is given all frames of all samples as images."""
    forward = lambda m, x: m.head(m.conv(x.flatten(0, 1)).unflatten(0, (len(x), -1)).flatten(2).mean(1))  # noqa: E731 (one of a table)
    return Function(forward, conv=nn.Conv2d(2, 3, 2), head=nn.Linear(3 * 9, 3)), torch.randn(5, 4, 2, 4, 4), _y()


def _split() -> Case:
    """A product with each half of a weight, as attention has it for other queries than keys."""

    def forward(m: Any, x: Tensor) -> Tensor:
        first, second = m.weight.chunk(2)
        return F.linear(x, first) + F.linear(x.cos(), second)

    return Function(forward, weight=nn.Parameter(torch.randn(6, 4))), torch.randn(5, 4), _y()


def _transposed_weight() -> Case:
    forward = lambda m, x: torch.addmm(m.bias, x, m.weight) + torch.tanh(x) @ m.weight  # noqa: E731 (one of a table)
    parts = {"bias": nn.Parameter(torch.randn(3)), "weight": nn.Parameter(torch.randn(4, 3))}
    return Function(forward, **parts), torch.randn(5, 4), _y()


def _one_number() -> Case:
    forward = lambda m, x: m.head(x) * m.factor  # noqa: E731 (one of a table)
    return Function(forward, head=nn.Linear(4, 3), factor=nn.Parameter(torch.tensor(2.0))), torch.randn(5, 4), _y()


READ: dict[str, Callable[[], Case]] = {
    "linear": lambda: (mlp(4, 6, 3), torch.randn(5, 4), _y()),
    "convolution": lambda: (conv_net(), torch.randn(5, 2, 8, 8), _y()),
    "strides, dilation, groups": lambda: _image(nn.Conv2d(2, 4, 3, 2, 1), nn.Tanh(), nn.Conv2d(4, 6, 2, 1, 1, 2, 2)),
    "depthwise": lambda: _image(nn.Conv2d(2, 4, 3, groups=2), nn.Tanh(), nn.Conv2d(4, 4, (1, 2), groups=4)),
    "few positions": lambda: _image(nn.Conv2d(2, 8, 3), nn.Tanh(), nn.Conv2d(8, 9, 3), size=(2, 5, 5)),
    "convolution over time": lambda: _image(
        nn.Conv1d(2, 4, 3, padding="same"), nn.Tanh(), nn.Conv1d(4, 8, 2), size=(2, 7)
    ),
    "convolution over volumes": lambda: _image(nn.Conv3d(2, 4, 2), nn.Tanh(), nn.Conv3d(4, 9, 2), size=(2, 3, 3, 3)),
    "transposed convolution": lambda: _image(
        nn.ConvTranspose2d(2, 4, 3, 2, 1, 1), nn.Tanh(), nn.ConvTranspose2d(4, 4, (2, 3), groups=2), size=(2, 3, 3)
    ),
    "transposed convolution, few positions": lambda: _image(
        nn.ConvTranspose2d(2, 8, 3, 2, 1, 1, bias=False), size=(2, 2, 2)
    ),
    "normalizations": lambda: _image(nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm([5, 5])),
    "root mean square": lambda: (
        nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6), nn.Linear(6, 3)),
        torch.randn(5, 4),
        _y(),
    ),
    "encoder": lambda: _encoder(True, 6),
    "encoder, time first": lambda: _encoder(False, 6),
    "encoder, as long as the batch": lambda: _encoder(False, 4),
    "decoder": _decoder,
    "tied embedding": lambda: _tied(twice=False),
    "tied embedding, repeated layer": lambda: _tied(twice=True),
    "long short-term memory": lambda: _recurrent(nn.LSTM(4, 5, batch_first=True)),
    "repeated convolution": _shared_convolution,
    "images of several frames": _of_frames,
    "halves of a weight": _split,
    "a weight as it is": _transposed_weight,
    "one number": _one_number,
}
"""Networks all of whose parameters are read off the backward pass."""

ALONE: dict[str, tuple[Callable[[], Case], set[str]]] = {
    "weight norm": (
        lambda: (nn.Sequential(weight_norm(nn.Linear(4, 6)), nn.Linear(6, 3)), torch.randn(5, 4), _y()),
        {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"},
    ),
    "slope": (lambda: (nn.Sequential(nn.Linear(4, 3), nn.PReLU(3)), torch.randn(5, 4), _y()), {"1.weight"}),
    "a sum of both kinds": (
        lambda: (
            Function(lambda m, x: F.linear(x, m.weight) + m.weight[0].sum(), weight=nn.Parameter(torch.randn(3, 4))),
            torch.randn(5, 4),
            _y(),
        ),
        {"weight"},
    ),
}
"""Networks with parameters that are not."""


def one_by_one(model: nn.Module, x: Tensor, y: Tensor, loss: Loss = F.cross_entropy) -> dict[str, Tensor]:
    """Gradients of each sample, shape ``(n, size)``, by plain backward passes."""
    parameters = dict(model.eval().named_parameters())
    rows: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for i in range(len(x)):
        value = loss(model(x[i : i + 1]), y[i : i + 1])
        found = torch.autograd.grad(value, list(parameters.values()), materialize_grads=True)
        for name, gradient in zip(parameters, found, strict=True):
            rows[name].append(gradient.flatten())
    return {name: torch.stack(of_one) for name, of_one in rows.items()}


def check(snapshot: Snapshot, expected: dict[str, Tensor]) -> None:
    squares, products = squared_sample_gradients(snapshot), sample_gradient_products(snapshot)
    torch.testing.assert_close(squares.values, {name: g.square().sum(1) for name, g in expected.items()})
    torch.testing.assert_close(products.values, {name: g @ g.mean(0) for name, g in expected.items()})
    mean = {name: g.flatten() for name, g in gradients(snapshot).items()}
    torch.testing.assert_close(mean, {name: g.mean(0) for name, g in expected.items()})


@pytest.mark.parametrize("chunk_size", [2, 3, 100])  # with 2 the last chunk is one sample, whose graph is another
@pytest.mark.parametrize("kind", READ)
def test_all_parameters_are_read_off_one_backward_pass(kind: str, chunk_size: int) -> None:
    model, x, y = READ[kind]()
    snapshot = Snapshot(model.eval(), x, y, chunk_size=chunk_size)
    check(snapshot, one_by_one(model, x, y))
    assert not squared_sample_gradients(snapshot).one_by_one


def _ordered(batch_first: bool) -> Callable[[Any, Tensor], Tensor]:
    order, dim = ((0, 1, 2), 1) if batch_first else ((1, 0, 2), 0)  # the same operations, with other options
    turned = lambda h: h.permute(order).clone(memory_format=torch.contiguous_format)  # noqa: E731 (a step of a network)
    return lambda m, x: m.head(torch.tanh(m.layer(turned(torch.tanh(m.first(x))))).mean(dim))


def _five_of_five(batch_first: bool) -> Case:
    parts = {"first": nn.Linear(4, 4), "layer": nn.Linear(4, 6), "head": nn.Linear(6, 3)}
    return Function(_ordered(batch_first), **parts), torch.randn(5, 5, 4), _y()


class TestOrderThatIsKnown:
    """Where a network was measured before, its first sample does not run alone again."""

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_it_is_used_again_for_other_numbers(self, batch_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        model, x, y = _five_of_five(batch_first)
        check(Snapshot(model, x, y), one_by_one(model, x, y))
        monkeypatch.setattr(orders, "single_graphs", lambda _: pytest.fail("the first sample ran alone again"))
        nn.init.normal_(model.layer.weight)
        x = torch.randn_like(x)
        check(Snapshot(model, x, y), one_by_one(model, x, y))

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_it_is_found_anew_where_the_network_runs_otherwise(self, batch_first: bool) -> None:
        model, x, y = _five_of_five(batch_first)
        check(Snapshot(model, x, y), one_by_one(model, x, y))
        model.run = _ordered(not batch_first)
        check(Snapshot(model, x, y), one_by_one(model, x, y))

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_gradients_of_zero_tell_nothing(self, batch_first: bool) -> None:
        model, x, y = _five_of_five(batch_first)
        nn.init.zeros_(model.head.weight)
        check(Snapshot(model, x, y), one_by_one(model, x, y))
        nn.init.normal_(model.head.weight)
        check(Snapshot(model, x, y), one_by_one(model, x, y))

    def test_samples_that_are_moved_by_numbers_are_looked_for_each_time(self) -> None:
        model, x, y = _five_of_five(True)
        order = [0, 1, 2, 3, 4]
        moved = lambda h: h[order] if len(h) > 1 else h  # noqa: E731 (a step of a network)
        model.run = lambda m, x: m.head(torch.tanh(m.layer(moved(torch.tanh(m.first(x))))).mean(1))
        check(Snapshot(model, x, y), one_by_one(model, x, y))
        order[:2] = 1, 0  # outputs are those of other samples
        with pytest.raises(MeasureError, match="another gradient alone"):
            squared_sample_gradients(Snapshot(model, x, y))


@pytest.mark.parametrize("kind", ALONE)
def test_where_that_is_not_known_the_network_runs_on_each_sample_alone(kind: str) -> None:
    make, names = ALONE[kind]
    model, x, y = make()
    snapshot = Snapshot(model.eval(), x, y)
    check(snapshot, one_by_one(model, x, y))
    assert squared_sample_gradients(snapshot).one_by_one == names


def test_any_loss_that_is_a_sum_over_samples() -> None:
    model, x = mlp(4, 6, 3), torch.randn(5, 4)
    targets = torch.randn(5, 3)
    check(Snapshot(model, x, targets, loss=F.mse_loss), one_by_one(model, x, targets, F.mse_loss))
    total = lambda outputs, targets: F.mse_loss(outputs, targets, reduction="sum")  # noqa: E731 (a loss)
    expected = {name: 5 * g for name, g in one_by_one(model, x, targets, total).items()}
    check(Snapshot(model, x, targets, loss=total), expected)


def test_targets_that_are_ignored_have_gradient_zero_and_others_their_share() -> None:
    model, x, y = mlp(4, 6, 3), torch.randn(5, 4), torch.tensor([0, -100, 1, 2, -100])
    kept = y >= 0
    of_kept = one_by_one(model, x[kept], y[kept])
    expected = {name: torch.zeros(5, g.shape[1]) for name, g in of_kept.items()}
    for name, g in of_kept.items():
        expected[name][kept] = 5 / 3 * g
    check(Snapshot(model, x, y), expected)


def test_a_loss_that_takes_batches() -> None:
    model, x, y = mlp(4, 6, 3), torch.randn(5, 4), _y()
    loss = lambda module, batch: F.cross_entropy(module(batch[0]), batch[1])  # noqa: E731 (a loss)
    check(Snapshot(model, x, y, loss=loss), one_by_one(model, x, y))


def test_a_penalty_in_the_loss_belongs_to_every_sample() -> None:
    model, x, y = mlp(4, 6, 3), torch.randn(5, 4), _y()
    loss = lambda module, batch: F.cross_entropy(module(batch[0]), batch[1]) + module[0].weight.square().sum()  # noqa: E731 (one of a table)
    snapshot = Snapshot(model, x, y, loss=loss)
    expected = one_by_one(model, x, y)
    expected["0.weight"] = expected["0.weight"] + 2 * model[0].weight.detach().flatten()
    check(snapshot, expected)
    assert squared_sample_gradients(snapshot).one_by_one == {"0.weight"}


def _contrastive(outputs: Tensor, _: Any) -> Tensor:
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))


@pytest.mark.parametrize("takes_batch", [False, True])
def test_a_loss_that_couples_samples_is_refused(takes_batch: bool) -> None:
    def of_batch(module: nn.Module, batch: Any) -> Tensor:
        return _contrastive(module(batch[0]), None)

    model, x, y = mlp(4, 6, 3), torch.randn(5, 4), _y()
    with pytest.raises(MeasureError, match="needs a loss that is a mean"):
        squared_sample_gradients(Snapshot(model, x, y, loss=of_batch if takes_batch else _contrastive))


def test_normalization_over_the_batch_is_refused() -> None:
    x, y = torch.randn(5, 4), _y()
    layer = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(MeasureError, match="BatchNorm '1' has no running statistics"):
        squared_sample_gradients(Snapshot(layer, x, y))
    own = Function(lambda m, x: F.batch_norm(m.layer(x), None, None, training=True), layer=nn.Linear(4, 3))
    with pytest.raises(MeasureError, match="depends on its own data alone"):
        squared_sample_gradients(Snapshot(own, x, y))


def test_batches_that_cannot_be_cut_are_refused() -> None:
    loss = lambda module, batch: module(batch["x"]).sum()  # noqa: E731 (a loss)
    with pytest.raises(MeasureError, match="cannot be cut into samples"):
        squared_sample_gradients(Snapshot(mlp(4, 3), {"x": torch.randn(5, 4), "names": ["a"] * 5}, loss=loss))


# The formulas ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positions", "rows", "columns"), [(1, 3, 4), (2, 3, 4), (2, 30, 40), (9, 3, 4)])
def test_factors_give_what_the_gradients_give(positions: int, rows: int, columns: int) -> None:
    part = Outer(torch.randn(5, 2, positions, rows), torch.randn(5, 2, positions, columns))
    whole, direction = part.left.mT @ part.right, torch.randn(2 * rows, columns)
    torch.testing.assert_close(squared_norms([part]), whole.square().sum((1, 2, 3)))
    torch.testing.assert_close(squared_norms([part, part]), 4 * whole.square().sum((1, 2, 3)))
    expected = (whole.flatten(1, 2) * direction).sum((1, 2))
    torch.testing.assert_close(inner_products(part, direction), expected)


def test_kinds_that_are_not_put_together() -> None:
    outer = Outer(torch.randn(5, 1, 1, 3), torch.randn(5, 1, 1, 4))
    summed = Summed(torch.randn(5, 3, 4))
    assert squared_norms([outer, summed]) is None
    assert squared_norms([outer, Outer(torch.randn(5, 1, 1, 4), torch.randn(5, 1, 1, 3))]) is None
    assert squared_norms([summed, Summed(torch.randn(5, 4, 3))]) is None
    assert squared_norms([summed, OneByOne(lambda i: summed.gradients[i], 5)]) is None
    with pytest.raises(ValueError, match="at least one part"):
        squared_norms([])
