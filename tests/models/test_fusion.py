"""The fusion baselines are what their papers say, each against an independent computation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mixed import ALIKE, HIGH, LOW, MIXED, SECOND, TABLE, net, sample, wake
from narrow import NARROW, TWO, images
from tiny import asks, takes
from torch import Tensor, nn

from robustbench_med.models.controls import Early, Late, Single
from robustbench_med.models.drifa import DRIFA, MFA, MIFA
from robustbench_med.models.fusion import Concat
from robustbench_med.models.gates import DAFT, MMTM, AffineTransform, GatedUnit, TransferModule
from robustbench_med.models.layers import SameConv2d
from robustbench_med.models.low_rank import LowRankProduct
from robustbench_med.models.tokens import Attention, Bottleneck, BottleneckLayer, HEALNet, TransformerLayer
from robustbench_med.models.trunks import BasicBlock
from robustbench_med.util.errors import UserError

# Controls


def test_single_sees_its_own_modality_alone() -> None:
    modalities = takes(TWO)
    heads = (*asks({"first": 2}, ("x",)), *asks({"second": 3}, ("y",)))
    model = Single(modalities, heads, width=NARROW).eval()
    inputs = images(TWO)
    before = model(inputs)
    after = model({**inputs, "y": 1 - inputs["y"]})
    assert torch.equal(before["first"], after["first"])
    assert not torch.equal(before["second"], after["second"])


@pytest.mark.parametrize("modality", ["y", 2])
def test_single_sees_the_modality_it_is_told_to(modality: str | int) -> None:
    model = net(Single, takes(TWO), modality=modality)
    assert list(model.get_submodule("trunks").state_dict()) == [
        name for name in model.get_submodule("trunks").state_dict() if name.startswith("y.")
    ]
    inputs = images(TWO)
    assert torch.equal(model(inputs)["first"], model({**inputs, "x": 1 - inputs["x"]})["first"])
    assert not torch.equal(model(inputs)["first"], model({**inputs, "y": 1 - inputs["y"]})["first"])


@pytest.mark.parametrize(
    ("modality", "said"),
    [
        ("", r"first is about x and y; say which one the net sees \(modality: x\)"),
        ("z", "unknown modality 'z'"),
        (3, r"modality 3 of 2; the data has 1 \(x\), 2 \(y\)"),
        (0, "modality 0 of 2"),
        (True, "unknown modality 'True'"),
    ],
)
def test_single_must_know_which(modality: str | int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        net(Single, takes(TWO), modality=modality)


def test_single_is_not_asked_about_what_its_modality_does_not_show() -> None:
    with pytest.raises(UserError, match="first is about x, not about y; leave the option modality out"):
        Single(takes(TWO), asks({"first": 2}, ("x",)), width=NARROW, modality="y")


def test_early_is_one_trunk_on_all_channels() -> None:
    model = net(Early, ALIKE)
    wake(model)
    inputs = sample(ALIKE)
    features = model.get_submodule("trunk")(torch.cat(list(inputs.values()), 1)).mean((2, 3))
    torch.testing.assert_close(model(inputs)["first"], model.get_submodule("heads.first")(features))


def test_early_keeps_every_table_in_its_own_units() -> None:
    rescale = net(Early, (TABLE, SECOND)).get_submodule("trunk.0")
    values = torch.cat([torch.from_numpy(HIGH), torch.tensor([2.0, 1.0])])[None]
    torch.testing.assert_close(rescale(values), torch.tensor([[2.0, 2.0, 2.0, 2.0, 0.0]]))


def test_late_is_the_mean_of_the_logits_of_those_that_share_a_label() -> None:
    modalities = takes(TWO)
    heads = (*asks({"both": 2}, ("x", "y")), *asks({"own": 3}, ("y",)))
    torch.manual_seed(0)
    late = Late(modalities, heads, width=NARROW).eval()
    wake(late)
    logits: dict[str, dict[str, Tensor]] = {}
    for name in TWO:
        own = tuple(head for head in heads if name in head.modalities)
        alone = Single(modalities, own, width=NARROW, modality=name).eval()
        state = {k: v for k, v in late.state_dict().items() if k.startswith(f"trunks.{name}.")}
        state |= {
            f"heads.{h.name}.{p}": late.get_parameter(f"heads.{name}.{h.name}.{p}")
            for h in own
            for p in ("weight", "bias")
        }
        alone.load_state_dict(state)
        logits[name] = alone(images(TWO))
    found = late(images(TWO))
    assert found["both"].abs().min() > 1e-3
    torch.testing.assert_close(found["both"], (logits["x"]["both"] + logits["y"]["both"]) / 2)
    torch.testing.assert_close(found["own"], logits["y"]["own"])
    assert list(dict(Late(modalities, heads[1:], width=NARROW).get_submodule("trunks").named_children())) == [
        "y"
    ]
    with pytest.raises(UserError, match="late fusion: own is about z, and the data has x and y"):
        Late(modalities, asks({"own": 3}, ("z",)), width=NARROW)


# Gates


def features(*sizes: int) -> list[Tensor]:
    stream = torch.Generator().manual_seed(2)
    return [torch.randn(4, size, generator=stream) for size in sizes]


def test_two_gates_sum_to_one_and_weigh_as_published() -> None:
    torch.manual_seed(0)
    unit, (one, two) = GatedUnit([3, 5], 6), features(3, 5)
    gates = unit.gates([one, two])
    torch.testing.assert_close(gates.sum(0), torch.ones(4, 6))
    z = torch.sigmoid(torch.cat([one, two], 1) @ unit.gate.weight.T)
    first, second = (unit.get_parameter(f"hidden.{i}.weight") for i in range(2))
    expected = z * torch.tanh(one @ first.T) + (1 - z) * torch.tanh(two @ second.T)
    torch.testing.assert_close(unit([one, two]), expected)


def test_three_gates_are_each_their_own() -> None:
    torch.manual_seed(0)
    unit, xs = GatedUnit([3, 5, 2], 6), features(3, 5, 2)
    gates = unit.gates(xs)
    expected = torch.sigmoid(
        torch.cat(xs, 1) @ unit.gate.weight.T
    )  # side by side, one modality after another
    torch.testing.assert_close(torch.cat(list(gates), 1), expected)
    hidden = [torch.tanh(x @ unit.get_parameter(f"hidden.{i}.weight").T) for i, x in enumerate(xs)]
    torch.testing.assert_close(unit(xs), sum(g * h for g, h in zip(gates, hidden, strict=True)))
    assert (gates.sum(0) - 1).abs().max() > 0.1


def test_the_transfer_module_by_hand() -> None:
    torch.manual_seed(0)
    module = TransferModule([4, 2, 6])
    stream = torch.Generator().manual_seed(2)
    maps = [torch.randn(3, *shape, generator=stream) for shape in ((4, 5, 3), (2, 2, 3, 4), (6,))]
    arrays = [x.numpy().astype(np.float64) for x in maps]
    state = {name: p.detach().numpy().astype(np.float64) for name, p in module.named_parameters()}
    squeezed = np.concatenate([a.reshape(3, a.shape[1], -1).mean(2) for a in arrays], 1)
    assert state["squeeze.weight"].shape == (12 // 4, 12)
    joint = np.maximum(squeezed @ state["squeeze.weight"].T + state["squeeze.bias"], 0)
    for i, (found, a) in enumerate(zip(module(maps), arrays, strict=True)):
        gate = 2 / (1 + np.exp(-(joint @ state[f"excite.{i}.weight"].T + state[f"excite.{i}.bias"])))
        expected = a * gate.reshape(*gate.shape, *(1,) * (a.ndim - 2))
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_mmtm_with_shut_exchanges_is_concatenation() -> None:
    """2·σ(0) is 1; and there are three exchanges."""
    model, plain = net(MMTM, MIXED), net(Concat, MIXED)
    exchanges = model.get_submodule("exchanges")
    assert isinstance(exchanges, nn.ModuleList)
    assert len(exchanges) == 3
    for name, parameter in exchanges.named_parameters():
        if "excite" in name:
            nn.init.zeros_(parameter)
    own = [p for name, p in model.named_parameters() if not name.startswith("exchanges")]
    with torch.no_grad():
        for mine, theirs in zip(own, plain.parameters(), strict=True):
            theirs.copy_(mine)
    inputs = sample(MIXED)
    for name, scores in model(inputs).items():
        torch.testing.assert_close(scores, plain(inputs)[name])


def test_the_affine_transform_by_hand() -> None:
    torch.manual_seed(0)
    module = AffineTransform(10, 4, 7)
    stream = torch.Generator().manual_seed(2)
    x, table = torch.randn(3, 10, 4, 5, generator=stream), torch.randn(3, 4, generator=stream)
    assert module.squeeze.weight.shape == (2, 14)
    seen = np.concatenate([x.numpy().mean((2, 3)), table.numpy()], 1)
    hidden = np.maximum(seen @ module.squeeze.weight.detach().numpy().T, 0)
    both = hidden @ module.excite.weight.detach().numpy().T
    scale, shift = both[:, :10, None, None], both[:, 10:, None, None]
    np.testing.assert_allclose(
        module(x, table).detach().numpy(), scale * x.numpy() + shift, rtol=1e-4, atol=1e-6
    )


def test_daft_transforms_what_the_last_convolutions_see_and_not_the_shortcut() -> None:
    model, inputs = net(DAFT, (*takes({"x": 1}), TABLE)), sample((*takes({"x": 1}), TABLE))
    wake(model)
    x = model.get_submodule("trunks.x")(inputs["x"])
    record = (inputs["record"] - torch.from_numpy((LOW + HIGH) / 2)) / torch.from_numpy((HIGH - LOW) / 4)
    block = model.get_submodule("last.x")
    assert isinstance(block, BasicBlock)
    assert (x > 0).any()
    inside = block.norm1(block.conv1(model.get_submodule("transforms.x")(x, record)))
    out = F.relu(block.norm2(block.conv2(F.relu(inside))) + x)
    torch.testing.assert_close(model(inputs)["first"], model.get_submodule("heads.first")(out.mean((2, 3))))


# The outer product


def test_low_rank_is_any_tensor_at_full_rank() -> None:
    """A random weight tensor for two modalities, split into factors by an SVD for each output."""
    one, two = features(4, 3)
    full = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(3))
    fuse = LowRankProduct([4, 3], 6, rank=4)
    u, s, v = torch.linalg.svd(full, full_matrices=False)
    with torch.no_grad():
        fuse.factors[0].copy_((u * s[:, None]).permute(2, 1, 0))
        fuse.factors[1].copy_(v.permute(1, 2, 0))
        fuse.bias.copy_(torch.arange(6.0))
    z = torch.einsum("ba,bc->bac", F.pad(one, (0, 1), value=1.0), F.pad(two, (0, 1), value=1.0))
    expected = torch.einsum("hac,bac->bh", full, z) + torch.arange(6.0)
    torch.testing.assert_close(fuse([one, two]), expected, rtol=1e-4, atol=1e-4)


def test_low_rank_of_three_modalities_is_the_tensor_of_its_factors() -> None:
    torch.manual_seed(0)
    fuse, xs = LowRankProduct([4, 3, 2], 6, rank=2), features(4, 3, 2)
    padded = [F.pad(x, (0, 1), value=1.0) for x in xs]
    tensor = torch.einsum("rah,rch,reh->hace", *fuse.factors)
    expected = torch.einsum("hace,ba,bc,be->bh", tensor, *padded)
    torch.testing.assert_close(fuse(xs), expected, rtol=1e-4, atol=1e-5)


# Attention


def test_attention_and_layer_are_those_of_torch() -> None:
    torch.manual_seed(0)
    mine = TransformerLayer(16)
    theirs = nn.TransformerEncoderLayer(16, 4, 64, 0.0, F.gelu, batch_first=True, norm_first=True)
    parts = mine.attention.query, mine.attention.key, mine.attention.value
    state = {
        "self_attn.in_proj_weight": torch.cat([part.weight for part in parts]),
        "self_attn.in_proj_bias": torch.cat([part.bias for part in parts]),
    }
    pairs = {
        "self_attn.out_proj": "attention.out",
        "linear1": "feed.0",
        "linear2": "feed.2",
        "norm1": "norm",
        "norm2": "feed_norm",
    }
    for there, here in pairs.items():
        state |= {f"{there}.{p}": mine.get_parameter(f"{here}.{p}") for p in ("weight", "bias")}
    theirs.load_state_dict(state)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-4, atol=1e-5)
    weights = mine.attention.weights(x, x[:, :3])
    assert weights.shape == (2, 4, 5, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))


def depends(out: Tensor, on: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(out.pow(2).sum(), on, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.abs().sum() > 0)


def test_modalities_meet_in_the_shared_tokens_only() -> None:
    torch.manual_seed(0)
    one, two = BottleneckLayer(2, 8), BottleneckLayer(2, 8)
    tokens = [torch.randn(2, 5, 8, requires_grad=True), torch.randn(2, 3, 8, requires_grad=True)]
    shared = torch.randn(2, 4, 8, requires_grad=True)
    own, after = one(tokens, shared)
    assert [x.shape for x in (*own, after)] == [(2, 5, 8), (2, 3, 8), (2, 4, 8)]
    for i in range(4):
        assert all(depends(after[:, i], z) for z in tokens), "a shared token sees every modality"
    assert all(depends(x, shared) for x in own)
    assert [[depends(x, z) for z in tokens] for x in own] == [[True, False], [False, True]]
    later, _ = two(own, after)
    assert all(depends(x, z) for x in later for z in tokens), "and hands on what it saw"
    later, _ = two(own, shared)
    assert [[depends(x, z) for z in tokens] for x in later] == [[True, False], [False, True]]
    each = [layer(torch.cat([z, shared], 1))[:, -4:] for layer, z in zip(one.layers, tokens, strict=True)]
    torch.testing.assert_close(after, (each[0] + each[1]) / 2)


def test_the_logits_of_bottleneck_fusion_are_the_mean_over_its_class_tokens() -> None:
    model = net(Bottleneck, MIXED)
    assert isinstance(model, Bottleneck)
    seen: list[Tensor] = []
    first: list[Tensor] = []
    model.get_submodule("norm").register_forward_hook(lambda *call: seen.append(call[2]))
    model.get_submodule("layers.0").register_forward_pre_hook(lambda *call: first.extend(call[1][0]))
    after: list[tuple[list[Tensor], Tensor]] = []
    model.get_submodule("layers.1").register_forward_hook(lambda *call: after.append(call[2]))
    scores = model(sample(MIXED))
    (tokens,) = seen
    assert tokens.shape[:2] == (4, 3)
    for own, z in zip(model.class_tokens, first, strict=True):
        assert torch.equal(z[:, 0], own.expand(3, -1))
    (last,) = after
    torch.testing.assert_close(tokens, model.norm(torch.stack([z[:, 0] for z in last[0]])))
    each = torch.stack([model.get_submodule("heads.first")(token) for token in tokens])
    torch.testing.assert_close(scores["first"], each.mean(0))


def test_healnet_reads_each_modality_in_turn() -> None:
    model, read = net(HEALNet, MIXED, rounds=3), []
    for name, update in model.get_submodule("updates").named_children():
        update.register_forward_hook(lambda *call, name=name: read.append((name, call[1][0], call[2])))
    model(sample(MIXED))
    assert [name for name, _, _ in read] == [m.name for m in MIXED] * 3
    for (_, _, written), (_, latent, _) in itertools.pairwise(read):
        assert torch.equal(written, latent), "every update goes on from the one before"


def test_healnet_skips_what_is_missing() -> None:
    """Like a net that never had the modality, from the same weights."""
    model, fewer = net(HEALNet, MIXED), net(HEALNet, MIXED[:-1])
    state = model.state_dict()
    fewer.load_state_dict({name: state[name] for name in fewer.state_dict()})
    inputs = sample(MIXED)
    there = {name: x for name, x in inputs.items() if name != MIXED[-1].name}
    assert torch.equal(model(there)["first"], fewer(there)["first"])
    assert not torch.equal(model(there)["first"], model(inputs)["first"])


def test_a_latent_update_by_hand() -> None:
    torch.manual_seed(0)
    model = net(HEALNet, takes({"x": 1}))
    update = model.get_submodule("updates.x")
    latent, tokens = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    attention, feed = update.get_submodule("attention"), update.get_submodule("feed")
    assert isinstance(attention, Attention)
    s = latent + attention(F.layer_norm(latent, (16,)), F.layer_norm(tokens, (16,)))
    torch.testing.assert_close(update(latent, tokens), s + feed(F.layer_norm(s, (16,))))


# DRIFA-Net


def conv(layer: nn.Module, x: Tensor) -> Tensor:
    """A 1×1 convolution, written as what it is."""
    assert isinstance(layer, SameConv2d)
    assert layer.bias is not None
    return torch.einsum("oc,bchw->bohw", layer.weight[:, :, 0, 0], x) + layer.bias[:, None, None]


def test_the_attention_within_a_modality_by_hand() -> None:
    torch.manual_seed(0)
    module, x = MFA(3), torch.randn(2, 3, 8, 8)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    y = x
    for number, layer in enumerate(module.chain):
        y = torch.sigmoid(conv(layer, y))
        y = (
            F.max_pool2d(y, 2)
            if number % 2 and y.shape[-1] > 1
            else F.avg_pool2d(y, 2)
            if y.shape[-1] > 1
            else y
        )
    g = torch.sigmoid(module.dense(y[:, :, 0, 0]))
    local = sum(torch.sigmoid(conv(layer, x)).mean((2, 3)) for layer in module.local)
    a = torch.sigmoid(module.global_scale * g + module.local_scale * local)
    torch.testing.assert_close(module(x), x * (a * module.out_scale)[:, :, None, None])


def test_the_attention_across_modalities_by_hand() -> None:
    torch.manual_seed(0)
    module, maps = MIFA(3, 3), [torch.randn(2, 3, 4, size) for size in (4, 5, 6)]
    for parameter in module.parameters():
        nn.init.normal_(parameter)

    def pools(x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return flat.min(2).values + flat.mean(2) + flat.max(2).values

    g = torch.sigmoid(module.dense(sum(map(pools, maps))))
    local = sum(pools(torch.sigmoid(conv(layer, x))) for layer, x in zip(module.local, maps, strict=True))
    a = torch.sigmoid(module.global_scale * g + module.local_scale * local)
    for found, x, scale in zip(module(maps), maps, module.out_scales, strict=True):
        torch.testing.assert_close(found, x * (a * scale)[:, :, None, None])


def test_where_drifa_attends() -> None:
    model = net(DRIFA, takes(TWO))
    kinds = [type(m) for m in model.modules()]
    # Per branch one in the stem, two in each of eight blocks, and one after each of seven blocks.
    assert kinds.count(MFA) == 2 * (1 + 16 + 7)
    assert kinds.count(MIFA) == 8
    assert model.draws_shared_by == "none"
    assert net(DRIFA, takes(TWO), inference_dropout=True).draws_shared_by == "element"
