"""What one process measures by itself."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lightning_complexity.callbacks.monitoring.budgeting import Moment
from lightning_complexity.callbacks.monitoring.probes import Probes
from lightning_complexity.callbacks.probe import Probe
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import Snapshot, mean_loss
from lightning_complexity.recording.measuring import FailureReport, Measured, gaps, measure_fit, measure_metrics


def measured_alone(
    metrics: list[ComplexityMetric],
    snapshot_on: Callable[[Probe | None], Snapshot],
    probes: Probes,
    failures: FailureReport,
    moment: Moment,
    *,
    figures: bool,
) -> Measured:
    """Measure metrics, and the losses on both probes.

    Args:
        metrics: To measure.
        snapshot_on: The network on a probe.
        probes: Of training and validation.
        failures: Takes what cannot be computed.
        moment: Says what is measured now.
        figures: Whether to draw pictures.
    """
    measured = Measured()

    def measure_training_probe() -> dict[str, Tensor]:
        nonlocal measured
        snapshot, fit = snapshot_on(probes.train), {}
        if moment.part("probe/train", snapshot):
            with moment.timed("probe/train"):
                fit = measure_fit(snapshot, "train", failures, moment)
        measured = measure_metrics(metrics, snapshot, failures, figures=figures, plan=moment)
        return fit

    def measure_validation_probe() -> dict[str, Tensor]:
        snapshot = snapshot_on(probes.validation)
        if not moment.part("probe/val", snapshot):
            return {}
        with moment.timed("probe/val"):
            found = {**fit, **measure_fit(snapshot, "val", failures, moment)}
            return {**found, **gaps(found, train_loss_as_validated(found))}

    def train_loss_as_validated(found: dict[str, Tensor]) -> Tensor | None:
        """The loss of validation on the training probe, which may be another than that of training."""
        probe = probes.train_as_validated
        if probe is None or "probe/val_loss" not in found:
            return found.get("probe/train_loss")
        judged = failures.attempt("probe/generalization_gap", lambda: {"loss": mean_loss(snapshot_on(probe))})
        return judged.get("loss")

    fit = failures.attempt("the training probe", measure_training_probe)
    if probes.validation is not None:
        fit |= failures.attempt("the validation probe", measure_validation_probe)
    measured.values |= fit
    return measured
