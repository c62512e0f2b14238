"""Steps are held below a share of the weights, and are what they were where they are."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_complexity import ComplexityMonitor, metrics
from lightning_complexity.callbacks import UpdateRatioLimit
from tests.test_steps import Module, fit, flat


def _fitted(tmp_path: Path, limit: float, **options: Any) -> tuple[Module, UpdateRatioLimit, ComplexityMonitor]:
    torch.manual_seed(3)
    module, limited = Module(), UpdateRatioLimit(limit)
    monitor = ComplexityMonitor([metrics.UpdateRatio(every=1, per_layer=True)], every_n_steps=1)
    module.configure_callbacks = lambda: [limited]  # type: ignore[method-assign]
    fit(module, tmp_path, monitor, **options)
    return module, limited, monitor


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 1.0}])
def test_no_matrix_changes_by_more_and_the_monitor_sees_that(options: dict[str, Any], tmp_path: Path) -> None:
    _, limited, monitor = _fitted(tmp_path, 0.02, **options)
    ratios = [m.values[f"complexity/update_ratio/net.{i}.weight"] for m in monitor.history[1:] for i in (0, 2)]
    assert max(ratios) == pytest.approx(0.02)
    assert 0 < limited.shortened <= 1
    assert not limited._handles


def test_a_limit_that_is_not_reached_changes_nothing(tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = Module()
    fit(plain, tmp_path, None)
    module, limited, _ = _fitted(tmp_path, 1e6)
    assert torch.equal(flat(plain), flat(module))
    assert limited.shortened == 0


def test_a_step_is_shortened_and_not_turned(tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = Module()
    fit(plain, tmp_path, None, max_steps=1)
    module, _, _ = _fitted(tmp_path, 0.02, max_steps=1)
    start = plain.weights[0][:20]
    update, shortened = flat(plain)[:20] - start, flat(module)[:20] - start
    torch.testing.assert_close(shortened, update * (0.02 * start.norm() / update.norm()))
    assert torch.equal(flat(module)[20:25], flat(plain)[20:25]), "biases are not limited"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_step_whose_norm_is_beyond_half_precision_is_shortened_too(dtype: torch.dtype) -> None:
    layer = nn.Linear(40, 40, bias=False).to(dtype)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    limit = UpdateRatioLimit(0.01)
    limit.on_train_start(SimpleNamespace(optimizers=[optimizer]), layer)  # type: ignore[arg-type]
    before = layer.weight.detach().float()
    gradient = torch.where(torch.rand(40, 40) < 0.5, -3e4, 3e4)  # its norm is 1.2 million
    layer.weight.grad = gradient.to(dtype)
    optimizer.step()
    change = layer.weight.detach().float() - before
    torch.testing.assert_close(change.norm(), 0.01 * before.norm(), rtol=0.05, atol=0)
    assert torch.nn.functional.cosine_similarity(change.flatten(), -gradient.float().flatten(), 0) > 0.95


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf])
def test_the_limit_is_a_positive_number(limit: float) -> None:
    with pytest.raises(ValueError, match="limit must be above 0 and finite"):
        UpdateRatioLimit(limit)


def test_the_share_of_a_resumed_training_is_that_of_the_whole(tmp_path: Path) -> None:
    whole = _fitted(tmp_path / "whole", 0.02, max_steps=6)[1]
    first = _fitted(tmp_path / "first", 0.02, max_steps=3)[1]
    rest = UpdateRatioLimit(0.02)
    rest.load_state_dict(first.state_dict())
    assert rest.shortened == first.shortened
    module = Module()
    module.configure_callbacks = lambda: [rest]  # type: ignore[method-assign]
    fit(module, tmp_path / "rest", None, max_steps=3)
    assert rest.state_dict()["steps"] == whole.state_dict()["steps"] == 2 * first.state_dict()["steps"] > 0
    assert rest.state_dict()["shortened"] >= first.state_dict()["shortened"] > 0


def test_before_training_there_is_no_share() -> None:
    assert math.isnan(UpdateRatioLimit().shortened)
