"""Comparison of spaces of networks by what a random network of each does, after Radosavovic et al. (2019)."""
