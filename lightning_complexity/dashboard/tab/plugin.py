"""The tab's side in TensorBoard's server: what is there, what it shows, and the scripts that draw it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from lightning_complexity.dashboard.page import scripts, static
from lightning_complexity.dashboard.tab.answers import Answers
from lightning_complexity.dashboard.tab.loader import NAME
from lightning_complexity.dashboard.tab.sources import Provided, source_of

_log = logging.getLogger(__name__)
_SCRIPT, _STYLE, _JSON = "application/javascript", "text/css", "application/json"


class ComplexityPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # TensorBoard has no types
    """The tab.

    Args:
        context: Of TensorBoard.

    Raises:
        ValueError: If there is neither a log directory nor a data provider.
    """

    plugin_name = NAME

    def __init__(self, context: Any) -> None:
        self._source = source_of(context.logdir, context.data_provider)
        provided = [] if context.data_provider is None else [Provided(context.data_provider)]
        self._places = [*provided, self._source]
        self._answers = Answers(self._source)
        self._was_active = False

    def frontend_metadata(self) -> Any:
        """Its name, and the module that draws it."""
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="Complexity")

    def is_active(self) -> bool:
        """Whether something was measured: a record below the log directory, or a scalar of ours in TensorBoard."""
        try:
            self._was_active = self._was_active or any(place.has_data() for place in self._places)
        except Exception:
            _log.warning("whether the tab Complexity has something to show is not known", exc_info=True)
        return self._was_active

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """All routes; there is nothing else that is served."""
        index = files("lightning_complexity.dashboard.tab") / "index.js"
        return {
            "/data": wrappers.Request.application(self._data),
            "/static/index.js": _serve(lambda: index.read_text(encoding="utf-8"), _SCRIPT),
            "/static/report.js": _serve(lambda: "\n;\n".join(scripts()), _SCRIPT),
            "/static/style.css": _serve(lambda: static("style.css"), _STYLE),
        }

    def _data(self, request: wrappers.Request) -> Any:
        try:
            return http_util.Respond(request, self._answers.answer(request.args.get("have", "")), _JSON)
        except Exception as error:
            _log.exception("the tab Complexity could not be drawn")
            message = f"This could not be drawn ({type(error).__name__}: {error}). TensorBoard's log has more."
            return http_util.Respond(request, json.dumps({"message": message}), _JSON, code=500)


def _serve(text: Callable[[], str], kind: str) -> Callable[..., Any]:
    @wrappers.Request.application
    def served(request: wrappers.Request) -> Any:
        return http_util.Respond(request, text(), kind)

    return served
