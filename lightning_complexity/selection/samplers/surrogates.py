"""What a structure is expected to reach, learned from those that were tried."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_complexity.selection.spaces.base import ProgressiveSpace, Structure

if TYPE_CHECKING:
    from torch import Tensor, nn

Floats: TypeAlias = NDArray[np.float64]
Prediction: TypeAlias = Callable[[Sequence[Structure]], Floats]
"""A number for each structure, on the scale of the targets."""

_CHUNK = 4096


class Surrogate(ABC):
    """Predicts numbers from structures, and remembers nothing: it is fitted anew at each level."""

    @abstractmethod
    def fit(self, space: ProgressiveSpace, structures: Sequence[Structure], targets: Floats, seed: int) -> Prediction:
        """What predicts the targets of other structures.

        Args:
            space: Of the structures.
            structures: At least two.
            targets: Of each; finite.
            seed: Of what is drawn at random.
        """


class RidgeSurrogate(Surrogate):
    r"""Ridge regression on the features of the space, :math:`\min_w \sum_i (y_i - \bar y - w^\top (x_i - \bar x))^2 + \lambda |w|^2`.

    Args:
        strength: :math:`\lambda`; the intercept is free of it.
        pairs: Whether products of two features are features as well.

    Raises:
        ValueError: If ``strength`` is not positive.
    """  # noqa: E501

    def __init__(self, strength: float = 1.0, *, pairs: bool = False) -> None:
        self.strength, self.pairs = _positive(strength, "strength"), pairs

    def fit(self, space: ProgressiveSpace, structures: Sequence[Structure], targets: Floats, seed: int) -> Prediction:  # noqa: ARG002
        """Solves for the weights."""
        x = self._features(space, structures)
        center, mean = x.mean(0), float(targets.mean())
        x = x - center
        weights = np.linalg.solve(x.T @ x + self.strength * np.eye(x.shape[1]), x.T @ (targets - mean))
        return _in_chunks(lambda others: (self._features(space, others) - center) @ weights + mean)

    def _features(self, space: ProgressiveSpace, structures: Sequence[Structure]) -> Floats:
        x = _features(space, structures)
        if not self.pairs:
            return x
        first, second = np.triu_indices(x.shape[1], 1)
        return np.hstack([x, x[:, first] * x[:, second]])


class KernelRidgeSurrogate(Surrogate):
    r"""Kernel ridge regression on the features of the space, :math:`k(x, x') = \exp(-|x - x'|^2 / w^2)`.

    The width :math:`w^2` is the median of the squared distances that are not 0 among what it is fitted to; 1 if there
    are none.

    Args:
        strength: What is added to the diagonal of the kernel matrix.

    Raises:
        ValueError: If ``strength`` is not positive.
    """

    def __init__(self, strength: float = 0.1) -> None:
        self.strength = _positive(strength, "strength")

    def fit(self, space: ProgressiveSpace, structures: Sequence[Structure], targets: Floats, seed: int) -> Prediction:  # noqa: ARG002
        """Solves for the weights of the structures."""
        x, mean = _features(space, structures), float(targets.mean())
        distances = _squared_distances(x, x)
        apart = distances[distances > 1e-9]
        width = float(np.median(apart)) if len(apart) else 1.0
        kernel = np.exp(-distances / width)
        weights = np.linalg.solve(kernel + self.strength * np.eye(len(x)), targets - mean)
        return _in_chunks(
            lambda others: np.exp(-_squared_distances(_features(space, others), x) / width) @ weights + mean
        )


class NeuralSurrogate(Surrogate):
    """The mean of an ensemble of networks on tokens, each fitted by the L1 loss to all but one of as many folds.

    As published, but for what depends on accuracies: outputs are linear, on targets that are centered and scaled, so
    that they can be anything; and each level fits anew. Adam takes steps of the whole data. With fewer structures than
    members, or with one member, each is fitted to all.

    Args:
        kind: ``"lstm"``, whose last hidden state goes into a linear layer; or ``"mlp"``, of two layers, on embeddings
            that are put together in each block of the structure and averaged over blocks.
        hidden: Units, and numbers in an embedding.
        members: Networks in the ensemble.
        steps: Of each.
        learning_rate: Of each.

    Raises:
        ValueError: If ``kind`` is unknown or a number is not positive.

    References:
        Liu et al., "Progressive Neural Architecture Search", ECCV 2018, arXiv 1712.00559, section 4.2.
    """

    def __init__(
        self,
        kind: Literal["mlp", "lstm"] = "lstm",
        *,
        hidden: int = 100,
        members: int = 5,
        steps: int = 50,
        learning_rate: float = 0.01,
    ) -> None:
        if kind not in ("mlp", "lstm"):
            raise ValueError(f"kind must be 'mlp' or 'lstm', got {kind!r}.")
        self.kind, self.hidden = kind, int(_positive(hidden, "hidden"))
        self.members, self.steps = int(_positive(members, "members")), int(_positive(steps, "steps"))
        self.learning_rate = _positive(learning_rate, "learning_rate")

    def fit(self, space: ProgressiveSpace, structures: Sequence[Structure], targets: Floats, seed: int) -> Prediction:
        """Trains the members; torch's random state is as before."""
        import torch

        mean, scale = float(targets.mean()), float(targets.std()) or 1.0
        y = torch.tensor((targets - mean) / scale, dtype=torch.float32)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            folds = torch.randperm(len(y)) % self.members
            networks = []
            for member in range(self.members):
                kept = (folds != member).nonzero()[:, 0] if 1 < self.members <= len(y) else torch.arange(len(y))
                networks.append(self._train(space, [structures[row] for row in kept.tolist()], y[kept]))

        def predict(others: Sequence[Structure]) -> Floats:
            with torch.no_grad():
                inputs = _token_table(space, others)
                found = torch.stack([network(*inputs) for network in networks]).mean(0)
            return found.double().numpy() * scale + mean

        return _in_chunks(predict)

    def _train(self, space: ProgressiveSpace, structures: Sequence[Structure], targets: Tensor) -> nn.Module:
        import torch

        network = _network(self.kind, space.num_tokens + 1, space.tokens_of_a_block, self.hidden)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        inputs = _token_table(space, structures)
        for _ in range(self.steps):
            optimizer.zero_grad()
            (network(*inputs) - targets).abs().mean().backward()
            optimizer.step()
        return network


SURROGATES: dict[str, Callable[[], Surrogate]] = {
    "ridge": RidgeSurrogate,
    "kernel_ridge": KernelRidgeSurrogate,
    "mlp": lambda: NeuralSurrogate("mlp"),
    "lstm": lambda: NeuralSurrogate("lstm"),
}


def _positive(value: float, name: str) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value!r}.")
    return value


def _features(space: ProgressiveSpace, structures: Sequence[Structure]) -> Floats:
    return np.stack([space.features(structure) for structure in structures])


def _squared_distances(x: Floats, y: Floats) -> Floats:
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.maximum(squares, 0)


def _in_chunks(predict: Prediction) -> Prediction:
    """The same, without a table of all structures at once."""

    def chunked(structures: Sequence[Structure]) -> Floats:
        parts = [predict(structures[begin : begin + _CHUNK]) for begin in range(0, len(structures), _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0)

    return chunked


def _token_table(space: ProgressiveSpace, structures: Sequence[Structure]) -> tuple[Tensor, Tensor]:
    """Tokens of all structures behind a block of starts, filled up with starts; and how many there are in each row."""
    import torch

    start, block = space.num_tokens, space.tokens_of_a_block
    rows = [[start] * block + space.tokens(structure) for structure in structures]
    most = max(map(len, rows))
    table = torch.tensor([row + [start] * (most - len(row)) for row in rows])
    return table, torch.tensor([len(row) for row in rows])


def _network(kind: str, num_tokens: int, block: int, hidden: int) -> nn.Module:
    """A network on what :func:`_token_table` gives."""
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(num_tokens, hidden, dtype=torch.float32)
            self.lstm = nn.LSTM(hidden, hidden, batch_first=True, dtype=torch.float32)
            self.head = nn.Linear(hidden, 1, dtype=torch.float32)

        def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
            states, _ = self.lstm(self.embedding(tokens))
            return self.head(states[torch.arange(len(tokens)), lengths - 1])[:, 0]

    class Averaging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(num_tokens, hidden, dtype=torch.float32)
            self.first = nn.Linear(block * hidden, hidden, dtype=torch.float32)
            self.head = nn.Linear(hidden, 1, dtype=torch.float32)

        def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
            embedded = self.embedding(tokens).unflatten(1, (-1, block)).flatten(2)
            there = torch.arange(embedded.shape[1]) < (lengths // block)[:, None]
            means = (embedded * there[..., None]).sum(1) / there.sum(1, keepdim=True)
            return self.head(torch.relu(self.first(means)))[:, 0]

    return Recurrent() if kind == "lstm" else Averaging()
