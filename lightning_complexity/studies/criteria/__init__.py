"""The criteria that a measure of complexity has to meet if it is to explain generalization, as experiments."""

from lightning_complexity.studies.criteria.experiments import EXPERIMENTS, Experiment, experiment, user_experiment
from lightning_complexity.studies.criteria.running import Report, metrics_of, run, trainer_of_data, trainer_of_user
from lightning_complexity.studies.criteria.verdicts import Pair, Verdict, judge

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Pair",
    "Report",
    "Verdict",
    "experiment",
    "judge",
    "metrics_of",
    "run",
    "trainer_of_data",
    "trainer_of_user",
    "user_experiment",
]
