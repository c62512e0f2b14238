"""Measure while a network trains: the monitor, and what it is made of."""
