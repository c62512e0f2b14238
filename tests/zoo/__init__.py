"""Modules that do what ordinary modules do besides computing outputs: write, cache, count, share, draw, recompute.

Each entry of ``ZOO`` builds one with a batch, small and in double precision.
"""

from tests.zoo import layers, recomputing, sharing, state, writing
from tests.zoo.base import CHECKPOINTED, ZOO, Specimen

__all__ = ["CHECKPOINTED", "ZOO", "Specimen", "layers", "recomputing", "sharing", "state", "writing"]
