"""Many networks, trained by workers that share a queue."""
