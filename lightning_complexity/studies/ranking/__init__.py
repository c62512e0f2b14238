"""Which measures explain generalization: statistics over a table of trained networks."""

from lightning_complexity.studies.ranking.partial import partial_rank_correlation, rank_over_time
from lightning_complexity.studies.ranking.summary import Ranking, rank
from lightning_complexity.studies.ranking.together import rank_pairs

__all__ = ["Ranking", "partial_rank_correlation", "rank", "rank_over_time", "rank_pairs"]
