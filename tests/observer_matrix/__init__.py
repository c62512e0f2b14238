"""Trainings with and without an observer, compared to the last bit, over optimizers, networks and processes.

- ``design`` says what is varied, and chooses cases that cover all combinations of some of them;
- ``networks`` has the eight networks with their data, ``training`` trains one and takes down everything there is;
- ``comparing`` names what differed first; ``observers`` are what must not be noticed;
- ``processes`` compares on two processes; ``memory`` counts what is alive after many measurements.
"""
