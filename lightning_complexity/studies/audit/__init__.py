"""How stable the sign and the slope of a measure's trends are."""

from lightning_complexity.studies.audit.grading import Audit, audit

__all__ = ["Audit", "audit"]
