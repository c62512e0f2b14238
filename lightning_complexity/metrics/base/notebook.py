"""What notebooks show of an object: how it is written, a table of values, a picture."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def in_html(written: str, rows: Iterable[tuple[str, ...]] = (), figure: Figure | None = None) -> str:
    """A piece of a page that needs nothing from elsewhere.

    Args:
        written: How the object is written in code.
        rows: Of a table; text stays text, whatever is in it.
        figure: Drawn below.

    Example:
        >>> print(in_html("Linear(1 < 2)", [("a", "1")]))
        <pre style="white-space: pre-wrap">Linear(1 &lt; 2)</pre><table><tr><td>a</td><td>1</td></tr></table>
    """
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    table = f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>" if cells else ""
    picture = "" if figure is None else _image(figure)
    return f'<pre style="white-space: pre-wrap">{escape(written)}</pre>{table}{picture}'


def _image(figure: Figure) -> str:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=72)
    return f'<img alt="curves" src="data:image/png;base64,{b64encode(file.getvalue()).decode()}">'
