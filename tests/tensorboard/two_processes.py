"""Train on two processes with TensorBoard's logger; run as ``python -m tests.tensorboard.two_processes FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_complexity import ComplexityMonitor
from tests.tensorboard.runs import Plain, Tuned, fitted


class Telling(Plain):
    """Notes which process has text for it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def log_text(self, **kwargs: Any) -> None:
        (self.folder / f"text_of_{torch.distributed.get_rank()}").touch()


def main() -> None:
    folder = Path(sys.argv[1])
    for run, module in (("saved", Tuned()), ("plain", None)):
        monitor = ComplexityMonitor(["ParameterNorm", "JacobianNorm", "MarginPercentile"], budget=None)
        loggers = [TensorBoardLogger(folder, name="", version=run), Telling(folder)]
        fitted(folder / run, [monitor], module, logger=loggers, strategy="ddp", devices=2)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
