"""An early verdict as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from lightning_complexity.studies.early.verdict import EarlyVerdict

_SAID = {
    "settings": "nothing that is known early is shown to help beyond the settings",
    "losses, settings": "early losses help beyond the settings; measures are not shown to help beside them",
    "losses, settings, measures": "early measures help, beside early losses and beyond the settings",
}


def printed(verdict: EarlyVerdict) -> str:
    """What was predicted how well, what measures add, and what a reader must know.

    Args:
        verdict: Of :func:`~lightning_complexity.studies.early_verdict`.
    """
    kept = len(verdict.predictions) // len(verdict.offered)
    scores, gains = verdict.scores, verdict.gains
    table = pd.DataFrame({name: _with_interval(scores, name) for name in ("r2", "spearman")}, index=scores.index)
    table["within interval"] = scores["coverage"].map("{:.2f}".format)
    table["half width"] = scores["half_width"].map("{:.3g}".format)
    added = pd.DataFrame({f"{n} gained": _with_interval(gains, n) for n in ("r2", "spearman")}, index=gains.index)
    added["verdict"] = gains["verdict"]
    constant = [name for name, why in verdict.columns_left_out.items() if why == "one value in all networks"]
    others = {name: why for name, why in verdict.columns_left_out.items() if name not in constant}
    lines = [
        f"{kept} of {verdict.rows} networks, {verdict.configurations} configurations; "
        f"intervals of {verdict.confidence:.0%}",
        *(f"  {count} left out without {why}" for why, count in verdict.left_out.items()),
        *(f"  {name} left out: {why}" for name, why in others.items()),
        *([f"  of one value in all: {', '.join(constant)}"] if constant else []),
        "",
        "Predicted from, on configurations held out:",
        _text(table, "from"),
        "",
        "What is gained:",
        _text(added, "from", "by adding"),
        "",
    ]
    lines += [f"{target}: {_SAID[features]}." for target, features in verdict.offered.items()]
    return "\n".join(lines)


def _with_interval(frame: pd.DataFrame, name: str) -> list[str]:
    columns = zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
    return [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in columns]


def _text(table: pd.DataFrame, *names: str) -> str:
    named: Any = table.rename_axis(["target", *names]).reset_index()
    named["target"] = named["target"].where(~named["target"].duplicated(), "")
    return str(named.to_string(index=False, justify="right"))
