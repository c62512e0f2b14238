"""Linear algebra with matrices that are only multiplied with, random numbers, and ranges of floating point."""
