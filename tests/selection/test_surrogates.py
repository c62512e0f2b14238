"""Surrogates: the linear ones are scikit-learn's, the neural ones what is published."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.preprocessing import PolynomialFeatures

from lightning_complexity.selection.samplers import surrogates
from lightning_complexity.selection.samplers.surrogates import (
    SURROGATES,
    KernelRidgeSurrogate,
    NeuralSurrogate,
    RidgeSurrogate,
)
from lightning_complexity.selection.spaces.base import Structure
from lightning_complexity.selection.spaces.cells import CellSpace
from lightning_complexity.selection.spaces.dense import DenseSpace, Layer

SPACE = DenseSpace(3, (2, 4, 8, 16), ("relu", "tanh"))
LEVELS = [SPACE.first()]
LEVELS.append([child for structure in LEVELS[0] for child in SPACE.expand(structure)])
LEVELS.append([child for structure in LEVELS[1][::5] for child in SPACE.expand(structure)])


def truth(structures: list[Structure]) -> np.ndarray:
    """Something that layers add to."""
    return np.array([sum(np.log2(u) + (a == "tanh") for u, a, _ in s) for s in structures])


def features(structures: list[Structure]) -> np.ndarray:
    return np.stack([SPACE.features(structure) for structure in structures])


@pytest.mark.parametrize("pairs", [False, True])
def test_ridge_is_that_of_scikit_learn(pairs: bool) -> None:
    known, others = LEVELS[1][::3], LEVELS[2]
    expand = PolynomialFeatures(interaction_only=True, include_bias=False).fit_transform if pairs else np.asarray
    model = Ridge(alpha=0.7).fit(expand(features(known)), truth(known))
    predict = RidgeSurrogate(0.7, pairs=pairs).fit(SPACE, known, truth(known), 0)
    np.testing.assert_allclose(predict(others), model.predict(expand(features(others))), rtol=1e-8)


def test_kernel_ridge_is_that_of_scikit_learn() -> None:
    known, others = LEVELS[1][::3], LEVELS[2]
    x, y = features(known), truth(known)
    distances = ((x[:, None] - x) ** 2).sum(-1)
    model = KernelRidge(alpha=0.3, kernel="rbf", gamma=1 / np.median(distances[~np.eye(len(x), dtype=bool)]))
    model.fit(x, y - y.mean())
    predict = KernelRidgeSurrogate(0.3).fit(SPACE, known, y, 0)
    np.testing.assert_allclose(predict(others), model.predict(features(others)) + y.mean(), rtol=1e-8)


def test_kernel_ridge_of_one_point_is_its_mean() -> None:
    structure = LEVELS[0][0]
    predict = KernelRidgeSurrogate().fit(SPACE, [structure] * 2, np.array([1.0, 3.0]), 0)
    assert predict([structure]) == pytest.approx([2.0])


@pytest.mark.parametrize("name", SURROGATES)
def test_a_sum_over_layers_is_learned_and_predicted_one_level_up(name: str) -> None:
    known = [*LEVELS[0], *LEVELS[1]]
    predict = SURROGATES[name]().fit(SPACE, known, truth(known), 0)
    held_out = LEVELS[2]
    assert spearmanr(predict(known), truth(known)).statistic > 0.95
    # The linear ones have seen nothing of the third place.
    assert spearmanr(predict(held_out), truth(held_out)).statistic > (0.6 if "ridge" in name else 0.85)
    assert predict([]).shape == (0,)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_seed_decides_and_torch_is_left_as_it_was(kind: str) -> None:
    state = torch.get_rng_state()
    known, others = LEVELS[0], LEVELS[1]
    with torch.no_grad():
        first, again, other = (
            NeuralSurrogate(kind, steps=3).fit(SPACE, known, truth(known), seed)(others) for seed in (0, 0, 1)
        )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_prediction_does_not_depend_on_what_else_is_asked(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter structures are filled up."""
    known, others = LEVELS[1][::2], [LEVELS[0][3], LEVELS[2][5], LEVELS[1][7]]
    predict = NeuralSurrogate(kind, steps=5).fit(SPACE, known, truth(known), 0)
    together = predict(others)
    np.testing.assert_allclose(together, np.concatenate([predict([one]) for one in others]), rtol=1e-5)
    monkeypatch.setattr(surrogates, "_CHUNK", 2)
    np.testing.assert_allclose(predict(others), together, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_the_loss_is_that_of_medians(kind: str) -> None:
    structure = (Layer(4),)
    targets = np.array([0.0] * 15 + [10.0] * 5)
    predict = NeuralSurrogate(kind, hidden=8, members=1, steps=200).fit(SPACE, [structure] * 20, targets, 0)
    assert abs(predict([structure])[0]) < 0.5  # squares would give 2.5


def test_five_members_each_on_four_fifths(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Structure]] = []
    train = NeuralSurrogate._train

    def watched(self: NeuralSurrogate, space: DenseSpace, structures: list[Structure], targets: torch.Tensor) -> object:
        seen.append(structures)
        np.testing.assert_allclose(targets.numpy(), ((truth(structures) - y.mean()) / y.std()), rtol=1e-5, atol=1e-6)
        return train(self, space, structures, targets)

    monkeypatch.setattr(NeuralSurrogate, "_train", watched)
    known = LEVELS[1][:20]
    y = truth(known)
    NeuralSurrogate("mlp", steps=1).fit(SPACE, known, y, 0)
    assert [len(part) for part in seen] == [16] * 5
    left_out = [set(known) - set(part) for part in seen]
    assert set.union(*left_out) == set(known)
    seen.clear()
    y = truth(known[:4])
    NeuralSurrogate("mlp", steps=1).fit(SPACE, known[:4], y, 0)
    assert [len(part) for part in seen] == [4] * 5


def test_an_average_over_blocks_keeps_what_is_in_a_block_together() -> None:
    """Two cells with the same tokens, put together in other blocks, are not the same to the MLP."""
    space = CellSpace(2, ("identity", "conv_3x3"))
    first = space.read(_two_blocks("identity", "conv_3x3", "identity", "conv_3x3"))
    second = space.read(_two_blocks("identity", "identity", "conv_3x3", "conv_3x3"))
    assert sorted(space.tokens(first)) == sorted(space.tokens(second))
    known = space.first()
    predict = NeuralSurrogate("mlp", steps=3).fit(space, known, np.arange(float(len(known))), 0)
    one, other = predict([first, second])
    assert one != pytest.approx(other, rel=1e-4)


def _two_blocks(*operations: str) -> dict[str, object]:
    names = [f"operation_{block}_{half}" for block in range(2) for half in (1, 2)]
    inputs = {f"input_{block}_{half}": -1 for block in range(2) for half in (1, 2)}
    return {"blocks": 2, **inputs, **dict(zip(names, operations, strict=True))}


def test_what_makes_no_sense_is_said() -> None:
    with pytest.raises(ValueError, match="strength must be positive, got 0"):
        RidgeSurrogate(0)
    with pytest.raises(ValueError, match="strength must be positive, got nan"):
        KernelRidgeSurrogate(float("nan"))
    with pytest.raises(ValueError, match="kind must be 'mlp' or 'lstm', got 'gru'"):
        NeuralSurrogate("gru")
    with pytest.raises(ValueError, match="steps must be positive"):
        NeuralSurrogate("mlp", steps=0)
