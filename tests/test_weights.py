"""Which weights are read, and how BatchNorm is folded into them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_complexity.network import Snapshot, layer_norms, predictions, read_weights, spectra, weight_matrices
from lightning_complexity.network.weights.matrices import low_rank_adapters, quantized_layers
from lightning_complexity.regularizers import StableRank as StableRankPenalty
from tests.networks import conv_net, randomize_batch_norm


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {w.name: tuple(w.blocks.shape) for w in read_weights(model)}


def test_layers_by_type() -> None:
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(3, 2),
            "conv1d": nn.Conv1d(2, 4, 3),
            "conv2d": nn.Conv2d(4, 6, 3, groups=2),
            "conv3d": nn.Conv3d(1, 2, 2),
            "up": nn.ConvTranspose2d(4, 6, 3, groups=2),
            "embedding": nn.Embedding(7, 5),
            "bag": nn.EmbeddingBag(6, 5),
            "norm": nn.LayerNorm(3),
            "bn": nn.BatchNorm2d(3),
        }
    )
    assert shapes(model) == {
        "linear.weight": (1, 2, 3),
        "conv1d.weight": (1, 4, 6),
        "conv2d.weight": (2, 3, 18),
        "conv3d.weight": (1, 2, 8),
        "up.weight": (2, 2, 27),
        "embedding.weight": (1, 7, 5),
        "bag.weight": (1, 6, 5),
    }


def test_attention_is_split_into_query_key_and_value() -> None:
    packed, separate = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
    assert shapes(packed) == {
        **{f"in_proj_weight.{part}": (1, 4, 4) for part in "qkv"},
        "out_proj.weight": (1, 4, 4),
    }
    torch.testing.assert_close(read_weights(packed)[1].tensor, packed.in_proj_weight[4:8])
    assert shapes(separate) == {
        "q_proj_weight": (1, 4, 4),
        "k_proj_weight": (1, 4, 3),
        "v_proj_weight": (1, 4, 5),
        "out_proj.weight": (1, 4, 4),
    }


def test_recurrent_layers_are_split_into_gates() -> None:
    assert shapes(nn.LSTM(3, 2)) == {
        f"weight_{part}_l0.{g}": (1, 2, n) for part, n in (("ih", 3), ("hh", 2)) for g in range(4)
    }
    assert len(shapes(nn.GRU(3, 2, num_layers=2, bidirectional=True))) == 2 * 2 * 2 * 3
    assert shapes(nn.LSTM(3, 4, proj_size=2))["weight_hr_l0"] == (1, 2, 4)


def test_tied_weights_count_once() -> None:
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7, bias=False))
    model[1].weight = model[0].weight
    assert list(shapes(model)) == ["0.weight"]
    assert [w.name for w in weight_matrices(Snapshot(model))] == ["0.weight"]
    shared = nn.Linear(2, 2)
    assert list(shapes(nn.Sequential(shared, nn.ReLU(), shared))) == ["0.weight"]


def test_groups_are_block_diagonal() -> None:
    conv = nn.Conv2d(4, 6, 1, groups=2, bias=False)
    dense = torch.block_diag(*conv.weight.flatten(1).chunk(2)).detach()
    torch.testing.assert_close(
        spectra(Snapshot(conv))["weight"].sort().values, torch.linalg.svdvals(dense).sort().values[-4:]
    )


@pytest.mark.parametrize("parametrize", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weight_is_the_one_in_use(parametrize: object) -> None:
    layer = parametrize(nn.Linear(4, 3))
    layer.eval()
    torch.testing.assert_close(weight_matrices(Snapshot(layer))[0].tensor, layer.weight.detach())


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("hooked", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
def test_weight_that_a_hook_sets_is_that_of_the_next_forward_pass(hooked: Callable[..., nn.Module]) -> None:
    layer, x = hooked(nn.Linear(4, 3)), torch.randn(2, 4)
    layer(x).sum().backward()
    attribute, stale = layer.weight, layer.weight.detach().clone()
    with torch.no_grad():
        next(layer.parameters()).mul_(3)
        dict(layer.named_parameters())["weight_g" if hasattr(layer, "weight_g") else "weight_orig"].add_(1)
    snapshot = Snapshot(layer, x)
    seen = weight_matrices(snapshot)[0].tensor
    torch.testing.assert_close(predictions(snapshot), F.linear(x, seen, layer.bias.detach()))
    assert not torch.allclose(seen, stale)
    assert layer.weight is attribute
    StableRankPenalty(1.0)(layer).backward()
    StableRankPenalty(1.0)(layer).backward()


def test_reading_a_spectral_norm_layer_in_training_mode_leaves_its_buffers() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(4, 3)).train()
    before = {n: b.clone() for n, b in layer.named_buffers()}
    layer_norms(Snapshot(layer))
    layer_norms(Snapshot(layer, differentiable=True))
    assert all(torch.equal(b, before[n]) for n, b in layer.named_buffers())


# Folding ----------------------------------------------------------------------------------------


def test_folding_preserves_the_function() -> None:
    model = conv_net().eval()
    x = torch.randn(2, 2, 8, 8)
    folded = {w.name: w for w in weight_matrices(Snapshot(model, x), folded=True)}
    zero = torch.zeros_like(x)

    def linear_part(conv: nn.Conv2d, norm: nn.BatchNorm2d, v: Tensor) -> Tensor:
        return norm(conv(v)) - norm(conv(torch.zeros_like(v)))

    torch.testing.assert_close(
        F.conv2d(x, folded["first.weight"].tensor, padding=1), linear_part(model.first, model.norm, x)
    )
    hidden = model.first(zero + 1)
    torch.testing.assert_close(
        F.conv2d(hidden, folded["second.weight"].tensor, padding=1, groups=2),
        linear_part(model.second, model.second_norm, hidden),
    )
    torch.testing.assert_close(folded["head.weight"].tensor, model.head.weight.detach())
    for w in folded.values():
        torch.testing.assert_close(w.blocks.flatten(), w.tensor.flatten())


def test_folding_into_a_parametrized_layer() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 3)), nn.BatchNorm1d(3, eps=0.0))
    nn.init.constant_(model[1].weight, 2.0)
    (weight,) = weight_matrices(Snapshot(model, torch.randn(1, 2)), folded=True)
    torch.testing.assert_close(weight.tensor, 2 * model[0].weight.detach())


@pytest.mark.parametrize("groups", [1, 2])
def test_folding_into_a_transposed_convolution(groups: int) -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False), nn.BatchNorm2d(6)).eval()
    randomize_batch_norm(model)
    x = torch.randn(1, 4, 5, 5)
    (weight,) = weight_matrices(Snapshot(model, x), folded=True)
    expected = model(x) - model(torch.zeros_like(x))
    torch.testing.assert_close(F.conv_transpose2d(x, weight.tensor, groups=groups), expected)
    torch.testing.assert_close(weight.blocks.flatten(), weight.tensor.flatten())


class MisleadingNames(nn.Module):
    """BatchNorm under the name of a convolution, registered before the layer it follows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.BatchNorm1d(3)
        self.bn = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(x))


class NormalizedBefore(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.relu(self.norm(x)))


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        return hidden + self.norm(hidden)


class TwoNorms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.first, self.second = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.layer(F.relu(self.first(self.layer(x)))))


@pytest.mark.parametrize(
    ("model", "is_folded"), [(MisleadingNames, True), (NormalizedBefore, False), (UsedTwice, False), (TwoNorms, False)]
)
def test_folding_follows_the_data(model: type[nn.Module], is_folded: bool) -> None:
    network = model()
    randomize_batch_norm(network)
    snapshot = Snapshot(network, torch.randn(3, 2))
    (plain,), (folded,) = weight_matrices(snapshot), weight_matrices(snapshot, folded=True)
    assert torch.equal(plain.tensor, folded.tensor) != is_folded


def test_a_network_without_weights_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a network with weight matrices"):
        weight_matrices(Snapshot(nn.ReLU()))


def test_a_lazy_network_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'weight' has no shape yet; call the model once"):
        Snapshot(nn.LazyLinear(3))


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        randomize_batch_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(input=self.norm(input=self.conv(input=x)))


def test_folding_follows_calls_by_keyword() -> None:
    model, x = ByKeyword().eval(), torch.randn(1, 1, 5, 5)
    (weight,) = weight_matrices(Snapshot(model, x), folded=True)
    factor = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    torch.testing.assert_close(weight.tensor, model.conv.weight * factor[:, None, None, None])


def test_quantized_layers_are_found() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).float()
    assert quantized_layers(model) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert quantized_layers(quantized) == ["0", "2"]
    integers = nn.Sequential(nn.Linear(4, 2))
    integers[0].weight = nn.Parameter(torch.ones(2, 4, dtype=torch.int8), requires_grad=False)
    assert quantized_layers(integers) == ["0"]
    integers.register_parameter("steps", nn.Parameter(torch.ones(2, dtype=torch.long), requires_grad=False))
    integers[0] = nn.Linear(4, 2)
    assert quantized_layers(integers) == [], "an integer parameter is no quantized weight"


class Packed(Tensor):
    """A tensor of floating-point numbers that keeps integers, as quantization libraries have them."""

    @staticmethod
    def __new__(cls, integers: Tensor) -> Packed:
        return Tensor._make_wrapper_subclass(cls, integers.shape, dtype=torch.float64)

    def __init__(self, integers: Tensor) -> None:
        self.integers = integers

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["integers"], None

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: object, types: object, args: tuple = (), kwargs: object = None) -> Tensor:
        return cls(args[0].integers)  # detach


def test_a_tensor_that_keeps_integers_is_quantized() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    integers = Packed(torch.ones(2, 4, dtype=torch.int8))
    model[0]._parameters["weight"] = integers
    assert quantized_layers(model) == ["0"]
    integers.integers = torch.ones(2, 4)
    assert quantized_layers(model) == []


def adapter(base: nn.Module, **factors: nn.Module) -> nn.Module:
    module = nn.Module()
    module.base = base
    for name, factor in factors.items():
        module.add_module(name, factor)
    return module


def thin(first: int, second: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(first, second, bias=bias)


def test_low_rank_adapters_are_found() -> None:
    plain = adapter(nn.Linear(16, 12), A=thin(16, 2), B=thin(2, 12))
    peft = adapter(nn.Linear(16, 12), lora_A=nn.ModuleDict({"default": thin(16, 2)}),
                   lora_B=nn.ModuleDict({"default": thin(2, 12)}), lora_dropout=nn.ModuleDict())  # fmt: skip
    own = nn.Linear(16, 12)
    own.lora_A, own.lora_B = nn.Parameter(torch.ones(2, 16)), nn.Parameter(torch.zeros(12, 2))
    assert low_rank_adapters(plain) == [""]
    model = nn.ModuleDict({"a": plain, "b": nn.Sequential(peft), "c": own, "d": nn.Linear(3, 3)})
    assert low_rank_adapters(model) == ["a", "b.0", "c"]


def test_what_is_no_low_rank_adapter() -> None:
    for model in (
        adapter(nn.Linear(16, 16), down=thin(16, 2, bias=True), up=thin(2, 16, bias=True)),
        adapter(thin(16, 16), key=thin(16, 16), value=thin(16, 16)),
        adapter(thin(16, 16), down=thin(16, 4), up=thin(4, 16), out=thin(16, 16)),  # latent attention
        nn.Sequential(thin(16, 16), thin(16, 2), thin(2, 16)),
        nn.MultiheadAttention(8, 2),
        nn.Linear(4, 4),
    ):
        assert low_rank_adapters(model) == []
