"""The record and the curves of a training loop of one's own, without a Trainer."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lightning_complexity.plots import plot_histories
from lightning_complexity.recording import Recorder


def main(arguments: list[str] | None = None) -> None:
    """Train a small network on digits, and write its record and its curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("complexity_loop"))
    output = parser.parse_args(arguments).output

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    train, validation = (x[:1400], y[:1400]), (x[1400:], y[1400:])
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)

    recorder = Recorder("standard", output)
    probes = (train[0][:256], train[1][:256]), (validation[0][:256], validation[1][:256])
    recorder.measure(net, *probes, step=0)
    for epoch in range(5):
        for batch in torch.randperm(1400).split(32):
            optimizer.zero_grad()
            F.cross_entropy(net(train[0][batch]), train[1][batch]).backward()
            optimizer.step()
        recorder.measure(net, *probes, step=44 * (epoch + 1), epoch=epoch)

    print(recorder.to_frame()[["probe/generalization_gap", "complexity/log_path_norm"]])
    plot_histories({"digits": recorder.history}).savefig(output / "curves.png")


if __name__ == "__main__":
    main()
