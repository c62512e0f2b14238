"""Train a table of networks by workers on a Ray cluster, and rank measures on it.

Needs `pip install ray lightning-complexity[studies]`. Without an address Ray starts a cluster on this machine. On
several machines give a storage and an output folder that all of them reach:

    python examples/sweep_on_ray.py --address auto --storage postgresql://user@host/name --output /shared/sweep
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lightning_complexity.studies.sweeping import sweep
from lightning_complexity.studies.sweeping.storage import open_storage
from lightning_complexity.studies.sweeping.worker import work


def main(arguments: list[str] | None = None) -> None:
    """Start workers, wait for them, print the ranking."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a Ray cluster; one on this machine if not given")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--storage", help="journal file or database URL; a journal in the output folder if not given")
    parser.add_argument("--output", type=Path, default=Path("complexity_study/ray"))
    parser.add_argument("--quick", action="store_true", help="a few small networks")
    options = parser.parse_args(arguments)
    try:
        import ray
    except ImportError:
        sys.exit("this example needs Ray: pip install ray")

    grid = sweep.QUICK_GRID if options.quick else sweep.DEFAULT_GRID
    design = sweep.Design(sweep.grid(grid))
    output = options.output.resolve()
    url = options.storage or str(output / "journal.log")
    study = sweep.prepare(design, open_storage(url, create=True), "ray", url)

    ray.init(address=options.address)
    worker = ray.remote(num_cpus=1)(work)
    counts = ray.get([worker.remote(url, "ray", output) for _ in range(options.workers)])
    print(f"Networks by worker: {', '.join(map(str, counts))}")
    print(sweep.ranked(sweep.networks(study), design.hyperparameters, "generalization_gap"))


if __name__ == "__main__":
    main()
