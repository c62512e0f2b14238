"""One file to look at: the data, the drawing and the library, and nothing that is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

SCRIPTS = ("core", "data", "trajectories", "front", "curves", "ranking", "moments", "table", "app")
"""Of ``static``, in the order in which they must be loaded, behind the library."""

LIBRARY = "plotly-basic.min.js"
_START = (
    'Complexity.render(document.getElementById("report"), JSON.parse(document.getElementById("data").textContent));'
)


def static(name: str) -> str:
    """Text of a file that comes with the package."""
    return (files("lightning_complexity.dashboard") / "static" / name).read_text(encoding="utf-8")


def scripts() -> list[str]:
    """The library, with its licence, and what draws by it."""
    licence = static("plotly-basic.LICENSE.txt").replace("*/", "* /")
    return [f"/* plotly.js (basic)\n{licence}*/\n{static(LIBRARY)}", *(static(f"{name}.js") for name in SCRIPTS)]


def html_page(data: Mapping[str, Any], title: str = "Complexity") -> str:
    """Write the page.

    Its content-security policy allows the scripts that it has, by their hashes, pictures that it has, and no request.
    Data can hold any text: it ends no script, and becomes text only.

    Args:
        data: Of :func:`~lightning_complexity.dashboard.payload.page_data`.
        title: Of the window and the page.
    """
    inlined = [_closed(script) for script in (*scripts(), _START)]
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, inlined))}",
            "style-src 'unsafe-inline'",  # the library places what it draws by styles
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{static('style.css')}</style>",
            "</head>",
            "<body>",
            '<main id="report"><noscript>This page is drawn by scripts.</noscript></main>',
            f'<script type="application/json" id="data">{text}</script>',
            *(f"<script>{script}</script>" for script in inlined),
            "</body>",
            "</html>\n",
        )
    )


def _closed(script: str) -> str:
    return script.replace("</script", "<\\/script")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
