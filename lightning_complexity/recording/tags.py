"""Log keys, and the tags that they have in TensorBoard's event files."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

STANDARD_ERROR = "/standard_error"
PARTS, SPREAD = "parts/", "spread/"
_COMPLEXITY = "complexity/"
_LARGEST, _SMALLEST = 2.0**127 * (2 - 2.0**-23), 2.0**-126  # of single precision, with all its digits
_ILLEGAL = re.compile(r"[^A-Za-z0-9_/. -]")


def legal(key: str) -> str:
    """A key in the characters that every logger takes, MLflow's being the fewest; others become ``_``.

    Example:
        >>> legal("complexity/stable_rank/net.a:b.weight")
        'complexity/stable_rank/net.a_b.weight'
    """
    return _ILLEGAL.sub("_", key)


def tag_of_part(key: str) -> str:
    """The tag of a value for a layer, a class or an output, in a group apart from the measures.

    Example:
        >>> tag_of_part("complexity/stable_rank/net.0.weight")
        'parts/stable_rank/net.0.weight'
    """
    return PARTS + key.removeprefix(_COMPLEXITY)


def key_of(tag: str) -> str:
    """The log key of a tag.

    Example:
        >>> key_of("parts/stable_rank/net.0.weight"), key_of("probe/val_loss")
        ('complexity/stable_rank/net.0.weight', 'probe/val_loss')
    """
    return _COMPLEXITY + tag.removeprefix(PARTS) if tag.startswith(PARTS) else tag


def tags_of_spread(key: str) -> tuple[str, str, str]:
    """The tags of a band's lower edge, middle and upper edge.

    Example:
        >>> tags_of_spread("complexity/margin")
        ('spread/margin/low', 'spread/margin/middle', 'spread/margin/high')
    """
    stem = SPREAD + key.removeprefix(_COMPLEXITY)
    return f"{stem}/low", f"{stem}/middle", f"{stem}/high"


def tagged(values: Mapping[str, float], parts: Collection[str] = ()) -> dict[str, float]:
    """Values by the tags of event files, which hold single precision.

    Estimates get the edges of a band of one standard error.

    Args:
        values: By log key.
        parts: Those of the keys that belong to a layer, a class or an output.

    Example:
        >>> tagged({"complexity/norm": 1e50, "complexity/norm/0.weight": 2.0}, {"complexity/norm/0.weight"})
        {'complexity/norm/log10': 50.0, 'parts/norm/0.weight': 2.0}
    """
    tags = {tag_of_part(key) if key in parts else key: value for key, value in values.items()}
    for key, error in values.items():
        estimate = values.get(key.removesuffix(STANDARD_ERROR), math.nan)
        if key.endswith(STANDARD_ERROR) and math.isfinite(estimate) and math.isfinite(error):
            low, _, high = tags_of_spread(key.removesuffix(STANDARD_ERROR))
            tags |= {low: estimate - error, high: estimate + error}
    return in_single_precision(tags)


def in_single_precision(values: Mapping[str, float]) -> dict[str, float]:
    """Values that single precision can hold.

    A number that would be infinite there, or lose digits near zero, becomes its logarithm to the base 10, under the tag
    with ``/log10`` behind; a negative one that of its opposite, with ``/log10_of_negative`` behind.

    Args:
        values: By tag.

    Example:
        >>> in_single_precision({"a": 1e50, "b": -1e50, "c": 2.0, "d": math.inf})
        {'a/log10': 50.0, 'b/log10_of_negative': 50.0, 'c': 2.0, 'd': inf}
    """
    found = {}
    for tag, value in values.items():
        if value == 0 or not math.isfinite(value) or _SMALLEST <= abs(value) <= _LARGEST:
            found[tag] = value
        else:
            found[f"{tag}/log10" if value > 0 else f"{tag}/log10_of_negative"] = math.log10(abs(value))
    return found
