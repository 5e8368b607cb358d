"""Networks with weights from files: what is loaded answers as before, in any image's form; nothing else is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

import archscout
from archscout import pipeline
from archscout.config import Config
from archscout.data import load
from archscout.errors import Stopped, UserError
from archscout.facts import known_networks
from archscout.fit import Recipe, evaluate
from archscout.pretrained import MEAN, NAMES, STD, fine_tuning, head_of, parse_files, pretrained
from archscout.propose import Costing
from archscout.space import portable
from archscout.teachers import choose_teacher

pytestmark = pytest.mark.usefixtures("quick_profile")

MINE = ((120.0, 110.0, 100.0), (60.0, 61.0, 62.0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=7)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, path)
    return path


def files(path: Path, name: str = "shufflenet_v2_x0_5") -> tuple[tuple[str, str], ...]:
    return ((name, str(path)),)


def test_the_file_answers_through_the_adapter(weights: Path) -> None:
    """Images normalised by the data's mean give the logits of the bare network on enlarged ImageNet-normalised ones."""
    space = pretrained((3, 32, 32), 7, files(weights), *MINE)
    model = space.build(space.parse("shufflenet_v2_x0_5")).eval()
    bare = torchvision.models.shufflenet_v2_x0_5(num_classes=7)
    bare.load_state_dict({k.removeprefix("module."): v for k, v in torch.load(weights)["state_dict"].items()})
    images = torch.randint(0, 256, (4, 3, 32, 32)).float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in MINE)
    theirs = [torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD)]
    large = torch.nn.functional.interpolate(images / 255, (64, 64), mode="bilinear")
    with torch.no_grad():
        expected = bare.eval()((large - theirs[0]) / theirs[1])
        assert torch.allclose(model((images - mean) / std), expected, atol=1e-4)


def test_grey_images_and_other_classes(weights: Path) -> None:
    space = pretrained((1, 28, 20), 3, files(weights), (100.0,), (50.0,))
    torch.manual_seed(1)
    model = space.build(space.parse("shufflenet_v2_x0_5")).eval()
    assert model.size == (90, 64)
    grey = torch.randn(2, 1, 28, 20)
    assert model(grey).shape == (2, 3)
    colour = pretrained((3, 28, 20), 3, files(weights), (100.0,) * 3, (50.0,) * 3).build(
        (NAMES.index("shufflenet_v2_x0_5"),)
    )
    colour.load_state_dict(model.state_dict())
    assert torch.allclose(model(grey), colour.eval()(grey.expand(-1, 3, -1, -1)), atol=1e-5)
    kept = torch.load(weights)["state_dict"]
    assert torch.equal(model.network.conv1[0].weight, kept["module.conv1.0.weight"])
    assert head_of(model)[1].out_features == 3


def test_a_network_comes_back_from_its_own_weights(weights: Path) -> None:
    """Built without file, mean and std, as a finished run is read, it takes all of them from the state dict."""
    model = pretrained((3, 40, 40), 7, files(weights), *MINE).build((NAMES.index("shufflenet_v2_x0_5"),)).eval()
    again = pretrained((3, 40, 40), 7).build((NAMES.index("shufflenet_v2_x0_5"),)).eval()
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 40, 40)
    assert torch.equal(model(x), again(x))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_builds_and_has_costs(name: str) -> None:
    space = portable(pretrained, ((3, 32, 32), 5))
    assert space.format(space.parse(name)) == name
    costs = Costing(space, {})(space.parse(name))
    assert costs["params"] > 1e4
    assert costs["macs"] > 1e6


def test_safetensors_and_refusals(weights: Path, tmp_path: Path) -> None:
    stored = {k.removeprefix("module."): v.contiguous() for k, v in torch.load(weights)["state_dict"].items()}
    save_file(stored, tmp_path / "w.safetensors")
    space = pretrained((3, 32, 32), 7, files(tmp_path / "w.safetensors"), *MINE)
    built = space.build((NAMES.index("shufflenet_v2_x0_5"),))
    assert torch.equal(built.network.fc.weight, stored["fc.weight"])
    with pytest.raises(UserError, match="holds no mobilenet_v2"):
        pretrained((3, 32, 32), 7, files(weights, "mobilenet_v2")).build((NAMES.index("mobilenet_v2"),))
    with pytest.raises(UserError, match="1 or 3 channels"):
        pretrained((4, 32, 32), 7)
    (tmp_path / "text.pth").write_text("weights")
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    for name in ("text.pth", "numbers.pth"):
        with pytest.raises(UserError, match="holds no weights"):
            pretrained((3, 32, 32), 7, files(tmp_path / name)).build((NAMES.index("shufflenet_v2_x0_5"),))


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"fc.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="safely"):
        pretrained((3, 32, 32), 7, files(tmp_path / "trap.pth")).build((NAMES.index("shufflenet_v2_x0_5"),))
    assert not (tmp_path / "sprung").exists()


def test_parse_files(weights: Path) -> None:
    assert parse_files([f"resnet18={weights}"]) == {"resnet18": str(weights.resolve())}
    for wrong, words in (("resnet18", "NETWORK=FILE"), ("resnet19=x", "did you mean 'resnet18'"),
                         ("resnet18=/absent.pth", "no weights at")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            parse_files([wrong])


def test_fine_tuning_is_gentler() -> None:
    recipe = Recipe(lr=0.2)
    assert fine_tuning(recipe).lr == pytest.approx(0.02)
    assert fine_tuning(recipe).weight_decay == recipe.weight_decay


COUNTS = {"candidates": 8, "finalists": 2, "epochs": 1.0, "train_threads": 1, "workers": 0,
          "proxies": ("macs", "naswot"), "limits": {"params": "40k"}}  # fmt: skip


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images[:200] * 15).astype(np.uint8), found.target[:200]


@pytest.mark.slow
def test_it_stands_in_verification_and_teaches(weights: Path, tmp_path: Path) -> None:
    """Beyond the limits it is no candidate but a teacher, and the run tells so; the winner learns otherwise by it."""
    runs, given = {}, {"shufflenet_v2_x0_5": str(weights)}
    for teach in ("yes", "no"):
        runs[teach] = found = archscout.search(digits(), out=tmp_path / teach, pretrained=given, teach=teach, **COUNTS)
        record = next(r for r in found.events["verified"] if r["space"] == "pretrained")
        assert record["role"] == "teacher"
        assert record["validation"] is not None
        assert found.events["winner"]["space"] != "pretrained"
        assert found.best["test"]["n"] > 0
    taught, alone = runs["yes"], runs["no"]
    assert taught.events["teacher"]["arch"] == "shufflenet_v2_x0_5"
    assert alone.events["teacher"] is None
    assert alone.events["winner"] == taught.events["winner"]
    assert (alone.folder / "weights.safetensors").read_bytes() != (taught.folder / "weights.safetensors").read_bytes()


def test_within_the_limits_it_can_win_the_verification(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It enters as a candidate, trains beside the others, and where it was best the full training is of it."""
    verify, won = pipeline.verify, []

    def ahead(*arguments: Any, **settings: Any) -> list[dict]:
        records = verify(*arguments, **settings)
        return [{**r, "validation": 0.99} if r["space"] == "pretrained" else r for r in records]

    def enough(run: Any, config: Any, data: Any, metric: str, entrant: Any, *_: Any) -> None:
        won.append((entrant.space.name, entrant.text, entrant.role))
        raise Stopped("enough")

    monkeypatch.setattr(pipeline, "verify", ahead)
    monkeypatch.setattr(pipeline, "train_winner", enough)
    few = {**COUNTS, "candidates": 2, "finalists": 1, "epochs": 0.3, "limits": {"params": "500k"}, "space": "plain"}
    with pytest.raises(Stopped, match="enough"):
        archscout.search(digits(), out=tmp_path / "run", pretrained={"shufflenet_v2_x0_5": str(weights)}, **few)
    events = archscout.Result(tmp_path / "run").events
    (record,) = [r for r in events["verified"] if r["space"] == "pretrained"]
    assert (record["role"], record["failure"], record["eliminated_after"]) == ("pretrained", None, None)
    assert events[f"verify/0/{record['key']}"]["validation"] is not None
    assert won == [("pretrained", "shufflenet_v2_x0_5", "pretrained")]
    assert events["teacher"] is None  # it does not teach itself
    told = "The pretrained shufflenet_v2_x0_5 reached 99.0 % in verification, fine-tuned beside the others."
    assert known_networks(events) == told


def test_it_trains_alone_and_comes_back(weights: Path, tmp_path: Path) -> None:
    import torch

    images, labels = digits()
    found = archscout.train(
        (images, labels), space="pretrained", arch="shufflenet_v2_x0_5", epochs=1.0, train_threads=1,
        pretrained={"shufflenet_v2_x0_5": str(weights)}, out=tmp_path / "run",
    )  # fmt: skip
    assert found.events["trained"]["recipe"]["lr"] < 0.03
    model = found.model()
    about = found.about
    pixels = torch.from_numpy(images[:8]).float()[:, None]
    mean, std = (torch.tensor(about[k]).view(1, -1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        assert model((pixels - mean) / std).shape == (8, 10)
    assert found.events["deployed"]["max_difference"] < 1e-3


@pytest.mark.parametrize(("ahead", "slow", "teach", "taught"), [
    (0.2, 1.0, "auto", True), (0.01, 1.0, "auto", False), (0.2, 9.0, "auto", False), (0.01, 9.0, "yes", True),
    (0.2, 1.0, "no", False),
])  # fmt: skip
def test_who_teaches(ahead: float, slow: float, teach: str, taught: bool) -> None:
    def record(space: str, value: float, training: float, role: str) -> dict:
        rounds = [{"interval": [value - 0.02, value + 0.02], "validation": value}]
        return {"key": space, "space": space, "arch": "a", "role": role, "rounds": rounds, "validation": value,
                "failure": None, "costs": {"training": training}}  # fmt: skip

    best = record("mobilenet", 0.6, 1.0, "finalist")
    config = Config(data="x", epochs=1.0, teach=teach)
    found = choose_teacher(config, [best, record("pretrained", 0.6 + ahead, slow, "teacher")], best)
    assert (found is not None) == taught


def test_a_published_network_is_as_good_as_published(real_data: Path, tmp_path: Path) -> None:
    """ResNet-20 of a file, through the adapter on the data's own normalisation: 91.7 % of test images right."""
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    from main_job import cifar10

    with np.load(cifar10(tmp_path, real_data)) as stored:
        images, labels = stored["X_test"][:1000], stored["y_test"][:1000]
    data = load((images, labels))
    file = next((real_data / "models").glob("resnet20-*.th"))
    space = pretrained((3, 32, 32), 10, (("cifar_resnet20", str(file)),), tuple(data.mean), tuple(data.std))
    model = space.build(space.parse("cifar_resnet20"))
    assert evaluate(model, data.merge("train", "validation", "test"), mean=data.mean, std=data.std).accuracy > 0.90
