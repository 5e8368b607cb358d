"""A differentiable strategy through the whole main job: limits kept, resumed alike, refused where it cannot be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_device_limits import board

import archscout
from archscout.asked import fits, name_methods
from archscout.config import make_config
from archscout.data import load
from archscout.differentiable import DIFFERENTIABLE, bilevel, stage
from archscout.differentiable.bilevel import Settings
from archscout.differentiable.choice import relax
from archscout.differentiable.darts import darts
from archscout.differentiable.pdarts import cap_skips, pdarts
from archscout.differentiable.stage import (
    TIMED,
    affordable,
    epochs_of,
    excess_of,
    expected,
    halves,
    linear_costs,
    patience_of,
    settings_of,
    step_seconds,
    within_limits,
)
from archscout.differentiable.tas import tas
from archscout.errors import UserError
from archscout.propose import Costing
from archscout.run import Run
from archscout.spaces import SPACES
from archscout.spaces.nasbench201 import POOL, SKIP, nasbench201

pytestmark = pytest.mark.usefixtures("quick_profile")


def tiny(input_shape, classes):
    return nasbench201(input_shape, classes, channels=4, cells=1)


def images(n: int = 160) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    return (rng.integers(60, 190, (n, 8, 8, 3)) + 40 * labels[:, None, None, None]).clip(0, 255).astype(
        np.uint8
    ), labels


@pytest.mark.parametrize("strategy", ["darts", "pdarts"])
def test_the_main_job_with_a_supernet(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "EPOCHS", 9.0)
    result = archscout.search(
        images(), space=tiny, strategy=strategy, select="hard_random", share=0.5, limits={"params": "6k"}, finalists=1,
        epochs=1, out=tmp_path / "run", workers=0,
    )  # fmt: skip
    found = result.events["supernet"]
    assert found["method"] == strategy
    assert found["selector"] == "hard_random"
    assert len(found["story"]["history"]) == len(found["story"]["alphas"]) > 0
    space = tiny((3, 8, 8), 2)
    assert Costing(space, {"params": 6000.0})(space.parse(found["arch"]))["violation"] <= 0
    roles = {entrant["role"] for entrant in result.events["verified"]}
    assert {"finalist", "random"} <= roles
    assert result.best["test"]["n"] > 0
    assert "The search by a supernet" in (tmp_path / "run" / "report.html").read_text()


def test_a_stopped_search_goes_on_to_the_same_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "EPOCHS", 5.0)
    options = {"space": tiny, "strategy": "darts", "finalists": 1, "epochs": 1, "workers": 0}
    whole = archscout.search(images(), out=tmp_path / "one", **options)
    archscout.search(images(), out=tmp_path / "two", **options)
    log = tmp_path / "two" / "trials.jsonl"
    lines = log.read_text().splitlines()
    cut = next(i for i, line in enumerate(lines) if json.loads(line)["event"] == "supernet")
    log.write_text(
        "\n".join(lines[:cut]) + "\n"
    )  # as if it was killed when the supernet was trained, its log not written
    again = archscout.resume(tmp_path / "two", data=images(), space=tiny)
    assert again.events["supernet"]["arch"] == whole.events["supernet"]["arch"]
    assert again.events["supernet"]["story"]["alphas"] == whole.events["supernet"]["story"]["alphas"]


def test_a_space_without_a_supernet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="darts cannot search space 'mobilenet'; it can search darts, nasbench201"):
        archscout.search(
            images(), space="mobilenet", strategy="darts", epochs=1, finalists=1, out=tmp_path / "x", workers=0
        )


def test_halves_are_disjoint_and_stratified() -> None:
    part = load(images()).part("train")
    one, other = halves(part, 0)
    assert not set(one.indices) & set(other.indices)
    assert abs(len(one) - len(other)) <= 2
    assert abs(one.labels.mean() - 0.5) < 0.05
    grouped = load(images(), group=np.arange(160) // 4).part("train")
    one, other = halves(grouped, 0)
    groups = grouped.data.groups
    assert not set(groups[one.indices]) & set(groups[other.indices])


def test_a_linear_model_steers_and_the_count_decides() -> None:
    space = tiny((3, 8, 8), 2)
    costing = Costing(space, {"params": 6000.0})
    rng = np.random.default_rng(0)
    model = linear_costs(costing, rng)["params"]
    archs = [space.sample(rng) for _ in range(60)]
    hot = [torch.nn.functional.one_hot(torch.tensor(arch), 5).float() for arch in archs]
    true = [costing(arch)["params"] for arch in archs]
    assert np.corrcoef([float(expected(model, choice)) for choice in hot], true)[0, 1] > 0.8
    big = (3,) * 6
    logits = torch.zeros(6, 5)
    logits[:, 3], logits[:, 2] = 3.0, 2.0
    choice = logits.softmax(1)
    inside = within_limits(costing, choice, big)
    assert costing(inside)["violation"] <= 0
    assert 3 in inside or 2 in inside  # not emptied
    with pytest.raises(UserError, match="raise the limits"):
        within_limits(Costing(space, {"params": 10.0}), choice, big)


def test_what_is_never_derived_pays_nothing() -> None:
    """None costs nothing, so that a choice of it would keep any limit; of rivals as many are counted as are kept."""
    supernet = relax(tiny((3, 8, 8), 2), "darts")
    table = torch.tensor([0.0, 0.0, 10.0, 90.0, 0.0]).expand(6, 5)
    excess = excess_of({"params": (40.0, table)}, {"params": 100.0, "macs": 1.0}, supernet)
    assert excess.limits == {"params": 100.0}  # the other has no model
    logits = torch.zeros(6, 5)
    found = excess(logits.softmax(1))
    assert found.item() == pytest.approx(2 * (40 + 6 * 100 / 4 - 100) / 100)
    logits[:, 0] = 20.0
    assert excess(logits.softmax(1)).item() == pytest.approx(found.item(), rel=1e-4)
    logits.requires_grad_()
    excess(logits.softmax(1)).backward()
    assert logits.grad[:, 0].abs().max() < 1e-6
    alone = torch.zeros(6, 5)
    alone[:, 0] = 1.0
    assert torch.isfinite(excess(alone))
    cells = relax(SPACES["darts"]((3, 32, 32), 10, channels=4, layers=3), "darts")
    kept = excess_of({}, {}, cells).derivable(torch.full((28, 8), 0.125))
    assert kept[:, 0].sum() == 0
    assert kept.sum().item() == pytest.approx(16)  # two edges of four nodes of two cells


def test_the_walk_keeps_the_nodes_that_the_choice_names() -> None:
    """Two convolutions through the second node: the canonical form has them through the third, at other edges, of which
    the choice says something else."""
    space = tiny((3, 8, 8), 2)
    begin, wanted = (3, 0, 0, 0, 3, 0), (2, 0, 0, 0, 2, 0)
    assert space.canonical(begin) == (0, 3, 0, 0, 0, 3)
    costing = Costing(space, {"params": Costing(space, {})(wanted)["params"]})
    choice = torch.full((6, 5), 0.2)
    choice[0] = torch.tensor([0.001, 0.02, 0.45, 0.5, 0.02])
    choice[4] = torch.tensor([0.001, 0.02, 0.4, 0.5, 0.02])
    choice[5] = torch.tensor([0.01, 0.9, 0.03, 0.05, 0.01])  # a skip, where the canonical form has a convolution
    assert within_limits(costing, choice, begin) == wanted


def test_pdarts_keeps_its_cap_on_skips_under_a_limit() -> None:
    """Skips have no parameters and the largest weights; the limit would be kept by many of them."""
    space = tiny((3, 8, 8), 2)
    supernet = relax(space, "pdarts")
    costing = Costing(space, {"params": Costing(space, {})((POOL,) * 6)["params"] + 700})
    for seed in range(4):
        logits = torch.rand(6, 5, generator=torch.Generator().manual_seed(seed))
        logits[:, SKIP] += 0.4
        choice = cap_skips(supernet, logits.softmax(1), 2)
        arch = supernet.derive(choice)
        moved = within_limits(costing, choice, arch, supernet=supernet, most_skips=2)
        assert costing(moved)["violation"] <= 0
        assert supernet.skips(moved) <= 2
    part = load(images(64)).part("train")
    found = pdarts(space, *halves(part, 0), epochs=1, batch_size=16, mean=(125.0,) * 3, std=(40.0,) * 3)
    assert found.most_skips == 2
    assert supernet.skips(found.arch) <= 2


def test_what_is_timed_has_the_form_of_the_method() -> None:
    """Two candidates per decision for tas; each depth of pdarts, with dropped skips and steps without alphas."""
    part = load(images(64)).part("train")
    halved = halves(part, 0)
    seen: list[tuple[Any, Any]] = []

    def spied(method):
        def run(*parts, **options):
            assert options["seed"] == 3
            return method(*parts, **options)

        return run

    options = {"seed": 3, "mean": (125.0,) * 3, "std": (40.0,) * 3}
    for method, space in ((pdarts, tiny((3, 8, 8), 2)), (tas, SPACES["resnet_shape"]((3, 8, 8), 2, depth=1, width=8))):
        kinds = {"target": 0.5} if method is tas else {}
        network = type(relax(space, method.__name__))
        before = network.forward
        seen.clear()

        def forward(self, images, choice, *more, before=before):
            seen.append((self, choice.detach()))
            return before(self, images, choice, *more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(network, "forward", forward)
            took = step_seconds(spied(method), space, *halved, Settings(batch_size=8), {**options, **kinds})
        assert 0 < took < 5
        if method is tas:
            assert len(seen) == 2 * TIMED
            assert all(((choice > 0).sum(1) <= 2).all() for _, choice in seen)
        else:
            assert [net.cells_in_all for net in dict.fromkeys(net for net, _ in seen)] == [3, 6, 9]
            assert len(seen) == 3 * (TIMED + 3)  # of six steps the last three have an architecture step


def test_settings_follow_the_device_and_the_word_on_mirrors() -> None:
    data = load(images())
    for flip in ("auto", "yes", "no"):
        config = make_config({"data": "digits", "out": "x", "flip": flip})
        found = settings_of(config, data, 640, "darts")
        assert found.flip == (bool(data.mirrors) if flip == "auto" else flip == "yes")
        assert (found.precision, found.batch_size, found.arch_lr) == ("32-true", 64, 1e-2)
    assert settings_of(config.model_copy(update={"device": "cuda"}), data, 80, "tas").precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("name", "select", "asked", "wanted"),
    [
        ("darts", "random", {}, ("random", "random")), ("tas", "random", {"arch_images": "all"}, ("random", None)),
        ("pdarts", "random", {"arch_images": "all"}, ("random", None)), ("darts", "full", {}, (None, None)),
    ],
)  # fmt: skip
def test_the_test_part_has_no_say_and_selectors_are_as_asked(
    name: str, select: str, asked: dict[str, Any], wanted: tuple[Any, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With noise for every test image the search is the same; the architecture's images are chosen too, or all."""
    heard: list[tuple[Any, ...]] = []
    train = bilevel.train_supernet

    def listening(*args: Any, selector: Any = None, arch_selector: Any = None, **options: Any) -> Any:
        heard.append(tuple(one and one.signature()[0] for one in (selector, arch_selector)))
        return train(*args, selector=selector, arch_selector=arch_selector, **options)

    monkeypatch.setitem(DIFFERENTIABLE[name].__globals__, "train_supernet", listening)
    pixels, labels = images()
    test = load((pixels, labels)).parts["test"]
    stories = []
    for number in (0, 1):
        if number:
            pixels = pixels.copy()
            pixels[test] = np.random.default_rng(1).integers(0, 255, pixels[test].shape)
        data = load((pixels, labels))
        assert np.array_equal(data.parts["test"], test)
        space = (SPACES["resnet_shape"] if name == "tas" else tiny)(data.shape, 2)
        text = {"data": "x", "out": "x", "share": 0.5, "supernet": {"epochs": 1, "decide": "largest", **asked}}
        if name != "darts":
            text["supernet"].pop("decide")
        with Run.create(tmp_path / f"{number}", "") as run:
            archs = stage.search_supernet(
                run, make_config(text), DIFFERENTIABLE[name], data, Costing(space, {}), seconds=None,
                select=select, embeddings=None,
            )  # fmt: skip
            next(archs)
            stories.append(run.recall("supernet")["story"]["alphas"])
    assert stories[0] == stories[1]
    assert set(heard) == {wanted}


@pytest.mark.parametrize(("method", "cost"), [(darts, "latency"), (pdarts, "energy"), (darts, "memory")])
def test_a_cost_of_the_device_steers_the_choice(method: Any, cost: str) -> None:
    """The expected cost at the end of a search with a limit of half of that of equal weights, and without."""
    space = tiny((3, 8, 8), 2)
    supernet = relax(space, method.__name__)
    models = linear_costs(Costing(space, {cost: 1e9}, board(space)), np.random.default_rng(0))

    def cost_of(choice: torch.Tensor) -> float:
        return float(expected(models[cost], excess_of({}, {}, supernet).derivable(choice)))

    limit = 0.5 * cost_of(torch.full((6, 5), 0.2))
    part, ends = load(images()).part("train"), []
    for limits in ({}, {cost: limit}):
        found = method(
            space, *halves(part, 0), mean=[120.0] * 3, std=[60.0] * 3, epochs=6,
            batch_size=16, arch_lr=0.1, penalty=excess_of(models, limits, supernet),
        )  # fmt: skip
        ends.append(cost_of(found.choice) / limit)
    assert ends[1] < 0.9 * ends[0]


def test_training_on_selected_images_is_audited_and_shown(tmp_path: Path) -> None:
    pixels, labels = images(240)
    result = archscout.train(
        (pixels, labels), space="plain", arch="resnet8-w8", select="dds", share=0.3, epochs=6, out=tmp_path / "run"
    )
    found = result.events["selection"]
    assert found["selector"] == "dds"
    assert found["rounds"] >= 15
    assert 57 <= found["images"] < found["ever"] <= 192
    assert len(found["audits"]) >= 3
    assert sum(found["audits"][-1]["images"]) == 192  # train and validation
    assert {row["number"] for row in found["class"]} == {0, 1}
    assert 2 <= len(found["cluster"]) <= 12
    assert sum(sum(row["images"]) for row in found["cluster"]) == 192
    assert all(1 <= len(row["names"]) <= 3 for row in found["cluster"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Images it was not trained on" in page
    assert "chosen by dds" in page
    assert "By images that look alike" in page
    assert "The search by a supernet" not in page
    plain = archscout.train((pixels, labels), space="plain", arch="resnet8-w8", epochs=1, out=tmp_path / "full")
    assert "selection" not in plain.events


def test_a_search_on_two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes train one supernet inside the main job; selection and audits work in both."""
    monkeypatch.setattr(stage, "EPOCHS", 3.0)
    result = archscout.search(
        images(), space=tiny, strategy="pdarts", select="hard_random", share=0.5, finalists=1, epochs=0.3, devices=2,
        limits={"params": "6k"}, out=tmp_path / "run", workers=0,
    )  # fmt: skip
    story = result.events["supernet"]["story"]
    assert len(story["history"]) == len(story["alphas"]) > 0
    assert story["audits"]
    assert result.best["test"]["n"] > 0


@pytest.mark.parametrize(
    ("strategy", "given", "told"),
    [
        ("darts", ["beta=0.3", "sample=gumbel", "order=2", "stop_skips=3"], None),
        ("darts", ["decide=perturbation", "aim=target"], "add one, like --limit latency=5ms"),
        ("darts", ["beta"], "'beta' sets nothing: wanted NAME=VALUE"),
        ("darts", ["beta=1", "beta=2"], "'beta' of the supernet was given twice"),
        ("darts", ["bta=1"], "unknown option of the supernet of darts 'bta'; did you mean 'beta'"),
        ("darts", ["most_skips=2"], "unknown option of the supernet of darts 'most_skips'"),
        ("darts", ["sample=hard"], "wanted one of softmax, gumbel"),
        ("darts", ["order=3"], "wanted one of 1, 2, difference"),
        ("darts", ["batch_size=2.5"], "batch_size=2.5: wanted a whole number"),
        ("darts", ["lr=fast"], "lr=fast: wanted a number"),
        ("darts", ["lr=inf"], "lr=inf: wanted a number"),
        ("darts", ["epochs=-1"], "epochs above 0"),
        ("pdarts", {"most_skips": 1, "wait": 0.2}, None),
        ("tas", ["tolerance=0.1"], None),
        ("tas", ["tolerance=1.5"], "tolerance=1.5: wanted from 0 to below 1"),
        ("evolution", ["beta=1"], "evolution trains no supernet"),
    ],
)
def test_what_is_asked_of_a_supernet_is_checked_at_once(strategy: str, given: Any, told: str | None) -> None:
    text, methods = name_methods("digits", {"strategy": strategy, "supernet": given})
    if told is None:
        fits(make_config(text), methods)
        return
    with pytest.raises(UserError, match=re.escape(told)):
        fits(make_config(text), methods)


def test_a_supernet_is_trained_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line to the method, with the text of the config in between."""
    heard: dict[str, Any] = {}

    def listening(*args: Any, **options: Any) -> Any:
        heard.update(options)
        return darts(*args, **options)

    monkeypatch.setitem(DIFFERENTIABLE, "listening", listening)
    monkeypatch.setattr(stage, "word", lambda method: "darts")
    for module in ("asked", "pipeline"):
        monkeypatch.setattr(f"archscout.{module}.word", lambda method: "darts")
    archscout.search(
        images(), space=tiny, strategy="listening", supernet=["beta=0.5", "epochs=1", "decide=perturbation", "order=2"],
        finalists=1, epochs=0.5, out=tmp_path / "run", workers=0,
    )  # fmt: skip
    assert heard["decide"] == "perturbation"
    assert (heard["settings"].beta, heard["settings"].epochs, heard["settings"].order) == (0.5, 1.0, 2)
    assert archscout.Result(tmp_path / "run").config["supernet"]["beta"] == 0.5


def test_the_last_word_is_kept_within_limits_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among what the search settled on within the limits; the report says so; `decide=largest` asks nobody."""
    monkeypatch.setattr(stage, "EPOCHS", 6.0)
    monkeypatch.setitem(stage.RATES, "darts", {"lr": 0.1, "arch_lr": 0.1, "shift": 0})
    common: dict[str, Any] = {
        "space": tiny, "strategy": "darts", "finalists": 1, "epochs": 0.3, "workers": 0, "limits": {"params": "6k"},
    }  # fmt: skip
    result = archscout.search(images(), **common, out=tmp_path / "run")
    event = result.events["supernet"]
    decided = event["decided"]
    costing = Costing(tiny((3, 8, 8), 2), {"params": 6e3})
    assert len(decided["ranks"]) == len(decided["among"]) > 1
    assert all(costing(costing.space.parse(text))["violation"] <= 0 for text in decided["among"])
    assert event["derived"] == event["arch"] == decided["among"][int(np.argmin(decided["ranks"]))]
    assert "between which its second half wavered" in (tmp_path / "run" / "report.html").read_text()
    plain = archscout.search(images(), **common, supernet={"decide": "largest"}, out=tmp_path / "plain")
    assert plain.events["supernet"]["decided"] is None
    assert plain.events["supernet"]["story"]["alphas"] == event["story"]["alphas"]
    assert plain.events["supernet"]["derived"] == decided["largest"]


def test_a_short_search_counts_fewer_networks_for_its_model() -> None:
    costing = Costing(tiny((3, 8, 8), 2), {"params": 6e3})
    least = 2 * 6 * 5
    assert affordable(costing, 0.0)["count"] == least
    assert affordable(costing, 1e9)["count"] == 150
    few = linear_costs(costing, np.random.default_rng(0), least)["params"]
    many = linear_costs(costing, np.random.default_rng(1))["params"]
    archs = [costing.space.sample(np.random.default_rng(seed)) for seed in range(40)]
    exact = np.array([costing(arch)["params"] for arch in archs])
    told = [np.array([expected(model, torch.eye(5)[list(arch)]).item() for arch in archs]) for model in (few, many)]
    errors = [np.abs(one - exact).mean() for one in told]
    assert errors[0] < 1.5 * errors[1]  # the cells are not quite additive, so that both are off
    assert np.corrcoef(told[0], exact)[0, 1] > 0.8


def test_a_target_is_approached_from_both_sides() -> None:
    """The penalty by hand, below and above; and the derived network of a search is nearer to a target than to a limit
    that costs nothing below it."""
    table = torch.tensor([0.0, 0.0, 10.0, 90.0, 0.0]).expand(6, 5)
    models, choice = {"params": (40.0, table)}, torch.eye(5)[[2] * 6]
    for limit, wanted in ((50.0, 2.0), (200.0, 1.0)):
        found = excess_of(models, {"params": limit}, None, "target")(choice).item()
        assert found == pytest.approx(2 * abs(100 / limit - 1)) == pytest.approx(wanted)
    assert excess_of(models, {"params": 200.0}, None)(choice).item() == 0
    part = load(images()).part("train")
    weight_part, arch_part = halves(part, 0)
    space = tiny((3, 8, 8), 2)
    costing = Costing(space, {"params": 12e3})
    models = linear_costs(costing, np.random.default_rng(0))
    supernet = relax(space, "darts")
    ends = {}
    for aim in ("limit", "target"):
        penalty = excess_of(models, costing.limits, supernet, aim)
        found = darts(
            space, weight_part, arch_part, mean=[120.0] * 3, std=[60.0] * 3, penalty=penalty, epochs=20, batch_size=16,
            arch_lr=0.05,
        )  # fmt: skip
        choice = found.choice
        ends[aim] = abs(float(expected(models["params"], penalty.derivable(choice))) / 12e3 - 1)
    assert 2 * ends["target"] < ends["limit"]


def test_a_search_on_rounds_is_shorter_and_ends_when_it_has_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert epochs_of(1.0, 64 / 25000) == 25
    assert patience_of(1.0, 64 / 25000) is None
    assert epochs_of(0.04, 64 / 25000) == pytest.approx(400 * 64 / 25000)  # as in the benchmark: 25 rounds of 1,000
    assert patience_of(0.04, 64 / 25000) == pytest.approx(100 * 64 / 25000)
    assert epochs_of(0.2, 64 / 25000) == 5
    assert patience_of(0.2, 64 / 25000) == pytest.approx(1.2)
    assert epochs_of(0.5, 16 / 56) == 25  # few images: as many steps as all of them take
    monkeypatch.setattr(stage, "ENOUGH", 20)
    monkeypatch.setattr(stage, "PATIENT_STEPS", 2)
    found = archscout.search(
        images(), space=tiny, strategy="darts", select="random", share=0.25, supernet={"arch_lr": 1e-6}, finalists=1,
        epochs=0.5, out=tmp_path / "run", workers=0,
    ).events["supernet"]  # fmt: skip
    assert found["epochs"] == pytest.approx(25 * 0.25, rel=0.1)
    assert "the same architecture" in found["story"]["stopped"]
    assert found["story"]["history"][-1]["epoch"] < 3
