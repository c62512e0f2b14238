"""Formulas of the gradients of single samples."""
