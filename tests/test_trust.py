"""Files of somebody else: nothing in them is run, and nothing that they name lies outside of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import archscout
from archscout.cli import main
from archscout.devices.verb import profile
from archscout.errors import UserError
from archscout.files import refuse_exits
from archscout.run import Run
from archscout.trust import code_in

pytestmark = pytest.mark.usefixtures("quick_profile")

STARTED: list[str] = []


def explode(what: str) -> None:
    STARTED.append(what)


class Bomb:
    """Its pickle leaves a mark when it is loaded."""

    def __reduce__(self) -> Any:
        return explode, ("a pickle was run",)


class Marker:
    """The same by a file, for what is loaded in other ways."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module whose import and functions leave a mark; none must be there at the end."""
    monkeypatch.setenv("ARCHSCOUT_CONFIG", str(tmp_path / "config"))
    STARTED.clear()
    (tmp_path / "modules").mkdir()
    text = "import test_trust\ntest_trust.STARTED.append('a module was imported')\n"
    for name in ("space", "data", "network"):
        text += f"def {name}(*args, **kw):\n    test_trust.STARTED.append('{name} was called')\n"
    (tmp_path / "modules" / "foreign_code.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setitem(sys.modules, "test_trust", sys.modules[__name__])
    yield
    for name in ("foreign_code", "object"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of one given network on two classes of noise."""
    place = tmp_path_factory.mktemp("made") / "run"
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 255, (60, 8, 8), dtype=np.uint8), np.arange(60) % 2
    pixels[labels == 1] //= 2
    np.savez(place.parent / "d.npz", X=pixels, y=labels)
    data = str(place.parent / "d.npz")
    archscout.train(data, space="plain", arch="resnet8-w8", epochs=0.2, out=place, train_threads=1)
    return place


@pytest.fixture
def foreign(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be tampered with."""
    return Path(shutil.copytree(finished, tmp_path / "foreign"))


def code_of(*words: object) -> int:
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def replaced(run: Path, name: str, value: str) -> None:
    """Another value of a text in config.toml."""
    lines = (run / "config.toml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(f"{name} =")]
    (run / "config.toml").write_text("\n".join([f"{name} = {json.dumps(value)}", *kept]) + "\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("space", "foreign_code:space"),
        ("strategy", "foreign_code:space"),
        ("recipe", "foreign_code:space"),
        ("select", "foreign_code:space"),
        ("data", "foreign_code:data"),
        ("workers", "ray://198.51.100.7:10001"),
        ("space", "subprocess:Popen"),
        ("space", "os:system"),
    ],
)
def test_a_run_of_somebody_else_imports_nothing(
    name: str, value: str, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(foreign, name, value)
    assert code_of("resume", foreign) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert value in told[0]
    assert "--trust" in told[0]
    assert code_of("search", "--config", foreign / "config.toml", "--out", foreign.parent / "new") == 2
    assert "--trust" in capsys.readouterr().err
    if name == "data":
        assert code_of("train", foreign, "--out", foreign.parent / "new") == 2
        assert code_of("export", foreign, "--int8") == 2
        assert "--trust" in capsys.readouterr().err
    assert code_of("report", foreign) == 0  # which needs none of it
    assert not STARTED
    assert not (foreign.parent / "new").exists()


def test_data_that_were_an_object_are_no_module(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run keeps `object:TYPE` of data that were an object of Python; no module of that name is looked for."""
    (tmp_path / "modules" / "object.py").write_text((tmp_path / "modules" / "foreign_code.py").read_text())
    replaced(foreign, "data", "object:data")
    new = foreign.parent / "new"
    for words in (
        ("resume", foreign),
        ("train", foreign, "--out", new),
        ("search", "--config", foreign / "config.toml", "--out", new),
        ("export", foreign, "--int8"),
    ):
        for more in ((), ("--trust",)):
            assert code_of(*words, *more) == 2, words
            (told,) = capsys.readouterr().err.strip().splitlines()
            assert "were a Python object" in told
            assert "data=" in told or "search(DATA" in told
    with pytest.raises(UserError, match="object of Python"):
        archscout.search("object:data", out=new)
    assert code_in({"data": "object:data"}) == ["object:data"]
    assert code_in({"data": "torchvision:CIFAR10"}) == []
    assert not STARTED
    assert "object" not in sys.modules
    assert not new.exists()


def test_a_proxy_of_somebody_else_is_not_imported(foreign: Path) -> None:
    text = (foreign / "config.toml").read_text()
    start = text.index("proxies = [") + len("proxies = [")
    (foreign / "config.toml").write_text(text[:start] + '"foreign_code:space", ' + text[start:])
    with pytest.raises(UserError, match=r"foreign_code:space.*--trust"):
        archscout.resume(foreign)
    assert not STARTED


@pytest.mark.parametrize("value", ["foreign_code:space", "subprocess:Popen", "os:mkdir"])
def test_an_architecture_of_somebody_else_imports_nothing(value: str, foreign: Path) -> None:
    change(foreign / "architecture.json", factory=value)
    for work in (
        lambda: archscout.Result(foreign).model(),
        lambda: archscout.Result(foreign).export_onnx(foreign.parent / "x.onnx"),
        lambda: archscout.train(run=foreign, out=foreign.parent / "new"),
        lambda: profile(foreign, seconds=0.1),
    ):
        with pytest.raises(UserError, match=f"{value}.*--trust"):
            work()
    assert not STARTED
    change(foreign / "architecture.json", input_shape=["sh", "-c", "true"])
    with pytest.raises(UserError, match="damaged"):
        archscout.Result(foreign, trust=True).model()
    assert not STARTED


def test_what_was_made_here_goes_on_without_a_question(tmp_path: Path) -> None:
    few = {"candidates": 3, "finalists": 1, "epochs": 0.2, "workers": 0, "train_threads": 1, "proxies": ("macs",)}
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", X=rng.integers(0, 255, (60, 8, 8), dtype=np.uint8), y=np.arange(60) % 2)
    mine = archscout.search(str(tmp_path / "d.npz"), space="mine:chain", out=tmp_path / "mine", **few)
    assert (tmp_path / "config" / "key").stat().st_mode & 0o077 == 0
    assert archscout.resume(mine.folder).best == mine.best
    assert mine.model() is not None
    moved = shutil.move(mine.folder, tmp_path / "moved")
    assert archscout.resume(moved).finished
    text = (Path(moved) / "config.toml").read_text()
    (Path(moved) / "config.toml").write_text(text.replace("mine:chain", "mine:other"))  # the seal is of that text
    with pytest.raises(UserError, match=r"mine:other.*--trust"):
        archscout.resume(moved)
    (Path(moved) / "config.toml").write_text(text)
    change(Path(moved) / "architecture.json", factory="foreign_code:space")  # the seal is of the config
    with pytest.raises(UserError, match="foreign_code"):
        archscout.Result(moved).model()
    change(Path(moved) / "architecture.json", factory="mine:chain")
    os.environ["ARCHSCOUT_CONFIG"] = str(tmp_path / "other person")
    with pytest.raises(UserError, match=r"mine:chain.*--trust"):
        archscout.resume(moved)
    assert archscout.resume(moved, trust=True).finished
    assert archscout.Result(moved, trust=True).model() is not None


def test_a_kit_of_somebody_else_imports_nothing(tmp_path: Path, finished: Path) -> None:
    from archscout.devices.bench import FORMAT
    from archscout.devices.shelf import add_device, check_device

    row = {"file": "net00.onnx", "space": "foreign_code:space", "input_shape": [3, 8, 8], "classes": 2, "arch": "1"}
    kit = {"format": FORMAT, "units": {"latency": "ms", "energy": "mJ"}, "batch": 1, "threads": 1, "device": "x"}
    kit |= {"runtime": "r", "networks": [{**row, "latency": 1.0}] * 8}
    (tmp_path / "measured.json").write_text(json.dumps(kit))
    with pytest.raises(UserError, match=r"foreign_code:space.*--trust"):
        add_device("bad", tmp_path / "measured.json")
    about = json.loads((finished / "architecture.json").read_text())
    won = {**row, "file": "winner.onnx", "arch": about["arch"], "input_shape": about["input_shape"], "latency": 1.0}
    (tmp_path / "measured.json").write_text(json.dumps({**kit, "networks": [won] + kit["networks"]}))
    with pytest.raises(UserError, match="of no other device"):
        check_device(finished, tmp_path / "measured.json")
    assert not STARTED


def test_pickles_are_never_loaded(foreign: Path, tmp_path: Path) -> None:
    """As weights, as a checkpoint, as a teacher, as an embedding and its cache, as data, and as the log."""
    from archscout.checkpoint import read_checkpoint
    from archscout.deploy import load_weights
    from archscout.distill import resnet_cifar
    from archscout.selection.embedding import _kept
    from archscout.spaces import SPACES
    from archscout.weights import read_weights

    bomb = tmp_path / "bomb"
    mark = Marker(tmp_path / "exploded")
    raw = pickle.dumps(Bomb())
    torch.save(mark, tmp_path / "mark.pt")
    space = SPACES["plain"]((1, 8, 8), 2)
    model = space.build(space.parse("resnet8-w8"))
    for content in (raw, pickle.dumps(mark), (tmp_path / "mark.pt").read_bytes()):
        for name in ("weights.safetensors", "weights.pt", "x.npy"):
            (tmp_path / name).write_bytes(content)
        for work in (
            lambda: load_weights(model, tmp_path / "weights.safetensors"),
            lambda: read_checkpoint(tmp_path / "weights.pt", {}),
            lambda: resnet_cifar(tmp_path / "weights.pt", 20),
            lambda: read_weights(tmp_path / "weights.pt"),
            lambda: read_weights(tmp_path / "weights.safetensors"),
        ):
            with pytest.raises(UserError):
                work()
        assert _kept(tmp_path / "x.npy", (1, 1)) is None
        for file in ("weights.safetensors", "checkpoints/final.pt"):
            (foreign / file).write_bytes(content)
        with pytest.raises(UserError):
            archscout.Result(foreign).model()
        (foreign / "trials.jsonl").write_bytes(content + b"\n")
        with pytest.raises(UserError):
            archscout.Result(foreign)
        with pytest.raises(UserError):
            Run.open(foreign)
    objects = np.array([Bomb(), mark], dtype=object)
    np.savez(tmp_path / "objects.npz", X=objects, y=np.arange(2))
    np.save(tmp_path / "objects.npy", objects)
    with pytest.raises(UserError, match="pickled"):
        archscout.data.load(str(tmp_path / "objects.npz"))
    assert _kept(tmp_path / "objects.npy", (2, 1)) is None
    from archscout.bench.scores import read_scores

    np.savez(tmp_path / "scores.npz", arch=objects)
    with pytest.raises(UserError):
        read_scores(tmp_path / "scores.npz", types.SimpleNamespace())
    assert not STARTED
    assert not (tmp_path / "exploded").exists()
    assert not bomb.exists()


def test_a_genotype_is_read_and_not_run(tmp_path: Path) -> None:
    from archscout.spaces import SPACES

    space = SPACES["darts"]((3, 32, 32), 10)
    evil = f"__import__('os').mkdir({str(tmp_path / 'made')!r})"
    for text in (
        evil,
        f"Genotype(normal={evil}, normal_concat=range(2, 6), reduce=[], reduce_concat=range(2, 6))",
        f"Genotype(normal=[('sep_conv_3x3', {evil})] * 8, normal_concat=range(2, 6), reduce=[], reduce_concat=[])",
        f"Genotype(normal=[], normal_concat=range({evil}), reduce=[], reduce_concat=range(2, 6))",
        "Genotype(normal=[], normal_concat=range(10**12), reduce=[], reduce_concat=range(2, 6))",
        "(" * 5000 + ")" * 5000,
    ):
        with pytest.raises(UserError):
            space.parse(text)
    assert not (tmp_path / "made").exists()


def test_hostile_texts_of_a_log_are_texts_on_the_page(foreign: Path) -> None:
    lines = (foreign / "trials.jsonl").read_text().splitlines()
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    changed = [line.replace("resnet8-w8", json.dumps(hostile)[1:-1]).replace('"classes":["0","1"]',
               f'"classes":[{json.dumps(hostile)},"1"]') for line in lines]  # fmt: skip
    assert changed != lines
    (foreign / "trials.jsonl").write_text("\n".join(changed) + "\n")
    change(foreign / "pictures.json", x="http://198.51.100.7/pixel.png")
    assert code_of("report", foreign) == 0
    page = (foreign / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


@pytest.mark.parametrize(
    "name", ["trials.jsonl", "run.log", "checkpoints", "report.html", ".lock", "weights.safetensors"]
)
def test_links_that_lead_out_of_a_run_are_refused(name: str, foreign: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    if name == "checkpoints":
        shutil.move(foreign / name, outside)
    else:
        if name == ".lock":
            (foreign / name).write_text("mine")
        (foreign / name).touch()
        shutil.copy(foreign / name, outside)
        (foreign / name).unlink()
    (foreign / name).symlink_to(outside)

    def state() -> Any:
        return sorted(os.listdir(outside)) if outside.is_dir() else hashlib.sha256(outside.read_bytes()).hexdigest()

    before = state()
    for verb in ("resume", "report", "export", "profile"):
        assert code_of(verb, foreign) == 2, verb
    assert state() == before


def test_what_vanishes_meanwhile_is_passed_over(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run at work replaces its files by drafts that are there for a moment."""
    walk = os.walk

    def with_drafts(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for where, folders, files in walk(root):
            yield where, folders, [".report.html.0a1b.part", *files]

    monkeypatch.setattr("archscout.files.os.walk", with_drafts)
    refuse_exits(foreign)
    assert archscout.Result(foreign).finished
    (foreign / "link").symlink_to(foreign.parent)
    with pytest.raises(UserError, match="leads out"):
        refuse_exits(foreign)


def test_numbers_of_a_log_that_are_too_large(foreign: Path) -> None:
    """A whole number of 400 digits is JSON, and no cost."""
    trial = {"arch": "resnet8-w8", "costs": {"macs": 10**400, "violation": 0.0}, "scores": {}, "failures": {}}
    with open(foreign / "trials.jsonl", "a") as log:
        log.write(json.dumps({"event": "trial/plain/x", "value": trial, "seconds": 0.0, "time": "2026"}) + "\n")
    with pytest.raises(UserError, match="holds a damaged line"):
        archscout.Result(foreign)


def test_what_is_no_file_in_a_run_is_refused(foreign: Path) -> None:
    (foreign / "trials.jsonl").unlink()
    os.mkfifo(foreign / "trials.jsonl")  # reading it would wait for ever
    for verb in ("resume", "report", "export"):
        assert code_of(verb, foreign) == 2


def test_links_inside_a_run_are_fine(foreign: Path) -> None:
    (foreign / "trials.jsonl").rename(foreign / "log")
    (foreign / "trials.jsonl").symlink_to("log")
    assert code_of("report", foreign) == 0


def test_a_page_is_not_written_through_a_link(foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "page.html").symlink_to(tmp_path / "precious")
    assert code_of("report", foreign, "--out", tmp_path / "page.html") == 0
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "model.textproto", "model.onnxtxt", "model.ort"])
def test_an_onnx_file_reads_no_other_file(name: str, foreign: Path, tmp_path: Path) -> None:
    """Whatever it is called: ONNX Runtime reads the same bytes under every name."""
    import onnx
    from onnx import external_data_helper
    from PIL import Image

    secret = tmp_path / "secret.bin"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    model = onnx.load(str(foreign / "model.onnx"))
    big = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    secret.write_bytes(big.raw_data)
    external_data_helper.set_external_data(big, location=str(secret))
    big.ClearField("raw_data")
    (tmp_path / name).write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="other files"):
        archscout.predict(tmp_path / name, [tmp_path / "a.png"])


def test_an_archive_that_lies_about_itself_is_told(tmp_path: Path) -> None:
    """A header that promises more than there is memory, names that lead out, and a member that is cut off."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (10**7, 10**4, 100)})
    with zipfile.ZipFile(tmp_path / "big.npz", "w") as archive:
        archive.writestr("X.npy", head.getvalue())
        archive.writestr("y.npy", b"")
        archive.writestr("../../evil.npy", b"")
    with pytest.raises(UserError):
        archscout.data.load(str(tmp_path / "big.npz"))
    assert not (tmp_path.parent / "evil.npy").exists()
