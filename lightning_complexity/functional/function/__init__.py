"""Formulas of how outputs depend on inputs."""
