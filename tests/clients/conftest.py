from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def seeded_double_precision() -> None:
    """Not here: packages train in single precision, and each training seeds itself."""
