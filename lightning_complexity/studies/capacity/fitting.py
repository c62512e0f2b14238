"""What is trained to find a capacity, and how far it is from its targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.studies.training.networks import TensorBatches, perceptron
from lightning_complexity.studies.training.optimizers import build_optimizer
from lightning_complexity.studies.training.settings import Setting, Stop

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Fit: TypeAlias = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]
"""Trains on inputs and targets, and gives the model."""

_FOLLOWED = 50  # steps between two looks at the loss on all samples


def fitted(fit: Fit, inputs: Tensor, targets: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """A model, trained with torch's random generator seeded.

    Args:
        fit: Trains.
        inputs: Samples.
        targets: Of these samples.
        seed: Of the generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return fit(inputs, targets)


def share_of_wrong(outputs: Tensor, targets: Tensor) -> float:
    """Share of samples of which another class has the highest output.

    Args:
        outputs: Shape ``(n, classes)``.
        targets: Classes.
    """
    return float((outputs.argmax(1) != targets).double().mean())


def mean_square(outputs: Tensor, targets: Tensor) -> float:
    """Mean square of differences.

    Args:
        outputs: As targets, or with a last dimension of one.
        targets: Numbers.
    """
    if outputs.ndim == targets.ndim + 1 and outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    return float((outputs - targets).square().mean())


class SettingFit:
    """Train a network as a setting says: a ``fit`` for capacities, in memory.

    Whole-number targets are classes, trained with cross-entropy; others with the mean of squares. Training ends when
    the loss on all samples, looked at every 50 steps, is that of ``stop``, with no wrong class if it says so, or after
    its ``max_steps``.

    Args:
        setting: Optimizer, learning rate, batch size and weight decay; and width, depth, dropout and batch
            normalization of the network, if ``make_network`` does not make it.
        stop: When training is over.
        make_network: ``make_network(num_inputs, num_outputs)`` makes a network of yours.
        num_classes: Outputs where targets are classes; one more than the highest of the targets if not given, so that
            small choices of samples may have fewer.

    Example:
        >>> x, y = torch.randn(8, 3), torch.arange(8) % 2
        >>> SettingFit(Setting(width=4, depth=1), Stop(max_steps=3))(x, y)(x).shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        setting: Setting,
        stop: Stop | None = None,
        *,
        make_network: Callable[[int, int], nn.Module] | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.setting, self.stop, self.num_classes = setting, stop or Stop(max_steps=2000), num_classes
        self.make_network = make_network

    def __call__(self, inputs: Tensor, targets: Tensor) -> nn.Module:
        """Train on samples.

        Args:
            inputs: Shape ``(n, d)``, or what ``make_network`` takes.
            targets: Classes or numbers, shape ``(n,)``.

        Raises:
            ValueError: If inputs have other dimensions and there is no ``make_network``.
        """
        setting, is_numbers = self.setting, targets.is_floating_point()
        num_outputs = 1 if is_numbers else self.num_classes or int(targets.max()) + 1
        make_network = self.make_network or self._perceptron
        if self.make_network is None and inputs.ndim != 2:
            raise ValueError(
                f"inputs must have the shape (n, d) for a multilayer perceptron, got {tuple(inputs.shape)}: flatten "
                "them, or give make_network."
            )
        network = make_network(inputs[0].numel(), num_outputs).to(inputs)
        optimizer = build_optimizer(
            setting.optimizer,
            network,
            inputs[:1],
            learning_rate=setting.learning_rate,
            weight_decay=setting.weight_decay,
        )
        y = targets.unsqueeze(1) if is_numbers else targets
        loss_of = F.mse_loss if is_numbers else F.cross_entropy
        batch_size = None if setting.optimizer == "lbfgs" else setting.batch_size

        for step, batch in enumerate(TensorBatches(inputs, y, batch_size, setting.seed)):
            if step >= self.stop.max_steps or (step % _FOLLOWED == 0 and self._is_over(network, inputs, y, loss_of)):
                break
            self._step(network, optimizer, loss_of, *batch)
        return network.eval()

    def _step(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Loss, x: Tensor, y: Tensor) -> None:
        def closure() -> float:
            optimizer.zero_grad()
            loss = loss_of(network(x), y)
            if self.setting.optimizer == "lbfgs" and self.setting.weight_decay:  # which has none of its own
                squares = torch.stack([p.square().sum() for p in network.parameters()])
                loss = loss + 0.5 * self.setting.weight_decay * squares.sum()
            loss.backward()
            return float(loss.detach())

        optimizer.step(closure)

    def _perceptron(self, num_inputs: int, num_outputs: int) -> nn.Module:
        s = self.setting
        sizes = [num_inputs, *[s.width] * s.depth, num_outputs]
        return perceptron(sizes, dropout=s.dropout, batch_norm=s.batch_norm)

    def _is_over(self, network: nn.Module, inputs: Tensor, y: Tensor, loss_of: Loss) -> bool:
        network.eval()
        with torch.no_grad():
            outputs = network(inputs)
        network.train()
        accuracy = None if y.is_floating_point() else 1 - share_of_wrong(outputs, y)
        return self.stop.is_reached(float(loss_of(outputs, y)), accuracy)
