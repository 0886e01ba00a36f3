"""``robmed curve``: robust accuracy over epsilon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from robustbench_med.evaluation.adversary import DEFAULT_RADII, radii_of
from robustbench_med.evaluation.prepare import RunConfig, prepare
from robustbench_med.evaluation.workers import ALONE, Workers
from robustbench_med.measure.curve import EpsilonCurve, curve_of
from robustbench_med.reporting.curve import draw
from robustbench_med.reporting.figures import drawn
from robustbench_med.studies.crew import Order, in_order
from robustbench_med.studies.records import folder_name
from robustbench_med.studies.result import OnRecord
from robustbench_med.studies.run import checked, require_single, say_guesses
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, sha256_json, write_json

LINF_GRID = tuple(k / 255 for k in (0.5, 1, 2, 4, 8))  # docs/method.md, "Threat model"


def epsilon_curve(
    config: RunConfig,
    radii: Sequence[float] = (),
    audited: str | None = None,
    pictures: bool = True,
    workers: Workers = ALONE,
    on_record: OnRecord | None = None,
) -> tuple[EpsilonCurve, Path]:
    """Run the same attack at each radius. Every run has its record, none a row: they are parts of
    one claim. Finished ones are not repeated.

    Args:
        config: its ``eps`` says how the radii of the modalities compare; all are scaled together.
        radii: of the first attacked modality that is no table (of the first, if all are); half, 1, 2, 4 and
            8 / 255 for Linf when not given, or as many times a table's default.
        workers, on_record: see ``robustbench_med.studies.several.run_all``.

    Returns:
        The curve, and the folder with curve.json and, with ``pictures``, curve.png.

    Raises:
        UserError: see ``robustbench_med.studies.run.run``; no radii for an L2 norm, or one that is 0.
    """
    config = checked(config)
    require_single(config, "a curve")
    if not radii and config.norm != "linf":
        raise UserError("curve needs radii above 0 (for L2 norms it has none of its own): --radii 0.25,0.5,1")
    first = prepare(replace(config, eps=config.eps or (None if config.norm == "linf" else 1.0)))
    modalities = {m.name: m for m in first.plan.split.info.modalities}
    base = radii_of(first.config.eps, config.norm, config.modality, list(modalities.values()))
    of = next((name for name in base if modalities[name].kind != "table"), next(iter(base)))
    grid = LINF_GRID if modalities[of].kind != "table" else _scaled(LINF_GRID)
    chosen = tuple(sorted(set(radii or grid)))
    if chosen[0] <= 0:
        raise UserError("curve needs radii above 0: --radii 1/255,2/255")
    if base[of] == 0:
        raise UserError(f"curve: the radius of {of!r} is 0, so the others cannot be scaled with it")
    say_guesses(first.subject, config.dataset)
    orders, out = [], given_path(config.out)
    for radius in chosen:
        eps = {name: epsilon * radius / base[of] for name, epsilon in base.items()} | {of: radius}
        prepared = prepare(replace(config, eps=eps), first.subject)
        orders.append(Order(prepared, None, audited, True, pictures, on_record, row=False))
    records = [result.record for result in in_order(orders, workers)]
    curve = curve_of(records, chosen, of)
    label, dataset = records[0]["model"]["label"], records[0]["dataset"]["name"]
    folder = out / folder_name(label, "curve", dataset, sha256_json(curve.runs)[:12])
    write_json(folder / "curve.json", curve.as_record() | {"folder": folder.name})
    if pictures:
        drawn(partial(draw, curve), folder / "curve.png")
    return curve, folder


def _scaled(grid: Sequence[float]) -> tuple[float, ...]:
    """The grid of images as one of tables, whose default radius is another."""
    return tuple(r * DEFAULT_RADII["table"] / DEFAULT_RADII["image"] for r in grid)
