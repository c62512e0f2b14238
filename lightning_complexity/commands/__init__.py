"""The commands that need no study: ``list`` and ``measure``."""
