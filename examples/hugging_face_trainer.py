"""The record of a training by the Trainer of Hugging Face.

Needs `pip install "transformers[torch]"`. The network is a small transformer with random weights; nothing is
downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from lightning_complexity.network import Task
from lightning_complexity.recording import Recorder


class ComplexityCallback(TrainerCallback):
    """Measures at the start and at each evaluation, on the first samples of both data sets.

    Args:
        recorder: That keeps the record.
        train: A batch of training samples, as the model takes it.
        validation: A batch of samples for evaluation.
    """

    def __init__(self, recorder: Recorder, train: dict[str, Any], validation: dict[str, Any]) -> None:
        self.recorder, self.train, self.validation = recorder, train, validation

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Measure the initialization."""
        self.recorder.measure(objects["model"], self.train, self.validation, step=0)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Measure at the end of each epoch."""
        options = {"step": state.global_step, "epoch": round(state.epoch) - 1}
        self.recorder.measure(objects["model"], self.train, self.validation, **options)


def samples(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Sequences of eight tokens; the class says whether most of them are large."""
    tokens = torch.randint(2, 12, (count, 8), generator=torch.Generator().manual_seed(seed))
    labels = (tokens.double().mean(1) > 6.5).long()
    return [{"input_ids": ids, "labels": label} for ids, label in zip(tokens, labels, strict=True)]


def batch(data: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The first 64 of them."""
    return {name: torch.stack([sample[name] for sample in data[:64]]) for name in data[0]}


def main(arguments: list[str] | None = None) -> None:
    """Train, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("complexity_hugging_face"))
    output = parser.parse_args(arguments).output

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=12, num_labels=2, **shape))
    train, validation = samples(512, 0), samples(128, 1)
    task = Task(
        forward=lambda module, batch: module(input_ids=batch["input_ids"]).logits,
        targets=lambda batch: batch["labels"],
        wrt="bert.embeddings.LayerNorm",
    )
    recorder = Recorder("standard", output, task=task)
    options = TrainingArguments(
        output_dir=str(output / "checkpoints"),
        num_train_epochs=3,
        learning_rate=1e-3,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
    )
    callback = ComplexityCallback(recorder, batch(train), batch(validation))
    Trainer(model, options, train_dataset=train, callbacks=[callback]).train()
    print(recorder.to_frame()[["probe/generalization_gap", "complexity/jacobian_norm"]])
    print(f"left out: {', '.join(recorder.left_out)}")


if __name__ == "__main__":
    main()
