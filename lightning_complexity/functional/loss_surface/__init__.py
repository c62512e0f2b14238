"""Formulas of the loss around parameters, and away from them."""
