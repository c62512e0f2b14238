"""Formulas of features and of attention."""
