"""Published modules train the same with a monitor, which logs what it should; ``docs/clients.md`` says so."""

from __future__ import annotations

import pytest

from tests.clients.judging import judge, row, shortcomings
from tests.clients.registry import CLIENTS
from tests.clients.table import cells, committed

SHARE_OUT_OF_THE_BOX = 0.75


@pytest.mark.parametrize("name", CLIENTS)
def test_client(name: str) -> None:
    judged = judge(name)
    assert shortcomings(judged) == []
    assert row(name, judged) == committed()[CLIENTS.index(name)], "`make clients-table` writes the table anew"


def test_function_is_measured_out_of_the_box_on_most() -> None:
    rows = [cells(row) for row in committed()]
    assert len(rows) == len(CLIENTS)
    measured = [row["client"] for row in rows if row["of the function"] != "no"]
    assert len(measured) >= SHARE_OUT_OF_THE_BOX * len(rows)
