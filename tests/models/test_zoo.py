"""The fusion baselines take any modalities that their definitions allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from mixed import ALIKE, MIXED, SECOND, TABLE, THREE, Architecture, net, sample
from narrow import DEFENSES, NARROW
from tiny import takes
from torch import Tensor

from robustbench_med.api.data import Modality
from robustbench_med.data import phantom, phantom_record
from robustbench_med.models.controls import Early, Late, Single
from robustbench_med.models.drifa import DRIFA
from robustbench_med.models.fusion import Concat
from robustbench_med.models.gates import DAFT, MMTM, Gated
from robustbench_med.models.layout import lay_channels_last
from robustbench_med.models.low_rank import LowRank
from robustbench_med.models.named import build_model, model_config
from robustbench_med.models.tokens import Bottleneck, HEALNet
from robustbench_med.models.trunks import stage_widths, stages, trunk
from robustbench_med.util.config import shipped
from robustbench_med.util.errors import UserError

ANY_KIND: tuple[Architecture, ...] = (Concat, Late, Gated, LowRank, MMTM, Bottleneck, HEALNet)
CASES: list[tuple[Architecture, tuple[Modality, ...]]] = [
    *((each, THREE) for each in (*ANY_KIND, DRIFA)),
    *((each, MIXED) for each in (*ANY_KIND, DAFT)),
    (Early, ALIKE),
    (Early, (TABLE, SECOND)),
    (DAFT, (*THREE, TABLE, SECOND)),
    *((each, takes({"x": 1})) for each in (*ANY_KIND, DRIFA, Early)),
]


def total(scores: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([x.pow(2).sum() for x in scores.values()]).sum()


@pytest.mark.parametrize(("of", "modalities"), CASES)
def test_every_modality_and_parameter_matters(of: Architecture, modalities: tuple[Modality, ...]) -> None:
    model = net(of, modalities)
    inputs = {name: x.requires_grad_() for name, x in sample(modalities).items()}
    scores = model(inputs)
    assert {name: tuple(x.shape) for name, x in scores.items()} == {"first": (3, 2), "second": (3, 3)}
    total(scores).backward()  # type: ignore[no-untyped-call]
    for x in inputs.values():
        assert x.grad is not None
        assert (x.grad.flatten(1).abs().sum(1) > 0).all()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("of", "modalities"), CASES)
def test_a_sample_does_not_depend_on_the_others_on_order_or_on_layout(
    of: Architecture, modalities: tuple[Modality, ...]
) -> None:
    model = net(of, modalities).requires_grad_(False)
    inputs = sample(modalities)
    whole = model(inputs)
    alone = model({name: x[1:2] for name, x in reversed(inputs.items())})
    lay_channels_last(model)
    laid = {
        n: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for n, x in inputs.items()
    }
    for name, scores in model(laid).items():
        torch.testing.assert_close(alone[name], whole[name][1:2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scores, whole[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", shipped("models"))
def test_every_named_model_takes_the_data_it_is_for(name: str) -> None:
    info = phantom_record.INFO if name == "daft" else phantom.INFO
    if name == "single":
        with pytest.raises(UserError, match=r"lesion is about mr and ct; say which one.*modality: mr"):
            build_model(model_config(name), info)
        return
    model = build_model(model_config(name).with_options({"width": NARROW}), info).eval()
    scores = model(sample(info.modalities, 2))
    assert {n: x.shape[1] for n, x in scores.items()} == {h.name: h.columns[0] for h in info.heads}


@pytest.mark.parametrize(
    ("of", "modalities", "said"),
    [
        (Early, THREE, r"one kind and size, not x \(image, \(1, 32, 32\)\), y"),
        (Early, (*ALIKE, TABLE), r"one kind and size.*record \(table"),
        (DAFT, THREE, r"by a table; the data has x \(image\)"),
        (DAFT, (TABLE, SECOND), r"an image, volume or signal.*history \(table\)"),
        (DRIFA, MIXED, r"fuses images, not volume \(volume\), signal \(signal\), record \(table\)"),
    ],
)
def test_modalities_a_definition_has_no_place_for(
    of: Architecture, modalities: tuple[Modality, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        net(of, modalities)


@pytest.mark.parametrize(
    ("of", "options"),
    [
        (LowRank, {"rank": 0}),
        (LowRank, {"rank": 2.5}),
        (LowRank, {"rank": "4"}),
        (Bottleneck, {"layers": 1}),
        (Bottleneck, {"bottlenecks": 0}),
        (HEALNet, {"latents": 0}),
        (HEALNet, {"rounds": 0}),
        (DAFT, {"reduction": 0}),
    ],
)
def test_impossible_options(of: Architecture, options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=rf"{name} is {value!r}; it must be a whole number, [12] or more"):
        net(of, (*takes({"x": 1}), TABLE), **options)


@pytest.mark.parametrize("modality", MIXED, ids=lambda m: m.kind)
def test_stages_are_the_trunk_in_parts(modality: Modality) -> None:
    widths = (2, 4, 6, 8)
    torch.manual_seed(0)
    whole = trunk(modality, widths).eval()
    torch.manual_seed(0)
    x = y = sample((modality,))[modality.name]
    for part, channels in zip(stages(modality, widths).eval(), stage_widths(modality, widths), strict=True):
        y = part(y)
        assert y.shape[1] == channels
    assert torch.equal(y, whole(x))


@pytest.mark.parametrize("of", [*ANY_KIND, DRIFA, Early, Single, DAFT])
@pytest.mark.parametrize(
    ("where", "hook", "count"), [("stem", "stem-convolution", 1), ("branches", "convolution", 20)]
)
def test_filters_fit_every_trunk(of: Architecture, where: str, hook: str, count: int) -> None:
    """One image of 20 convolutions; those of attention are none of the trunk's."""
    modalities = (*takes({"x": 1}), *((TABLE,) if of is DAFT else ()))
    model = net(of, modalities, **({"modality": "x"} if of is Single else {}))
    assert len(model.sites(hook)) == count
    DEFENSES.get("projection-filters")(ratio=0.75, where=where).apply(model)
    model.requires_grad_(False).eval()
    assert model.draws_shared_by == "batch"
    inputs = sample(modalities)
    assert not torch.equal(model(inputs)["first"], model(inputs)["first"])
