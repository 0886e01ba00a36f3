"""The Python of the documentation runs, block after block, as a reader would type it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from robustbench_med.models.keras_nets import choose_torch

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {"keras": "keras"}
PAGES = ("models.md",)


def blocks(page: str) -> list[str]:
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    choose_torch()
    space: dict[str, Any] = {"__name__": "docs"}
    found = blocks(page)
    assert len(found) >= 6
    for block in found:
        if any(f"import {m}" in block and importlib.util.find_spec(p) is None for m, p in NEEDS.items()):
            continue
        exec(compile(block, page, "exec"), space)
    assert list(tmp_path.glob("runs/*/record.json"))


def test_every_option_that_the_pages_name_exists() -> None:
    from robustbench_med.flags import parser

    run = parser()._subparsers._group_actions[0].choices["run"]  # type: ignore[union-attr, index]
    known = set(run._option_string_actions)
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (DOCS / page).read_text(encoding="utf-8")))
        assert named <= known, named - known
