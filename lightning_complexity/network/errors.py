"""What can keep a measure from being computed on a network."""

from __future__ import annotations


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
    """A measure needs inputs, targets or initial weights that it was not given."""


class NetworkError(MeasureError):
    """The network, the loss or a derivative of them raised an error of its own."""


class NothingMeasuredError(MeasureError):
    """A metric was asked for its value before it measured anything."""
