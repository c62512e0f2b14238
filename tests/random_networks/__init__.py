"""Networks that nobody would write on purpose, and what every measure must say about them.

A :class:`cases.Case` says by names which layers, outputs, loss, precision and probe there are, so that its ``repr``
builds the same network again; ``checks`` says what is wrong with it, and ``shrinking`` finds the smallest case with the
same fault.
"""
