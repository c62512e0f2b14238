"""What a trial's values are: scores on folds that are not trained on, measures, logged values."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from sklearn.metrics import accuracy_score, log_loss

from lightning_complexity import metrics
from lightning_complexity.selection.searching.description import Search as Description
from lightning_complexity.selection.searching.problems import module, networks
from lightning_complexity.selection.searching.problems.networks import NetworkProblem, evaluated
from lightning_complexity.selection.searching.quantities import TrialError, direction_of, measured, named_values
from lightning_complexity.selection.spaces.dense import DenseSpace, Layer
from tests.selection.searching.conftest import Search

STRUCTURE = (Layer(8), Layer(16))
NAMES = ("error", "accuracy", "val_loss", "parameters", "flops", "ParameterNorm")


def problem(**options: Any) -> NetworkProblem:
    words = {"num_samples": 200, "max_epochs": 2, "repeats": 2, "objectives": NAMES}
    return NetworkProblem(Description(**{**words, **options}), DenseSpace())


# Networks ---------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_fold_and_measures_of_the_network(tmp_path: Path) -> None:
    found = problem()
    values = found.values(STRUCTURE, None, tmp_path)
    for repeat in range(2):
        held_out, train = found.train[found.folds == repeat], found.train[found.folds != repeat]
        assert (len(held_out.y), len(train.y)) == (40, 160)
        network, _ = found.trained(STRUCTURE, train, None, repeat)
        with torch.no_grad():
            outputs = network.eval()(held_out.x)
        assert values["accuracy"][repeat] == pytest.approx(accuracy_score(held_out.y, outputs.argmax(1)))
        assert values["error"][repeat] == pytest.approx(1 - values["accuracy"][repeat])
        probabilities = outputs.double().softmax(1).numpy()
        assert values["val_loss"][repeat] == pytest.approx(
            log_loss(held_out.y, probabilities, labels=range(10)), rel=1e-5
        )
        assert values["parameters"][repeat] == 64 * 8 + 8 + 8 * 16 + 16 + 16 * 10 + 10
        norm = np.sqrt(sum(float(p.detach().double().square().sum()) for p in network.parameters()))
        assert values["ParameterNorm"][repeat] == pytest.approx(norm, rel=1e-5)


def test_folds_have_no_sample_in_common_and_repeats_other_weights() -> None:
    found = problem(repeats=5)
    rows = [set(map(tuple, found.train[found.folds == r].x.flatten(1).tolist())) for r in range(5)]
    assert sum(map(len, rows)) == len(set().union(*rows)) == 200
    nets = [found.trained(STRUCTURE, found.train, None, r)[0] for r in (0, 0, 1)]
    same, other = (torch.equal(nets[0][1].weight, net[1].weight) for net in nets[1:])  # type: ignore[index]
    assert (same, other) == (True, False)


def test_test_samples_are_not_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = problem().values(STRUCTURE, None, tmp_path)
    data = networks._data("digits")
    poisoned = dataclasses.replace(data, x_test=data.x_test * float("nan"))
    monkeypatch.setattr(networks, "_data", lambda source: poisoned)
    found = problem()
    assert found.values(STRUCTURE, None, tmp_path) == before
    errors = found.finished(STRUCTURE, tmp_path)[0]["test_errors"]
    assert min(errors) > 0.8  # which are of the poisoned samples


def test_the_chosen_network_is_trained_on_all_training_samples(tmp_path: Path) -> None:
    found = problem()
    found.finished(STRUCTURE, tmp_path)
    kept = torch.load(tmp_path / "chosen.pt")
    network, _ = found.trained(STRUCTURE, found.train, None, 0)
    assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())


def test_scores_are_without_dropout() -> None:
    found = NetworkProblem(Description(num_samples=100, max_epochs=1), DenseSpace(dropouts=(0.5,)))
    network, _ = found.trained((Layer(8, "relu", 0.5),), found.train, None, 0)
    network.train()
    assert evaluated(network, found.train) == evaluated(network, found.train)


def test_global_random_numbers_stay_and_do_not_matter(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = problem().values(STRUCTURE, None, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert problem().values(STRUCTURE, None, tmp_path) == first
    assert problem(seed=1).values(STRUCTURE, None, tmp_path) != first


def test_a_diverging_training() -> None:
    found = problem(learning_rate=1e30, optimizer="sgd")
    with pytest.raises(TrialError, match=r"training diverged: the loss is (nan|inf) in epoch \d of repeat 0"):
        found.values(STRUCTURE, None, Path())


def test_a_watch_sees_the_first_training_after_each_epoch(tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []

    class Seeing:
        def epoch(self, epoch: int, values: dict[str, float], network: torch.nn.Module) -> None:
            seen.append((epoch, values["error"]))

    found = problem(max_epochs=3)
    values = found.values(STRUCTURE, Seeing(), tmp_path)
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert seen[-1][1] == values["error"][0]


def test_evaluation_does_not_depend_on_how_samples_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problem()
    network, _ = found.trained(STRUCTURE, found.train, None, 0)
    whole = evaluated(network, found.train)
    monkeypatch.setattr(networks, "_EVALUATED_AT_ONCE", 7)
    assert evaluated(network, found.train) == pytest.approx(whole, rel=1e-5)


def test_the_latency_grows_with_the_network(tmp_path: Path) -> None:
    def seconds(width: int) -> float:
        net = torch.nn.Linear(width, width)
        return measured(["latency"], net, None, torch.zeros(1, width))["latency"]  # type: ignore[arg-type]

    assert 0 < seconds(2) < seconds(2000)


def test_values_that_are_not_finite() -> None:
    with pytest.raises(TrialError, match="flatness is nan"):
        named_values({"error": [1.0], "flatness": [1.0, float("nan")]})


def test_directions() -> None:
    wanted = {"error": "minimize", "accuracy": "maximize", "val_f1": "maximize", "val_acc_loss": "minimize"}
    assert {name: direction_of(name) for name in wanted} == wanted
    falls = [e.name for e in metrics.catalogue() if e.increases_with_complexity is False]
    assert {direction_of(name) for name in falls} == {"maximize"}


# A user's own module ----------------------------------------------------------------------------------

OWN = "tests.selection.searching.own"
WORDS = ("--model", f"{OWN}:Net", "--datamodule", f"{OWN}:Data", "--space", "space.yaml", "--max_epochs", 2)


def write(text: str) -> None:
    Path("space.yaml").write_text(text)


def test_a_module_is_searched(search: Search) -> None:
    write(
        "width: {type: int, low: 2, high: 10}\nlr: 0.05\noptimizer: [adam, sgd]\n"
        "momentum: {type: float, low: 0, high: 0.9, when: {optimizer: sgd}}\ndata.batch_size: [4, 20]"
    )
    printed = search(
        *WORDS, "--trials", 4, "--strategy", "random", "--repeats", 2, "--constraint", "ParameterNorm<=100"
    )
    folder = Path("complexity_search/space-random")
    frame = pd.read_csv(folder / "trials.csv")
    assert (frame.state == "complete").all()
    assert frame.parameters.tolist() == [6 * w + w + 2 * w + 2 for w in frame.width]
    # The objective is what Lightning's logger has at the end, which writes it down by itself.
    for trial in frame.itertuples():
        logged = [pd.read_csv(folder / "trials" / str(trial.trial) / f"repeat-{r}" / "metrics.csv") for r in range(2)]
        last = [table.val_loss.dropna().iloc[-1] for table in logged]
        assert trial.val_loss == pytest.approx(np.mean(last), rel=1e-5)
        assert frame["val_loss/standard_error"][trial.trial] == pytest.approx(scipy.stats.sem(last), rel=1e-4)
    chosen = json.loads((folder / "chosen.json").read_text())
    assert chosen["arguments"]["lr"] == 0.05
    assert f"Make it by Net(width={chosen['arguments']['width']}, lr=0.05" in printed
    assert f"with Data(batch_size={chosen['arguments']['data.batch_size']})" in printed


def test_parameters_of_a_module_that_it_cannot_have(search: Search) -> None:
    write("width: [8, 11, 12, 13]")
    printed = search(*WORDS, "--monitor", "val_loss", "--trials", 8, "--strategy", "random")
    frame = pd.read_csv("complexity_search/space-random/trials.csv").set_index("width")
    assert set(frame.index) == {8, 11, 12, 13}
    reasons = frame.reason.groupby(level=0).first()
    assert reasons[11] == "training raised RuntimeError: eleven is no better"
    assert reasons[12] == "training diverged: val_loss is nan at its end"
    assert reasons[13].endswith("Net cannot be made: ValueError: thirteen brings bad luck")
    assert set(frame.state[[8]]) == {"complete"}
    assert f"{(frame.state == 'fail').sum()} of 8 trials failed:" in printed


MISTAKES: list[tuple[str, tuple[object, ...], str]] = [
    ("wdth: [1, 2]", (), "--model .*Net does not take 'wdth' of space.yaml; it takes width, lr, .* Did you mean width"),
    ("lr: [0.1, 0.2]", (), "--model .*Net needs width, and space.yaml does not give it"),
    (
        "width: [2]\ndata.size: [1, 2]",
        (),
        "--datamodule .*Data does not take 'size' of space.yaml; it takes batch_size",
    ),
    ("width: [2, 3]", ("--monitor", "val_los"), "--monitor val_los is not logged; logged are .*Did you mean val_loss"),
    ("width: [2, 3]", ("--monitor", "val_loss", "--objectives", "val_acc"), "--objectives must have val_loss, the mon"),
    ("width: [2, 3]", ("--objectives", "parameters"), "--objectives must have val_loss, the monitor, got parameters"),
    ("width: [2, 3]", ("--objectives", "val_loss", "val_ac"), "there is no 'val_ac'; there are .*Did you mean val_acc"),
    ("width: [2, 3]", ("--data", "digits"), "--data is for networks of a space; with --model, put it into the YAML"),
    ("width: [2, 3]", ("--model", f"{OWN}:Silent"), "no value of the validation is logged .*; logged are train_loss"),
    ("width: [2, 3]", ("--model", f"{OWN}:Ner"), "has no 'Ner'. Did you mean Net"),
    ("width: [2, 3]", ("--model", f"{OWN}:NUMBER"), "must be a class or a function, got int"),
    ("width: [2, 3]", ("--datamodule", f"{OWN}:DataLoader"), "needs dataset, and space.yaml does not give it"),
    ("width: [11]\nlr: [0.1, 0.2]", (), "a first try, to see what is logged, failed with width=11, lr=.*eleven is no"),
    ("width: [2, 3]", ("--strategy_options", "x"), "--strategy_options must be such as"),
]


@pytest.mark.parametrize(("text", "words", "message"), MISTAKES)
def test_mistakes(text: str, words: tuple[object, ...], message: str, search: Search) -> None:
    write(text)
    with pytest.raises(SystemExit, match=message) as stopped:
        search(*WORDS, *words)
    assert "\n" not in str(stopped.value)


def test_an_objective_that_is_logged_is_the_monitor(search: Search) -> None:
    write("width: [2, 3]")
    printed = search(*WORDS, "--max_epochs", 1, "--trials", 1, "--objectives", "val_acc", "parameters")
    assert "for val_acc (maximize), parameters (minimize)." in printed


def test_what_is_never_logged(
    search: Search, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = module.fit

    def without_a_first_try(*arguments: Any, **options: Any) -> None:
        if "fast_dev_run" in options:
            raise TrialError("bad luck")
        fit(*arguments, **options)

    monkeypatch.setattr(module, "fit", without_a_first_try)
    write("width: [2, 3]")
    with pytest.raises(SystemExit) as stopped:
        search(*WORDS, "--trials", 1, "--monitor", "val_los")
    assert stopped.value.code == 1
    assert "val_los was never logged; logged are train_loss, val_loss, val_acc" in capsys.readouterr().out


def test_a_file_without_a_module(search: Search) -> None:
    write("width: [2, 3]")
    with pytest.raises(SystemExit, match=r"--space space\.yaml is a file of parameters: say of what with --model"):
        search("--space", "space.yaml")
    with pytest.raises(SystemExit, match="--model needs a YAML file with its parameters as --space"):
        search(*WORDS[:4])


def test_pruning_of_a_module(search: Search) -> None:
    write("width: {type: int, low: 2, high: 10}\nlr: {type: float, low: 1e-5, high: 1e-1, log: true}")
    words = ("--objectives", "val_loss", "--pruner", "median", "--pruner_options", "n_startup_trials=1")
    printed = search(*WORDS, "--trials", 8, "--max_epochs", 3, *words)
    frame = pd.read_csv("complexity_search/space-tpe/trials.csv")
    assert 0 < (frame.state == "pruned").sum() < 8
    assert "trials were pruned" in printed
