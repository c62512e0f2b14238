"""The linear regions of a network, and the patterns of its units."""
