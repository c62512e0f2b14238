"""See, or replace, each operation of a network's forward pass."""
