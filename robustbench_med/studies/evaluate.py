"""A net and data from Python, in one call: what ``robmed run`` does, on objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from robustbench_med.api.data import Split
from robustbench_med.api.heads import Head, SingleLabel
from robustbench_med.api.model import FusionModel
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation.prepare import RunConfig, Subject, looked_at, prepare
from robustbench_med.models.bound import Looked
from robustbench_med.models.code import fingerprint
from robustbench_med.models.load import LoadedModel, load_model, looked, wrapped
from robustbench_med.models.named import ModelConfig
from robustbench_med.models.wrap import Wrap
from robustbench_med.studies.live import Data, taken
from robustbench_med.studies.result import OnRecord, Result
from robustbench_med.studies.run import checked, run_prepared
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError
from robustbench_med.util.terminal import say

Model = str | Callable[..., Any] | Wrap | FusionModel


def evaluate(
    model: Model,
    data: Data | str | Path,
    attack: str = "pgd",
    *,
    audit: str | None = None,
    weights: str | None = None,
    on_record: OnRecord | None = None,
    **options: Any,
) -> Result:
    """The robust accuracy of a net on some data, with everything that ``robmed run`` says of it.

        net = MyNet().eval()
        result = evaluate(net, (images, labels), attack="pgd", eps="4/255")
        print(result.accuracy["every head right"].robust)

    Args:
        model: a net or any callable from inputs to scores; ``wrap(net, …)`` where it cannot be guessed how
            it is called; or a name, as ``--model`` takes it.
        data: ``(inputs, labels)``, each an array or a mapping of them by modality and by head; ``arrays``
            of them with ids, groups and names; a ``Dataset`` or ``DataLoader``; a ``Split``; a name or path,
            as ``--dataset`` takes it.
        attack: as ``--attack`` takes it.
        audit: "quick", "default" or a file: make every check of the number.
        on_record: is given the record once it is on disk, with the run's folder under ``folder``; so does
            ``robustbench_med.mlflow.log_record``.
        options: further fields of ``RunConfig`` (eps, norm, modality, head, eot, draws, samples, seed, out,
            …), and of the attack (steps, restarts, loss, …).

    Returns:
        The result of the run; its record and row are on disk.

    Raises:
        UserError: whatever cannot be guessed, or cannot be used; one line says what to write.
    """
    config = _config(model, data, attack, weights, options)
    subject = _subject(model, data, config, weights)
    said = replace(config, model=subject.loaded.config.label, dataset=subject.whole.info.name)
    return run_prepared(prepare(said, subject), audit, on_record=on_record)


def _config(
    model: Model, data: Data | str | Path, attack: str, weights: str | None, options: Mapping[str, Any]
) -> RunConfig:
    known = {f.name for f in fields(RunConfig)}
    own = {name: value for name, value in options.items() if name in known}
    of_attack = {name: value for name, value in options.items() if name not in known}
    values = {
        "model": model if isinstance(model, str) else "net",
        "dataset": str(data) if isinstance(data, str | Path) else "data",
        "attack": attack,
        "weights": weights,
        "samples": 0,
        **own,
        "attack_options": {**own.get("attack_options", {}), **of_attack},
    }
    return checked(build(RunConfig, values, "evaluate"))


def _subject(model: Model, data: Data | str | Path, config: RunConfig, weights: str | None) -> Subject:
    whole, said = (load_dataset(str(data)), ()) if isinstance(data, str | Path) else taken(data)
    if isinstance(model, str):
        loaded = load_model(
            model, config.dataset, weights, config.device, whole, config.defenses, config.model_options
        )
    elif weights is not None:
        raise UserError("weights belong to a model that is given by name; load them into the net yourself")
    elif isinstance(model, FusionModel):
        name = type(model).__name__
        loaded = LoadedModel(model, ModelConfig(name, name), None, fingerprint(model), {})
    else:
        spec = model if isinstance(model, Wrap) else Wrap(model)
        found = looked(spec, whole)
        whole = _with_heads(found, whole) if not isinstance(data, str | Path | Split) else whole
        loaded = wrapped(spec, whole, config.device, config.defenses, found=found)
    for line in (*said, *loaded.caveats):
        say(line)
    return looked_at(replace(loaded, caveats=(*said, *loaded.caveats)), whole, config.device)


def _with_heads(found: Looked, whole: Split) -> Split:
    """The data with as many classes as the net tells of: labels need not have all of them.

    Raises:
        UserError: fewer than the labels have.
    """
    heads = tuple(_widened(head, found.columns[head.name]) for head in whole.info.heads)
    return replace(whole, info=replace(whole.info, heads=heads))


def _open(head: Head) -> bool:
    """Whether a head's classes were only counted in its labels."""
    return isinstance(head, SingleLabel) and head.classes == tuple(map(str, range(len(head.classes))))


def _widened(head: Head, columns: int) -> Head:
    if not _open(head) or columns in head.columns:
        return head
    if columns == 1:
        raise UserError(
            f"the net gives one score for {head.name}, whose labels have {len(head.answers)} classes; see to "
            "outputs, or to the labels"
        )
    if columns < len(head.answers):
        raise UserError(
            f"labels of {head.name} go up to {len(head.answers) - 1}, the net tells of {columns} classes"
        )
    return SingleLabel(head.name, modalities=head.modalities, classes=tuple(map(str, range(columns))))
