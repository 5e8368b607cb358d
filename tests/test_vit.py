"""The space vit: its texts, sizes and picture, hand counts, an independent forward, and what the rest does with it."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archscout.costs import measure
from archscout.costs.trace import trace
from archscout.data import load
from archscout.deploy import export_onnx
from archscout.devices.latency import measure_latency
from archscout.devices.profile import features, measure_profile
from archscout.errors import UserError
from archscout.fit import fit, recipe_for
from archscout.pipeline import search
from archscout.space import SearchSpace
from archscout.spaces.vit import grid, patches, space_of, vit

_spec = importlib.util.spec_from_file_location("vit_plain", Path(__file__).parent / "reference" / "vit_plain.py")
plain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plain)

CUT = {
    "patch": (2,), "width": (64, 96), "depth": (1, 2),
    "heads1": (2, 4), "ratio1": (1, 2), "heads2": (2,), "ratio2": (1, 2),
}  # fmt: skip


def network(text: str, shape: tuple[int, int, int], classes: int = 5) -> torch.nn.Module:
    space = vit(shape, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return space.build(space.parse(text)).eval()


# --- the space -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "sides"),
    [((1, 8, 8), (1, 2)), ((1, 28, 28), (2, 4)), ((3, 32, 32), (4, 8)), ((3, 64, 64), (8, 16)),
     ((3, 224, 224), (16, 32)), ((3, 7, 9), (1, 2)), ((1, 1, 1), (1,)), ((1, 4, 6), (1,)), ((3, 8, 1000), (8, 16))],
)  # fmt: skip
def test_patches_follow_the_image(shape: tuple[int, int, int], sides: tuple[int, ...]) -> None:
    assert patches(shape) == sides
    assert math.prod(grid(shape, sides[0])) <= 200


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_texts_of_raw_architectures_round_trip(data: st.DataObject) -> None:
    space = vit((3, 32, 32), 2)
    arch = tuple(data.draw(st.integers(0, len(options) - 1)) for options in space.choices.values())
    assert space.parse(space.format(arch)) == arch
    canonical = space.canonical(arch)
    assert space.canonical(canonical) == canonical
    depth = space.decode(arch)["depth"]
    assert space.format(canonical).count("h") == depth
    assert canonical == arch[: 3 + 2 * depth] + (0,) * (len(arch) - 3 - 2 * depth)


@pytest.mark.parametrize(
    "wrong",
    ["", "p4", "p4-w128", "p4-w128-d2", "p4-w128-d2-h4r2", "p3-w128-d2-h4r2-h4r2", "p4-w128-d2-h4r2-h4r3",
     "p4-w128-d2-h4r2-h4r2-", "p4-w128-d2" + 13 * "-h4r2", "w128-p4-d2-h4r2-h4r2", "p4-w128-d2-h4r2 -h4r2",
     "p4-w128-d3-h4r2-h4r2-h4r2"],
)  # fmt: skip
def test_malformed_texts_say_what_is_wanted(wrong: str) -> None:
    space = vit((3, 32, 32), 2)
    assert space.parse_of is not None
    with pytest.raises(UserError, match="wanted"):
        space.parse_of(wrong)


def test_distinct_by_brute_force() -> None:
    space = space_of((1, 8, 8), 3, CUT)
    chosen = {space.canonical(arch) for arch in space}
    assert len(chosen) == space.distinct == 2 * (4 + 4 * 2) < space.size
    with torch.device("meta"):
        assert len({str(space.build(arch)) for arch in chosen}) == space.distinct
        for arch in space:
            assert str(space.build(arch)) == str(space.build(space.canonical(arch)))


def test_picture_groups_equal_layers() -> None:
    space = vit((3, 30, 64), 2)
    assert space.describe is not None
    rows = space.describe(space.parse("p4-w96-d4-h4r2-h4r2-h2r1-h4r2"))["stages"]
    assert [(row["name"], row["blocks"]) for row in rows] == [
        ("patches", 1), ("layers 1-2", 2), ("layer 3", 1), ("layer 4", 1)
    ]  # fmt: skip
    assert rows[1]["output"] == [96, 8, 16]
    assert "4 heads, MLP ratio 2" in rows[1]["text"]


# --- counts by hand --------------------------------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    """Width 64, 16 tokens, one layer of 2 heads and ratio 2, one of 4 and 1; 3 x 8 x 8 pixels, 5 classes."""
    seen = trace(network("p2-w64-d2-h2r2-h4r1", (3, 8, 8)), (3, 8, 8))
    width, tokens, classes = 64, 16, 5

    def params(heads: int, ratio: int) -> int:
        inner = 32 * heads
        attention = 3 * (width * inner + inner) + inner * width + width
        mlp = width * ratio * width + ratio * width + ratio * width * width + width
        return attention + mlp + 2 * 2 * width

    def macs(heads: int, ratio: int) -> int:
        inner = 32 * heads
        products = 2 * tokens * tokens * inner  # every query by every key, and their weights by the values
        return tokens * (4 * width * inner + 2 * ratio * width * width) + products

    embed, head = 3 * 4 * width, width * classes
    assert seen.params == embed + width + tokens * width + params(2, 2) + params(4, 1) + 2 * width + head + classes
    assert seen.macs == tokens * embed + macs(2, 2) + macs(4, 1) + head
    softmax = (2 + 4) * tokens * tokens
    assert seen.flops == seen.macs + softmax + 2 * tokens * width * 5 + tokens * width * (2 + 1)  # norms, GELU
    assert seen.weight_bytes == 4 * seen.params
    # The image; in the attention of 4 heads the residual, its norm (64 each), query, key, value and result (128 each)
    # and one normaliser per head.
    assert seen.peak_activation_bytes == 4 * (3 * 8 * 8 + tokens * (64 + 64 + 4 * 128 + 4))


def test_range_of_parameters() -> None:
    for shape in ((1, 8, 8), (3, 32, 32), (3, 224, 224)):
        space = vit(shape, 10)
        small, large = (0,) * len(space.choices), tuple(len(options) - 1 for options in space.choices.values())
        assert measure(space.build(small), shape)["params"] < 0.12e6
        assert 5e6 < measure(space.build(large), shape)["params"] < 6e6


# --- the network -----------------------------------------------------------------------------------------------------


def test_forward_equals_plain_numpy() -> None:
    """On an image whose sides are no multiple of the patch."""
    model = network("p2-w64-d2-h2r1-h4r2", (3, 7, 9))
    images = torch.randn(2, 3, 7, 9, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = model(images).numpy()
    weights = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    for image, logits in zip(images.double().numpy(), found, strict=True):
        np.testing.assert_allclose(logits, plain.logits(weights, image, heads=[2, 4]), atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 30, 33)])
def test_onnx_equals_torch(shape: tuple[int, int, int], tmp_path) -> None:
    space = vit(shape, 3)
    text = f"p{patches(shape)[1]}-w64-d2-h2r2-h4r1"
    model = network(text, shape, 3)
    mean, std = [120.0] * shape[0], [60.0] * shape[0]
    done = export_onnx(model, tmp_path / "v.onnx", input_shape=shape, classes=["a", "b", "c"], mean=mean, std=std)
    assert done.max_difference < 1e-4
    assert space.parse(text)


def test_it_trains_on_digits() -> None:
    data = load("digits", seed=0)
    part = data.part("train")
    model = network("p2-w64-d2-h2r1-h2r1", data.shape, 10)
    recipe = recipe_for(part, data.shape, 10, mirrors=False, balanced=False, epochs=3)
    fitted = fit(model, part, recipe=recipe, epochs=3, seed=0, mean=data.mean, std=data.std)
    assert fitted.history[-1]["accuracy"] > 0.5  # chance is 0.1


def test_a_profile_predicts_it() -> None:
    space = vit((1, 8, 8), 10)
    profile = measure_profile(space, train_threads=1, networks=6, seconds=2.0)
    seen = trace(network("p1-w128-d4-h4r2-h2r1-h6r4-h4r2", (1, 8, 8), 10), (1, 8, 8))
    assert all(name in profile.latency_terms for name in features(seen))
    measured = measure_latency(network("p1-w128-d4-h4r2-h2r1-h6r4-h4r2", (1, 8, 8), 10), (1, 8, 8), seconds=0.3).median
    assert 0.25 < profile.latency(seen) / measured < 4
    assert profile.training(seen) > 0


@pytest.mark.slow
def test_the_main_job_runs_with_prune(tmp_path) -> None:
    result = search(
        "digits", space="vit", strategy="prune", candidates=20, finalists=1, epochs=0.3, limits={"params": "1M"},
        out=tmp_path / "run", workers=0, train_threads=1,
    )  # fmt: skip
    scored = [trial for trial in result.candidates if trial.get("scores")]
    assert result.finished
    assert len(scored) >= 20
    assert not any(trial["failures"] for trial in scored)
    assert all(trial["costs"]["params"] <= 1e6 for trial in scored)


def test_it_travels_to_another_process() -> None:
    import pickle

    from archscout.space import portable

    space = portable(vit, ((1, 8, 8), 10))
    again: SearchSpace = pickle.loads(pickle.dumps(space))
    arch = space.sample(np.random.default_rng(0))
    assert again.format(arch) == space.format(arch)
