"""A search as workers run it: described in a storage, one trial at a time, reported at the end."""
