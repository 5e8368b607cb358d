"""Distillation: the loss by hand, that it teaches, and that published weights load and answer as published."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import archscout
from archscout import full_training
from archscout.data import load
from archscout.deploy import save_weights
from archscout.distill import Teacher, distance, resnet_cifar
from archscout.errors import UserError
from archscout.fit import Recipe, evaluate, fit
from archscout.spaces.plain import plain
from archscout.verify import initialise


def test_the_distance_by_hand() -> None:
    own, answers = torch.randn(4, 3), torch.randn(4, 3)
    for temperature in (1.0, 4.0):
        p, q = (answers / temperature).softmax(1), (own / temperature).softmax(1)
        assert torch.allclose(
            distance(own, answers, temperature), temperature**2 * (p * (p / q).log()).sum(1), atol=1e-5
        )
    assert distance(own, own, 4.0).abs().max() < 1e-5
    teacher = Teacher(nn.Identity(), share=0.25)
    wanted = 0.75 * torch.ones(4) + 0.25 * distance(own, answers, 4.0)
    assert torch.allclose(teacher.losses(own, answers, torch.ones(4)), wanted)


def test_a_network_learns_from_a_teacher_alone() -> None:
    """All labels are wrong; with share 1 the teacher's answers decide."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    images = (rng.integers(60, 190, (200, 6, 6, 3)) + 40 * truth[:, None, None, None]).clip(0, 255).astype(np.uint8)
    data = load((images, 1 - truth))

    class Bright(nn.Module):
        def forward(self, x):
            value = 20 * x.mean((1, 2, 3))
            return torch.stack([-value, value], 1)

    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    part = data.part("train")
    recipe = Recipe(lr=0.05, batch_size=16, label_smoothing=0.0)
    teacher = Teacher(Bright().train(), share=1.0, temperature=1.0)
    fit(model, part, recipe=recipe, epochs=8, seed=0, mean=data.mean, std=data.std, teacher=teacher)
    assert (
        evaluate(model, part, mean=data.mean, std=data.std).accuracy < 0.15
    )  # right by the truth, wrong by the labels
    assert teacher.network.training


@pytest.mark.parametrize("bad", [{"share": 1.5}, {"temperature": 0}])
def test_refuses_what_cannot_be(bad: dict) -> None:
    with pytest.raises(UserError, match="teacher"):
        Teacher(nn.Identity(), **bad)
    with pytest.raises(UserError, match="3 classes"):
        Teacher(nn.Identity()).losses(torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(2))


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no weights"):
        resnet_cifar(tmp_path / "absent.th", 20)
    (tmp_path / "text.th").write_text("no")
    with pytest.raises(UserError, match="safely"):
        resnet_cifar(tmp_path / "text.th", 20)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.th")
    with pytest.raises(UserError, match="ResNet-20"):
        resnet_cifar(tmp_path / "other.th", 20)
    with pytest.raises(UserError, match="layers"):
        resnet_cifar(tmp_path / "other.th", 21)


@pytest.mark.slow
def test_published_networks_answer_as_published(real_data: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("load_cifar", real_data / "images" / "load_cifar.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    pixels, labels, *_ = loader.load(real_data / "images" / "cifar10_lossless.zip", "test")

    truth = np.asarray(labels[:2000], dtype=np.int64)

    class Part:
        labels = truth

        def __len__(self):
            return 2000

        def batch(self, where):
            images = torch.from_numpy(pixels[where]).permute(0, 3, 1, 2)
            return torch.as_tensor(where), images, torch.from_numpy(truth[where])

    model = resnet_cifar(next((real_data / "models").glob("resnet20-*.th")), 20)
    mean, std = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])
    assert evaluate(model, Part(), mean=mean, std=std).accuracy == pytest.approx(0.9173, abs=0.015)


def test_a_run_teaches_another(images, tmp_path, monkeypatch) -> None:
    """The answers learned are those of the trained network on images as it wants them; what cannot teach is refused."""
    given = {"space": "plain", "epochs": 1.0, "train_threads": 1}
    first = archscout.train(images, arch="resnet8-w16", out=tmp_path / "teacher", **given)
    heard = []
    real = full_training.fit

    def listening(model, part, *, teacher=None, **options):
        heard.append(teacher)
        return real(model, part, teacher=teacher, **options)

    monkeypatch.setattr(full_training, "fit", listening)
    taught = archscout.train(images, arch="resnet8-w8", teacher=tmp_path / "teacher", out=tmp_path / "taught", **given)
    assert (heard[0].share, heard[0].temperature) == (0.9, 4.0)
    assert heard[0].mean == first.about["mean"]
    pixels = torch.randn(3, 1, 8, 8)
    assert torch.equal(heard[0].answers(pixels), first.model()(pixels))
    event = taught.events["teacher"]
    assert event["arch"] == "resnet8-w16"
    assert event["forward_ms"] > 0
    assert "resnet8-w16 of another run taught the winner." in taught.report.read_text()
    alone = archscout.train(images, arch="resnet8-w8", out=tmp_path / "alone", **given)
    last = (taught.folder / "weights.safetensors").read_bytes()
    assert last != (alone.folder / "weights.safetensors").read_bytes()

    log = taught.folder / "trials.jsonl"  # as if it was killed in its training
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines[: next(i for i, one in enumerate(lines) if '"trained"' in one)]))
    (taught.folder / "weights.safetensors").unlink()
    shutil.copytree(taught.folder, tmp_path / "other")
    again = archscout.resume(taught.folder, data=images)
    assert (again.folder / "weights.safetensors").read_bytes() == last
    save_weights(initialise(plain((1, 8, 8), 10), (2, 0), 9), first.folder / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights of the teacher .* changed since this run began"):
        archscout.resume(tmp_path / "other", data=images)


def test_a_teacher_that_saw_the_test_images_is_refused(images, tmp_path) -> None:
    """The same images in another split; images of the same names that are others say nothing."""
    given = {"space": "plain", "arch": "resnet8-w8", "epochs": 0.1, "train_threads": 1}
    archscout.train(images, **given, seed=1, out=tmp_path / "teacher")
    with pytest.raises(UserError, match=r"trained on \d+ of the test images of this run, .* --seed 0, or take another"):
        archscout.train(images, **given, teacher=tmp_path / "teacher", out=tmp_path / "x")
    other = (255 - images[0], images[1][::-1].copy())
    taught = archscout.train(other, **given, teacher=tmp_path / "teacher", out=tmp_path / "y")
    assert taught.events["teacher"]["arch"] == "resnet8-w8"


def test_what_cannot_teach_is_refused(images, tmp_path) -> None:
    given = {"space": "plain", "arch": "resnet8-w8", "epochs": 0.1, "train_threads": 1, "out": tmp_path / "x"}
    with pytest.raises(UserError, match=r"is no run"):
        archscout.train(images, teacher=tmp_path / "nowhere", **given)
    few = images[1] < 4
    archscout.train((images[0][few], images[1][few]), **{**given, "out": tmp_path / "few"})
    with pytest.raises(UserError, match=r"the teacher .* has classes \['0', '1', '2', '3'\], the data \['0', .*take"):
        archscout.train(images, teacher=tmp_path / "few", **given)
    (tmp_path / "few" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights yet; type: archscout resume"):
        archscout.train((images[0][few], images[1][few]), teacher=tmp_path / "few", **given)
    assert not (tmp_path / "x").exists()
