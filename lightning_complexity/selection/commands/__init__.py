"""The commands of choosing a model."""
