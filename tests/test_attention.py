"""Attention against formulas written out, whichever way a network computes it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional import attention_entropy
from lightning_complexity.metrics import AttentionEntropy, LargestAttentionLogit
from lightning_complexity.network import MeasureError, Snapshot
from lightning_complexity.network.attention import attention
from tests.networks import Attending, mlp


def expected(x: Tensor, module: nn.MultiheadAttention, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Entropy and largest logit of each sample, by the formula."""
    heads, dim = module.num_heads, module.head_dim
    q, k, _ = (x @ module.in_proj_weight.mT + module.in_proj_bias).chunk(3, -1)
    q, k = (t.unflatten(-1, (heads, dim)).transpose(1, 2) for t in (q, k))
    logits = q @ k.mT / math.sqrt(dim)
    if mask is not None:
        logits = logits.masked_fill(mask, -torch.inf)
    p = logits.softmax(-1)
    entropy = -torch.where(p > 0, p * p.log(), 0).sum(-1)
    return entropy.flatten(1).mean(1), logits.flatten(1).amax(1)


class ByModule(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x, **self.options)[0]


class ByFunction(ByModule):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.attend.in_proj_weight, self.attend.in_proj_bias).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, **self.options).transpose(1, 2).flatten(2)


class WrittenOut(ByModule):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.attend.in_proj_weight, self.attend.in_proj_bias).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in (q, k, v))
        p = F.dropout(torch.softmax(q @ k.mT / 2**0.5, dim=-1), 0.5, self.training)
        return torch.einsum("bhij,bhjd->bhid", p.to(v.dtype), v).transpose(1, 2).flatten(2)


class TestEveryWay:
    @pytest.mark.parametrize(
        "model",
        [ByModule(), ByModule(need_weights=False), ByFunction(), WrittenOut()],
        ids=["with weights", "without weights", "function", "written out"],
    )
    def test_equals_the_formula(self, model: ByModule) -> None:
        model, x = model.double(), torch.randn(5, 3, 4)
        (found,) = attention(Snapshot(model, x, chunk_size=2))
        entropy, largest = expected(x, model.attend)
        torch.testing.assert_close(found.entropy, entropy.detach())
        torch.testing.assert_close(found.largest_logit, largest.detach())
        assert found.name == ("attend" if type(model) is ByModule else "attention")

    def test_causal(self) -> None:
        model, x = ByFunction(is_causal=True).double(), torch.randn(5, 3, 4)
        (found,) = attention(Snapshot(model, x))
        entropy, largest = expected(x, model.attend, torch.ones(3, 3, dtype=torch.bool).triu(1))
        torch.testing.assert_close(found.entropy, entropy.detach())
        torch.testing.assert_close(found.largest_logit, largest.detach())

    def test_layers_by_module(self) -> None:
        metric = AttentionEntropy(per_layer=True)
        metric.update(Attending(), torch.randn(2, 3, 4))
        assert list(metric.compute()) == ["first", "second.self_attn"]

    def test_a_module_that_attends_twice(self) -> None:
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        metric = LargestAttentionLogit(per_layer=True)
        metric.update(nn.Sequential(layer, layer), torch.randn(2, 3, 4))
        assert list(metric.compute()) == ["0.self_attn", "0.self_attn.1"]


class TestFormula:
    def test_uniform_causal_attention(self) -> None:
        causal = torch.ones(16, 16).tril()
        value = attention_entropy(causal / causal.sum(1, keepdim=True)).mean()
        assert value.item() == pytest.approx(1.916991257, abs=1e-9)
        assert value.item() == pytest.approx(math.lgamma(17) / 16)

    def test_one_key_has_no_entropy(self) -> None:
        assert attention_entropy(torch.eye(3)).tolist() == [0, 0, 0]


class TestRefusals:
    def test_networks_without_attention(self) -> None:
        with pytest.raises(MeasureError, match="needs a network with attention"):
            AttentionEntropy().update(mlp(4, 5, 3), torch.randn(2, 4))

    def test_a_softmax_over_classes_is_none(self) -> None:
        with pytest.raises(MeasureError, match="needs a network with attention"):
            AttentionEntropy().update(nn.Sequential(mlp(4, 5, 3), nn.Softmax(-1)), torch.randn(2, 4))

    def test_a_softmax_before_a_layer_is_none(self) -> None:
        net = nn.Sequential(mlp(4, 5, 3), nn.Softmax(-1), nn.Linear(3, 3, bias=False))
        with pytest.raises(MeasureError, match="needs a network with attention"):
            AttentionEntropy().update(net, torch.randn(2, 5, 4))

    def test_samples_attend_for_themselves(self) -> None:
        class Across(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                rows = x.flatten(1)[None]
                return (torch.softmax(rows[:, :3] @ rows.mT, -1) @ rows)[0]

        with pytest.raises(MeasureError, match="attends from 3 queries, which are no multiple of the 4 samples"):
            AttentionEntropy().update(Across(), torch.randn(4, 2, 2))
