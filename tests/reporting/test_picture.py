"""The picture of a run: what it says of samples, and what it does not magnify."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import ATTACKS, CHANNELS, CLASSES, ConvNet, labelled_by, plan_of, random_split, seeded, threat_of

from robustbench_med.evaluation.batches import evaluate
from robustbench_med.measure.accuracy import accuracies
from robustbench_med.reporting import picture
from robustbench_med.reporting.picture import _slices


def texts(figure: Any) -> list[str]:
    """Every text of a figure, the title first."""
    found = [figure.get_suptitle()]
    for axis in figure.axes:
        found += [axis.get_title(), *(text.get_text() for text in axis.texts)]
    return [text for text in found if text]


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a run whose first sample is wrong from the start, and whose second rounding alone has touched."""
    net = seeded(ConvNet, CHANNELS, CLASSES)
    split = labelled_by(net, random_split(4))
    labels = {"first": split.labels["first"].copy(), "second": split.labels["second"]}
    labels["first"][0] = (labels["first"][0] + 1) % CLASSES["first"]
    plan = plan_of(net, replace(split, labels=labels), ATTACKS.get("fgsm")(), threat_of(a=0.1, b=0.1))
    outcomes = evaluate(plan, tmp_path / "parts", lambda _: None)
    shown = {f"{kind}/{m}": split.arrays[m][:3].copy() for kind in ("clean", "adversarial") for m in CHANNELS}
    for name in CHANNELS:
        shown[f"adversarial/{name}"][1] += 1e-6
        shown[f"adversarial/{name}"][2] += 0.1
    outcomes = replace(outcomes, shown={"index": np.arange(3), **shown})
    found: list[str] = []
    monkeypatch.setattr(picture, "saved", lambda figure, _: found.extend(texts(figure)))
    measured = accuracies(outcomes, plan.goal, "none")
    picture.draw(outcomes, plan, measured, "a-net", tmp_path / "a.png")
    return found


def test_nothing_is_not_magnified(drawn: list[str]) -> None:
    assert drawn.count("not attacked:\nwrong before") == 2  # of two modalities
    assert drawn.count("no change") == 2
    assert [text for text in drawn if text.startswith("change x")] == ["change x5"] * 2


def test_it_says_what_it_is_of(drawn: list[str]) -> None:
    title = " ".join(drawn[0].split())
    for said in ("a-net on specks, synthetic under test", "every head right: clean 75.0 (", "first: "):
        assert said in title


def test_slices_of_a_volume() -> None:
    clean = np.zeros((1, 5, 3, 3), np.float32)
    other, both = clean.copy(), clean.copy()
    other[0, 1] = both[0, 2] = 0.5
    both[0, 1] = 1.0
    assert _slices(clean, clean, clean)[0].shape == (1, 3, 3)
    assert _slices(clean, other, other)[1].max() == 0.5  # where the middle was left alone
    assert _slices(clean, both, both)[2].max() == 0.5  # the middle
