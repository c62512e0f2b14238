"""Do measures of untrained networks say which will be accurate? ``python -m benchmarks.at_initialisation``.

Writes ``at_initialisation.csv`` beside this package, a row a network, and ``docs/at-initialisation.md`` from it.
"""
