"""Options that must lie in a range."""

from __future__ import annotations


def check_at_least(least: int, **options: float) -> None:
    """Raise an error unless each of the options is so large.

    Raises:
        ValueError: Naming the first that is not.
    """
    for name, value in options.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value!r}.")


def check_share(**options: float) -> None:
    """Raise an error unless each of the options is between 0 and 1, and neither.

    Raises:
        ValueError: Naming the first that is not.
    """
    for name, value in options.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value!r}.")


def check_percentile(percentile: float) -> None:
    """Raise an error unless it is one."""
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be between 0 and 100, got {percentile!r}.")
