"""Gradients of each sample's loss, from one backward pass of the batch."""

from lightning_complexity.network.per_sample.passes import (
    BySample,
    sample_gradient_products,
    squared_sample_gradients,
)

__all__ = ["BySample", "sample_gradient_products", "squared_sample_gradients"]
