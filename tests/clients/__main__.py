"""Write ``docs/clients.md``: ``python -m tests.clients``, or with names of clients, print their rows only."""

from __future__ import annotations

import logging
import sys

from tests.clients.judging import judge, row, shortcomings
from tests.clients.registry import CLIENTS
from tests.clients.table import PAGE, page

if __name__ == "__main__":
    for package in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(package).setLevel(logging.WARNING)
    rows = []
    for name in sys.argv[1:] or CLIENTS:
        judged = judge(name)
        rows.append(row(name, judged))
        print(rows[-1], flush=True)
        for line in shortcomings(judged):
            print(f"    {line}", flush=True)
    if len(sys.argv) == 1:
        PAGE.write_text(page(rows))
