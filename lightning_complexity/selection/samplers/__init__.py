"""Samplers of Optuna that choose whole structures of a space."""
