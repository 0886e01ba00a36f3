"""A plug-in that cannot be imported: a warning in lists, an error with its cause when it is asked for."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from robustbench_med import cli
from robustbench_med.api import registry
from robustbench_med.api.registry import Registry
from robustbench_med.util.errors import UserError

GROUP = "robustbench_med.defenses"
SOURCES = {
    "raises": "raise ValueError('first line\\nsecond \\x1b[31m')",
    "leaves": "import sys; sys.exit(3)",
    "misspelt": "def f(:\n",
    "lacks": "import no_such_package_at_all",
    "refuses": "from os import no_such_name",
    "empty": "",
}


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, EntryPoint]:
    """Entry points of a group that are all broken, by name, beside the real ones."""
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {}
    for name, source in SOURCES.items():
        (tmp_path / f"broken_{name}.py").write_text(source)
        found[name] = EntryPoint(name, f"broken_{name}:Plugin", GROUP)
    found["garbled"] = EntryPoint("garbled", "no module at all", GROUP)

    def both(**chosen: str) -> list[EntryPoint]:
        own = [e for e in found.values() if chosen["group"] == GROUP and chosen.get("name", e.name) == e.name]
        return [*entry_points(**chosen), *own]

    monkeypatch.setattr(registry, "entry_points", both)
    return found


def test_the_others_are_listed(broken: dict[str, EntryPoint], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "defenses"]) == 0
    shown = capsys.readouterr()
    listed = [line.split()[0] for line in shown.out.splitlines() if line[:1].strip()]
    assert {"jpeg", *broken} <= set(listed)
    warnings = shown.err.splitlines()
    assert len(warnings) == len(broken), warnings
    for name in broken:
        assert any(w.startswith(f"robmed: warning: the defense {name!r}") for w in warnings)
    assert "\x1b" not in shown.err


CAUSES = {"raises": ValueError, "leaves": SystemExit, "misspelt": SyntaxError, "lacks": ModuleNotFoundError}


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_is_kept(name: str, broken: dict[str, EntryPoint]) -> None:
    assert name in broken
    with pytest.raises(UserError, match=f"the defense {name!r}") as error:
        Registry("defense", GROUP).get(name)
    assert isinstance(error.value.__cause__, CAUSES[name])
    sys.modules.pop(f"broken_{name}", None)


def test_a_name_that_two_packages_claim(broken: dict[str, EntryPoint]) -> None:
    broken["jpeg again"] = EntryPoint("jpeg", "elsewhere:JPEG", GROUP)
    defenses: Registry[object] = Registry("defense", GROUP)
    assert "jpeg" in defenses.names()
    with pytest.raises(UserError, match="two packages provide the defense 'jpeg'"):
        defenses.get("jpeg")
    assert defenses.get("gaussian-noise")
