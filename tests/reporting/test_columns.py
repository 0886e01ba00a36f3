"""Every column of a leaderboard is explained, and pandas reads the published ones in one call."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from robustbench_med.reporting.columns import FIELDS, dictionary, schema
from robustbench_med.reporting.leaderboard import COLUMNS

ROOT = Path(__file__).parents[2]
BOARDS = sorted((ROOT / "leaderboards").glob("*.csv"))


def test_every_column_is_explained_once() -> None:
    assert tuple(FIELDS) == COLUMNS
    assert all(told for _, told in FIELDS.values())


def test_what_is_published_is_what_the_code_says() -> None:
    assert json.loads((ROOT / "leaderboards" / "schema.json").read_text()) == schema()
    assert dictionary() in (ROOT / "docs" / "columns.md").read_text()


@pytest.mark.parametrize("board", BOARDS, ids=[board.stem for board in BOARDS])
def test_pandas_reads_a_published_board_in_one_call(board: Path) -> None:
    found = pd.read_csv(board)
    kinds = {"integer": "i", "number": "f"}
    assert list(found.columns) == list(COLUMNS)
    for name, (kind, _) in FIELDS.items():
        if kind in kinds and not found[name].isna().all():
            assert found[name].dtype.kind in ("i", kinds[kind]), name
    assert found["run"].is_unique
    assert found["robust"].between(0, 1).all()
    assert (found["robust_low"] <= found["robust_high"]).all()
