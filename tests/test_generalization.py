"""The study of generalization: its data, what it trains, that it can be resumed, and what its page concludes."""

from __future__ import annotations

import csv
import gzip
import math
import struct
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.generalization import __main__ as command
from benchmarks.generalization import data, study
from benchmarks.generalization.comparisons import HELPED, HURT, UNCLEAR, Comparison, Estimate, compared, holm
from benchmarks.generalization.data import flipped, missing_files, read_idx, split
from benchmarks.generalization.report import page
from benchmarks.generalization.study import COLUMNS, Plan, Study
from benchmarks.generalization.training import MEASURES, NONE, WEIGHT_DECAY, network, optimize, scales, trained

SMALL = Plan(("digits",), (0.2,), (WEIGHT_DECAY, "PathNorm"), (0.1, 1.0), 15, 9, (7, 8), (1, 2, 3))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_the_share_of_wrong_labels_is_exact_and_all_are_wrong() -> None:
    labels = torch.arange(500) % 10
    noisy = flipped(labels, 0.2, generator())
    assert (noisy != labels).sum() == 100
    assert torch.equal(labels, torch.arange(500) % 10)
    assert torch.equal(flipped(labels, 0.0, generator()), labels)


def test_wrong_labels_are_each_of_the_others_as_often() -> None:
    counts = flipped(torch.full((9000,), 4), 1.0, generator()).bincount(minlength=10).double()
    assert counts[4] == 0
    others = counts[torch.arange(10) != 4]
    assert ((others - 1000).square() / 1000).sum() < 30  # chi-squared with 8 degrees of freedom: p of 2e-4


def test_a_split_has_all_samples_once_and_noise_where_it_belongs() -> None:
    clean, noisy = split("digits", 0.0, 5), split("digits", 0.2, 5)
    assert [len(part.labels) for part in clean] == [200, 500, data.PROBLEMS["digits"].test]
    together = torch.cat([part.inputs for part in clean])
    everything = data._digits()[0].inputs
    assert together.unique(dim=0).shape == everything.unique(dim=0).shape == everything.shape
    wrong = [int((a.labels != b.labels).sum()) for a, b in zip(clean, noisy, strict=True)]
    assert wrong == [40, 100, 0]
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(clean, noisy, strict=True))
    assert not torch.equal(clean.train.inputs, split("digits", 0.0, 6).train.inputs)


def test_an_idx_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3i", 2, 1, 3) + bytes([0, 1, 2, 253, 254, 255])))
    assert read_idx(path).tolist() == [[[0, 1, 2]], [[253, 254, 255]]]


@pytest.mark.skipif(bool(missing_files()), reason=f"needs MNIST in {data.MNIST}")
def test_mnist_is_complete() -> None:
    pool, test = data._mnist()
    assert pool.inputs.shape == (60_000, 784)
    assert pool.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # published
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert pool.inputs.min() == 0
    assert pool.inputs.max() == 1
    assert split("MNIST", 0.2, 0).test is test


def test_without_mnist_the_command_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data, "MNIST", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generalization"])
    with pytest.raises(SystemExit, match=r"needs MNIST in .*missing there: train-images-idx3-ubyte.gz, .*--quick"):
        command.main()


def test_weight_decay_is_the_gradient_of_strength_times_the_squared_norm() -> None:
    samples, model = split("digits", 0.0, 0).train, network(64, 0)
    for _ in optimize(model, samples, 0, 1, WEIGHT_DECAY, 0.3):
        pass
    other = network(64, 0)
    batch = next(optimize(other, samples, 0, 1))
    loss = F.cross_entropy(other(batch.inputs), batch.labels)
    loss = loss + 0.3 * sum(p.square().sum() for p in other.parameters())
    loss.backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q - 0.05 * q.grad)


def test_all_methods_start_from_the_same_network_and_batches() -> None:
    parts = split("digits", 0.2, 1)
    without, *others = (trained(parts, 1, 10, method, 0.0) for method in (NONE, *MEASURES))
    for other in others:
        assert other._replace(seconds=0) == without._replace(seconds=0)


def test_the_scale_balances_the_gradients() -> None:
    parts, model = split("digits", 0.0, 2), network(64, 2)
    lengths, norms = [], []
    for step, batch in enumerate(optimize(model, parts.train, 2, 11)):
        if step in (0, 10):
            loss = F.cross_entropy(model(batch.inputs), batch.labels)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            lengths.append(torch.cat([g.flatten() for g in gradients]).norm().item())
            norms.append(torch.cat([p.detach().flatten() for p in model.parameters()]).norm().item())
    assert scales(parts, 2, 11)[WEIGHT_DECAY] == pytest.approx(sum(lengths) / (2 * sum(norms)), rel=0.05)


def test_training_stops_where_the_loss_is_no_longer_finite() -> None:
    samples, model = split("digits", 0.0, 0).train, network(64, 0)
    assert 1 < sum(1 for _ in optimize(model, samples, 0, 50, WEIGHT_DECAY, 1e10)) < 50
    assert sum(1 for _ in optimize(network(64, 0), samples, 0, 50)) == 50


def test_an_estimate_by_hand() -> None:
    # Of 1, 2, 3: mean 2, standard error 1 / sqrt(3); with two degrees of freedom p = 1 - t / sqrt(2 + t^2).
    estimate = Estimate.of([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((2, 2 - half, 2 + half), rel=1e-6)
    assert estimate.p == pytest.approx(1 - math.sqrt(12) / math.sqrt(14), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_without_spread_there_is_no_verdict(value: float) -> None:
    estimate = Estimate.of([value, value + 1e-7, value])
    assert estimate.p == 1
    assert estimate.low == estimate.high == pytest.approx(value, abs=1e-6)


def test_holm_by_hand() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": 0.9})
    assert adjusted == pytest.approx({"d": 0.025, "a": 0.04, "c": 0.09, "b": 0.09, "e": 0.9})


def test_verdicts_are_those_of_the_corrected_paired_test() -> None:
    reference = [0.5, 0.7, 0.9]
    accuracies = {
        "better": [0.6001, 0.8, 0.9999],
        "worse": [0.4001, 0.6, 0.7999],
        "unclear alone": [0.52, 0.73, 0.94],
        "equal": reference,
    }
    comparisons = compared(accuracies, reference)
    assert [comparisons[name].verdict for name in accuracies] == [HELPED, HURT, UNCLEAR, UNCLEAR]
    lonely = comparisons["unclear alone"].difference
    assert lonely.low > 0  # alone it would count
    assert lonely.p == pytest.approx(1 - math.sqrt(27 / 29))  # t = 0.03 / (0.01 / sqrt(3))
    assert comparisons["unclear alone"].p == pytest.approx(2 * lonely.p)
    assert comparisons["better"].accuracy.mean == pytest.approx(0.8)
    assert Comparison(lonely, lonely, 0.05).verdict == UNCLEAR


def made_by_hand(path: Path) -> Study:
    """Weight decay hurts, the path norm helps; measures are 1 to 7 without penalty and half of that with one."""
    rows = [["pilot", "digits", 0.2, WEIGHT_DECAY, 0.5, 9], ["pilot", "digits", 0.2, "PathNorm", 3.0, 9]]
    validation = {(WEIGHT_DECAY, 0.05): 0.6, (WEIGHT_DECAY, 0.5): 0.6, ("PathNorm", 0.3): 0.49, ("PathNorm", 3.0): 0.65}
    validation[NONE, 0.0] = 0.55
    test = {NONE: [0.5, 0.7, 0.9], WEIGHT_DECAY: [0.4001, 0.6, 0.7999], "PathNorm": [0.6001, 0.8, 0.9998]}
    seconds = {NONE: [1, 2, 3], WEIGHT_DECAY: [1, 2.2, 6], "PathNorm": [3, 8, 30]}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([*row, 1, 1, 1, 1, *range(1, 8)] for row in rows)
        for (method, strength), share in validation.items():
            for seed, shift in ((7, -0.01), (8, 0.01)):
                key = ["tuning", "digits", 0.2, method, strength, seed]
                writer.writerow([*key, 1, share + shift, 0, 1, *range(1, 8)])
        for method, strength in ((NONE, 0.0), (WEIGHT_DECAY, 0.05), ("PathNorm", 3.0)):
            half = 1 if method == NONE else 2
            for i, seed in enumerate((1, 2, 3)):
                key = ["final", "digits", 0.2, method, strength, seed]
                writer.writerow([*key, 0.9, 0.6, test[method][i], seconds[method][i], *(m / half for m in range(1, 8))])
    return Study(SMALL, path)


def cells(text: str, name: str) -> list[list[str]]:
    lines = (line.strip("|").split("|") for line in text.splitlines() if line.startswith(f"| {name} "))
    return [[cell.strip() for cell in line[1:]] for line in lines]


def test_the_page_of_a_table_made_by_hand(tmp_path: Path) -> None:
    text = page(made_by_hand(tmp_path / "table.csv"))
    overview, results, tuning = cells(text, "weight decay")
    assert overview == ["-10.0, hurt"]
    # Of 0.5, 0.7, 0.9 the interval is 70 +- 4.3027 * 20 / sqrt(3); measures and times are those of the rows above.
    assert cells(text, NONE)[0] == ["70.0 [20.3, 119.7]", "", "", "", "90.0 %", "", "1.00"]
    assert results[4:] == ["90.0 %", "0.5 (1)", "1.10"]
    assert tuning == ["0.5", "55.0", "**60.0**", "60.0"]  # of equal ones the weaker
    overview, results, tuning = cells(text, "PathNorm")
    assert overview == ["+10.0, helped"]
    assert results[1:] == ["+10.0 [+10.0, +10.0]", "<0.001", "helped", "90.0 %", "2 (4)", "4.00"]
    assert tuning == ["3", "55.0", "49.0", "**65.0**"]
    assert "- **digits, 20 % wrong labels**: helped: PathNorm (+10.0); hurt: weight decay (-10.0)." in text
    assert "lower than without it in 2 of 2 cases. The method helped in 1 of these 2, and hurt in 1. It was not" in text
    assert "1 of the 4 strengths tried in tuning lost more than 5 points" in text
    assert "better were: PathNorm on digits, 20 % wrong labels (+20.0). Worse were: none." in text
    assert "weight decay on digits, 20 % wrong labels (lowest); PathNorm on digits, 20 % wrong labels (highest)" in text


def test_a_study_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, calls = tmp_path / "table.csv", []
    Study(SMALL, path).complete()
    lines = path.read_text().splitlines()
    phases = [line.split(",")[0] for line in lines]
    assert [phases.count(phase) for phase in ("pilot", "tuning", "final")] == [2, 2 * 5, 3 * 3]

    def counted(*arguments: object) -> object:
        calls.append(arguments[1])
        return trained(*arguments)

    monkeypatch.setattr(study, "trained", counted)
    Study(SMALL, path).complete()
    assert calls == []
    assert path.read_text().splitlines() == lines
    path.write_text("\n".join(lines[:-2]) + "\n")
    Study(SMALL, path).complete()
    assert calls == [3, 3]
    path.write_text("\n".join(lines[:2]) + "\n")  # interrupted in the pilot
    Study(SMALL, path).complete()
    without_time = [[cell for i, cell in enumerate(line.split(",")) if i != COLUMNS.index("seconds")] for line in lines]
    again = [line.split(",") for line in path.read_text().splitlines()]
    assert [[cell for i, cell in enumerate(row) if i != COLUMNS.index("seconds")] for row in again] == without_time
    assert "20 % wrong labels" in page(Study(SMALL, path))


def test_no_seed_serves_two_purposes() -> None:
    seeds = [Plan().pilot_seed, *Plan().tuning_seeds, *Plan().final_seeds]
    assert len(set(seeds)) == len(seeds)


def test_the_page_follows_the_table() -> None:
    assert command.PAGE.read_text() == page(Study(Plan(), command.TABLE))
