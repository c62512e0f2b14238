"""Gradients, and what the optimizer makes of them."""
