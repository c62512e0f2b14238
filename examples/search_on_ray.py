"""Search a space of networks by workers on a Ray cluster, and say which model to choose.

Needs `pip install ray lightning-complexity[studies]`. Without an address Ray starts a cluster on this machine. On
several machines give a storage and an output folder that all of them reach:

    python examples/search_on_ray.py --address auto --storage postgresql://user@host/name --output /shared/search
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lightning_complexity.selection.searching.report import report
from lightning_complexity.selection.searching.running import prepare
from lightning_complexity.studies.sweeping.storage import open_storage, quiet_optuna
from lightning_complexity.studies.sweeping.worker import work


def main(arguments: list[str] | None = None) -> None:
    """Begin the search, start workers, wait for them, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a Ray cluster; one on this machine if not given")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--storage", help="journal file or database URL; a journal in the output folder if not given")
    parser.add_argument("--output", type=Path, default=Path("complexity_search/ray"))
    parser.add_argument("--quick", action="store_true", help="a few short trainings")
    options = parser.parse_args(arguments)
    try:
        import ray
    except ImportError:
        sys.exit("this example needs Ray: pip install ray")

    asked = {"space": "mlp", "strategy": "tpe", "objectives": ("error", "parameters")}
    asked |= {"max_epochs": 2, "repeats": 2, "num_samples": 200} if options.quick else {}
    output = options.output.resolve()
    url = options.storage or str(output / "journal.log")
    with quiet_optuna():
        study, _ = prepare(asked, open_storage(url, create=True), "ray", url, options.trials, options.trials)

    ray.init(address=options.address)
    worker = ray.remote(num_cpus=1)(work)
    counts = ray.get([worker.remote(url, "ray", output) for _ in range(options.workers)])
    print(f"Trials by worker: {', '.join(map(str, counts))}")
    with quiet_optuna():
        print(report(study, output).text)


if __name__ == "__main__":
    main()
