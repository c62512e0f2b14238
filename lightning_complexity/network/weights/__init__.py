"""The weights of a network: which there are, as matrices, and their norms."""
