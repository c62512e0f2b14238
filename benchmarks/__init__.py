"""What measuring and penalising cost, as multiples of a training step: ``python -m benchmarks``."""

import os

# The profiler that counts memory writes a line to stderr whenever it starts or stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "9")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
