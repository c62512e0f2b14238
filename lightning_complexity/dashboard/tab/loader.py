"""What TensorBoard imports when it starts. An error here would keep it from starting, so that it is next to nothing."""

from __future__ import annotations

from typing import Any

from tensorboard.plugins import base_plugin

NAME = "lightning_complexity"


class ComplexityLoader(base_plugin.TBLoader):  # type: ignore[misc]  # TensorBoard has no types
    """Makes the tab; named by the entry point ``tensorboard_plugins``."""

    def load(self, context: Any) -> Any:
        """The tab, or ``None`` where one of its name is there already: TensorBoard does not start with two."""
        if NAME in (context.plugin_name_to_instance or {}):
            return None
        from lightning_complexity.dashboard.tab.plugin import ComplexityPlugin

        return ComplexityPlugin(context)
