"""Commands that choose a model."""
