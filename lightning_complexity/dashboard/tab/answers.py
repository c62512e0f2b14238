"""What the tab shows now, worked out again when something was measured."""

from __future__ import annotations

import hashlib
import json
from threading import Lock
from typing import Any

from lightning_complexity.dashboard.tab.sources import Source


class Answers:
    """Answers of one source, as JSON.

    Args:
        source: Where runs come from.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = Lock()
        self._stamp: object = None
        self._version, self._text = "", ""

    def answer(self, have: str = "") -> str:
        """An object with ``version``, ``message`` (a line, or ``""``) and ``page``: the page's data, or ``null``.

        Args:
            have: A version; where that is still what there is, ``version`` comes alone.
        """
        with self._lock:
            stamp = self._source.stamp()
            if self._stamp is None or stamp != self._stamp:
                content = json.dumps(self._content(), allow_nan=False, separators=(",", ":"))
                self._version = hashlib.sha256(content.encode()).hexdigest()[:16]
                self._text = f'{{"version":"{self._version}",{content[1:]}'
                self._stamp = stamp
            return json.dumps({"version": have}) if have == self._version else self._text

    def _content(self) -> dict[str, Any]:
        from lightning_complexity.dashboard.findings import findings
        from lightning_complexity.dashboard.payload import page_data

        try:
            found = self._source.read()
        except (OSError, ValueError) as error:
            return {"message": str(error), "page": None}
        page = page_data(found.runs, findings(found.runs), found.notes)
        return {"message": self._source.remark, "page": page}
