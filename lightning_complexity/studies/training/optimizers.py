"""The optimizers of studies, by name; path-normalised SGD."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_complexity.metrics import PathNorm
from lightning_complexity.network import MeasureError

OptimizerName = Literal["sgd", "momentum", "adam", "rmsprop", "lbfgs", "path_sgd"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
_MOMENTUM = 0.9


def build_optimizer(
    name: OptimizerName,
    network: nn.Module,
    example: Any,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """An optimizer of a network, by its name.

    Args:
        name: ``"sgd"``; ``"momentum"``, SGD with a momentum of 0.9; ``"adam"``; ``"rmsprop"``; ``"lbfgs"`` with strong
            Wolfe line searches, one direction a step, for batches of all samples; ``"path_sgd"``.
        network: What is trained.
        example: One input, as the network takes it; read by ``"path_sgd"`` alone.
        learning_rate: For ``"lbfgs"`` where line searches begin.
        weight_decay: Factor of half the squared norm of the parameters in the loss. ``"lbfgs"`` leaves it to the loss.

    Raises:
        ValueError: At an unknown name.
        MeasureError: For ``"path_sgd"``, if the network is none of those that it is defined for.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    lr, decay = learning_rate, weight_decay
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, weight_decay=decay)
    if name == "momentum":
        return torch.optim.SGD(parameters, lr=lr, momentum=_MOMENTUM, weight_decay=decay)
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=decay)
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=lr, weight_decay=decay)
    if name == "lbfgs":
        return torch.optim.LBFGS(parameters, lr=lr, max_iter=1, max_eval=25, line_search_fn="strong_wolfe")
    if name == "path_sgd":
        check_paths(network, example)
        return PathSGD(parameters, lambda: path_curvatures(network, example), lr=lr, weight_decay=decay)
    raise ValueError(f"there is no optimizer {name!r}; there are {', '.join(OPTIMIZERS)}.")


def path_curvatures(network: nn.Module, example: Tensor) -> dict[Tensor, Tensor]:
    r"""Half the second derivative of the path regularizer for each weight.

    .. math:: \kappa_e = \frac{1}{2} \frac{\partial^2}{\partial w_e^2} \sum_{\text{paths}} \prod_{f \in \text{path}}
        w_f^2 = \sum_{\text{paths through } e} \ \prod_{f \neq e} w_f^2

    The sum is the output of the network with squared weights on an input of ones. Where a weight is shared, as in a
    convolution, it is the derivative of the regularizer for the weight's square, which no longer is half the second.

    Args:
        network: Linear layers or convolutions with ReLU between them.
        example: One input, whose shape alone matters.

    Returns:
        By trained parameter.

    References:
        Neyshabur, Salakhutdinov and Srebro, Path-SGD, NeurIPS 2015.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> for layer, weight in ((net[0], 2.0), (net[2], 3.0)):
        ...     _ = nn.init.constant_(layer.weight, weight)
        >>> list(path_curvatures(net, torch.zeros(1, 1)).values())  # of 2**2 * 3**2
        [tensor([[9.]]), tensor([[4.]])]
    """
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    squares = {name: p.detach().square() for name, p in network.named_parameters()}
    leaves = [squares[name].requires_grad_() for name in trained]
    modes = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.enable_grad():
            total = functional_call(network, squares, (torch.ones_like(example),)).sum()
        derivatives = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    finally:
        for module, mode in modes:
            module.training = mode
    return dict(zip(trained.values(), derivatives, strict=True))


def check_paths(network: nn.Module, example: Tensor) -> None:
    """Raise an error if the network with squared weights does not sum over its paths.

    Raises:
        MeasureError: With what the network has that no sum over paths is known for, or that it is of another kind.
    """
    with torch.no_grad():
        squares = {name: p.square() for name, p in network.named_parameters()}
        mode, _ = network.training, network.eval()
        found = functional_call(network, squares, (torch.ones_like(example),)).sum()
        network.train(mode)
    metric = PathNorm(q=2)
    metric.update(network, torch.ones_like(example))
    expected = 2 * float(metric.report()["log_path_norm"])
    if not math.isclose(float(found.double().log()), expected, rel_tol=1e-4, abs_tol=1e-4):
        raise MeasureError(
            "path_sgd needs a network of linear layers or convolutions with ReLU between them, whose path norm is that "
            "of the network with squared weights; pooling and normalization are not. Choose another optimizer."
        )


class PathSGD(torch.optim.Optimizer):
    r"""Gradient descent in the geometry of paths: gradients are divided by the path regularizer's curvature.

    .. math:: w_e \leftarrow w_e - \frac{\eta}{\kappa_e(w)} \frac{\partial L}{\partial w_e}

    Like the network's function it does not care how weights are scaled between the layers. A weight through which no
    path leads any more, with a curvature of zero, stays as it is.

    Args:
        parameters: What is trained.
        curvatures: Gives them by parameter, for the weights of the moment; see :func:`path_curvatures`.
        lr: The learning rate.
        weight_decay: Factor of half the squared norm of the parameters in the loss.

    References:
        Neyshabur, Salakhutdinov and Srebro, Path-SGD, NeurIPS 2015.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        curvatures: Callable[[], dict[Tensor, Tensor]],
        *,
        lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._curvatures = curvatures

    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        curvatures = self._curvatures()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                        curvature = curvatures[parameter]
                        step = torch.where(curvature > 0, gradient / curvature, 0.0)
                        parameter.add_(step, alpha=-group["lr"])
        return loss
