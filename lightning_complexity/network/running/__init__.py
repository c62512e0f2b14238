"""Run a network on a batch, with tensors of one's own in it, and leave no trace."""
