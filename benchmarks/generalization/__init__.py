"""Do penalties help on new data? Small training sets, with and without noisy labels, all methods tuned alike.

``python -m benchmarks.generalization`` keeps every run in ``benchmarks/generalization.csv``, goes on where it was
interrupted, and writes ``docs/generalization.md``. Delete the table to start anew.
"""
