"""Networks of transformers with random weights, in the wrapper that tutorials use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from tests.clients.client import Client, fitted

TOKENS, LENGTH = 30, 6


class Wrapper(pl.LightningModule):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Any:
        return self.model(**inputs)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        outputs = self(**batch)
        self.log("train_loss", outputs.loss)
        return outputs.loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self(**batch).loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def tokens() -> dict[str, Tensor]:
    ids = torch.randint(TOKENS, (LENGTH,))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def text_with_class() -> dict[str, Tensor]:
    return {**tokens(), "labels": torch.randint(3, ())}


def text() -> dict[str, Tensor]:
    sample = tokens()
    return {**sample, "labels": sample["input_ids"]}


def image() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, 8, 8), "labels": torch.randint(3, ())}


def build(model: Callable[[], Any], sample: Callable[[], dict[str, Tensor]]) -> tuple[Any, ...]:
    training, validation = ([sample() for _ in range(size)] for size in (24, 8))
    module = Wrapper(model())
    return module, DataLoader(training, batch_size=8, shuffle=True), DataLoader(validation, batch_size=8)


SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
MODELS: dict[str, Callable[[], Any]] = {
    "BERT": lambda: BertForSequenceClassification(BertConfig(vocab_size=TOKENS, num_labels=3, **SIZES)),
    "GPT-2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=TOKENS, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
    ),
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=TOKENS, num_key_value_heads=1, **SIZES)),
    "ViT": lambda: ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **SIZES)),
}
CLIENTS = {
    "BERT": Client("transformers", fitted(lambda: build(MODELS["BERT"], text_with_class)), 'wrt="model.bert.encoder"'),
    "GPT-2": Client("transformers", fitted(lambda: build(MODELS["GPT-2"], text)), 'wrt="model.transformer.drop"'),
    "Llama": Client("transformers", fitted(lambda: build(MODELS["Llama"], text)), 'wrt="model.model.layers.0"'),
    "ViT": Client(
        "transformers",
        fitted(lambda: build(MODELS["ViT"], image)),
        'forward=lambda module, batch: module(pixel_values=batch["pixel_values"]).logits',
    ),
}
