"""Formulas of weight matrices and of what is counted and summed over them."""
