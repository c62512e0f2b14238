"""What can keep a measure from being computed on a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class MeasureError(ValueError):
    """A measure has no value on this network, batch or loss; the message says why and what to do."""


class UnsupportedOperationError(MeasureError):
    """The network does something that has no meaning for the measure.

    Attributes:
        operation: Name of the operation, such as ``"softmax"``.
        module: Path of the module that called it, ``""`` for the network itself.
        measure: Name of the measure.
    """

    def __init__(self, operation: str, module: str, measure: str) -> None:
        super().__init__(operation, module, measure)
        self.operation, self.module, self.measure = operation, module, measure

    def __str__(self) -> str:
        """Say which operation, where, for which measure."""
        where = f"module {self.module!r}" if self.module else "the network's own forward"
        return (
            f"{self.measure} has no meaning for the operation {self.operation!r}, called in {where}. "
            "Measure a part of the network without it, or leave this measure out."
        )


class MissingInputError(MeasureError):
    """A measure needs inputs, targets or initial weights that it was not given.

    Attributes:
        lacks: Which of them; none where what was given is of another kind.
    """

    def __init__(self, message: str, lacks: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.lacks = tuple(lacks)


class NetworkError(MeasureError):
    """The network, the loss or a derivative of them raised an error of its own."""


class NothingMeasuredError(MeasureError):
    """A metric was asked for its value before it measured anything."""


class MissingDerivativeError(MeasureError):
    """torch cannot take a derivative that a measure needs.

    Attributes:
        operation: Name of the operation that lacks it.
        order: That of the highest derivative that was needed.
    """

    def __init__(self, operation: str, order: int) -> None:
        super().__init__(operation, order)
        self.operation, self.order = operation, order

    def __str__(self) -> str:
        """Say which derivative of which operation, and what to do."""
        return (
            f"needs derivatives of order {self.order}, but torch has too few of them for the operation "
            f"{self.operation!r}. If outputs were given, leave them out; or replace it in the network by others, "
            "measure a part of the network without it, or leave this measure out."
        )


class OverwrittenError(MeasureError):
    """The network writes in place to what its own derivative needs, so that training would fail as well."""

    def __str__(self) -> str:
        """Say what to do."""
        return (
            "needs a derivative of the network, which overwrites in place what that derivative is computed from; its "
            "own backward pass would fail as well. Use operations that are not in place, such as ReLU(inplace=False)."
        )


_MISSING_DERIVATIVE = re.compile(r"derivative for '?(?:aten::)?(\w+)'? is not implemented|once_differentiable")


@contextmanager
def missing_derivatives_named(order: int) -> Iterator[None]:
    """Turn torch's error at a derivative that it does not have into one that says what to do.

    Args:
        order: That of the highest derivative that is taken inside.

    Raises:
        MissingDerivativeError: Where torch has no derivative of an operation; other errors pass.
        OverwrittenError: Where the network has overwritten what the derivative needs.
    """
    try:
        yield
    except RuntimeError as error:
        named = of_derivative(error, order)
        if named is None:
            raise
        raise named from error


def of_derivative(error: Exception, order: int) -> MeasureError | None:
    """What an error of torch's says of a derivative; ``None`` if it is about something else."""
    if "modified by an inplace operation" in str(error):
        return OverwrittenError()
    found = _MISSING_DERIVATIVE.search(str(error))
    if found is None:
        return None
    operation = (found[1] or "a function marked as once_differentiable").removesuffix("_backward").lstrip("_")
    return MissingDerivativeError(operation, order)


@contextmanager
def errors_of(measure: str, order: int) -> Iterator[None]:
    """Let errors inside name a measure, and be none of torch's or Python's own.

    Args:
        measure: Its name.
        order: Highest derivative of the network that it takes.

    Raises:
        MeasureError: Instead of what neither is one nor an error in values, numbers or imports.
    """
    try:
        yield
    except UnsupportedOperationError as error:
        error.measure = measure
        raise
    except (ValueError, ArithmeticError, ImportError, Warning):
        raise
    except Exception as error:
        of_torch = of_derivative(error, max(order, 1))
        if of_torch is not None:
            raise of_torch from error
        text = " ".join(str(error).split())
        raise MeasureError(
            f"{measure} met something on this network that it does not know: "
            f"{type(error).__name__}: {text[:300]}. Leave it out, or measure a part of the network."
        ) from error
