"""ONNX export, prediction through ONNX Runtime, and weight files."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from archscout import deploy
from archscout.costs import measure
from archscout.data import Data, load
from archscout.deploy import Export, Int8, export_int8, export_onnx, load_weights, measure_onnx, predict, save_weights
from archscout.errors import UserError

HOSTILE = ("<script>alert(1)</script>", 'a "quoted", \\ name\n', "../../etc", "Grün 🌲", "")
MEAN, STD = (120.0, 100.0, 80.0), (60.0, 50.0, 40.0)


class Net(nn.Module):
    """Everything awkward at once: interpolation inside, grouped strided convolution, batch norm, dropout, pooling."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 8, 3, stride=2, groups=4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.interpolate(x, size=(13, 13), mode="bilinear", align_corners=False)
        x = self.down(torch.relu(self.bn(self.conv(x))))
        x = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.head(self.drop(x))


def net(channels: int = 3, classes: int = 5) -> nn.Module:
    """A network with the weights and running statistics of a few made-up training steps, so that its outputs differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Net(channels, classes)
        for _ in range(3):
            model(torch.randn(16, channels, 11, 11))
        with torch.no_grad():
            model.head.weight.mul_(8)
    return model


def pixels(n: int, channels: int = 3, size: int = 11) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, size, size)).astype(np.uint8)


def by_torch(
    model: nn.Module, images: np.ndarray, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> np.ndarray:
    x = torch.from_numpy(images).double().numpy()
    normed = (x - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    was = model.training
    with torch.no_grad():
        out = model.eval()(torch.from_numpy(normed).float()).softmax(1).numpy()
    model.train(was)
    return out


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, Export]:
    model, path = net(), tmp_path_factory.mktemp("onnx") / "model.onnx"
    done = export_onnx(
        model,
        path,
        input_shape=(3, 11, 11),
        classes=HOSTILE,
        mean=MEAN,
        std=STD,
        check_images=pixels(20),
        metadata={"run": "a run", "note": "ünï"},
    )
    return model, path, done


def test_the_file_computes_what_torch_computes(exported: tuple[nn.Module, Path, Export]) -> None:
    model, path, done = exported
    assert done.max_difference < 1e-5
    assert done.agreement == 1.0
    assert (done.images, done.exporter) == (20, "dynamo")
    assert done.bytes == path.stat().st_size
    assert json.loads(json.dumps(done.to_json()))["path"] == "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for n in (1, 7):
        logits, probabilities = session.run(None, {"image": pixels(n).astype(np.float32)})
        assert probabilities.shape == (n, 5)
        np.testing.assert_allclose(probabilities, by_torch(model, pixels(n)), atol=1e-5)
        np.testing.assert_allclose(probabilities, torch.from_numpy(logits).softmax(1).numpy(), atol=1e-6)
    assert probabilities.std(0).max() > 0.01  # the images are told apart, so that the equality means something


def test_the_file_is_one_and_says_what_it_is(exported: tuple[nn.Module, Path, Export]) -> None:
    _, path, done = exported
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert tuple(json.loads(about["classes"])) == HOSTILE
    assert {k: about[k] for k in ("size", "channels", "colour", "layout", "range", "run", "note")} == {
        "size": "11x11",
        "channels": "3",
        "colour": "RGB",
        "layout": "NCHW",
        "range": "0..255",
        "run": "a run",
        "note": "ünï",
    }
    assert about["archscout"]
    (entry,) = model.graph.input
    assert entry.name == "image"
    assert [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim] == ["batch", 3, 11, 11]
    assert [out.name for out in model.graph.output] == ["logits", "probabilities"]
    assert done.opset == next(o.version for o in model.opset_import if o.domain == "")


def test_the_file_names_no_folder_of_this_machine(exported: tuple[nn.Module, Path, Export]) -> None:
    content = exported[1].read_bytes()
    for folder in (Path(deploy.__file__).parent, Path(__file__).parent, Path(torch.__file__).parent):
        assert str(folder).encode() not in content


def test_export_is_silent_and_leaves_the_model(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder, tmp_path: Path
) -> None:
    model = net().train()
    model.bn.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    done = export_onnx(model, tmp_path / "m.onnx", input_shape=(3, 11, 11), classes=list("abcde"), mean=MEAN, std=STD)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert done.max_difference < 1e-5
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_grey_networks_and_prediction_of_png_files(tmp_path: Path) -> None:
    model = net(channels=1, classes=3)
    export_onnx(model, tmp_path / "g.onnx", input_shape=(1, 11, 11), classes=["x", "y", "z"], mean=(99.0,), std=(70.0,))
    images = pixels(5, channels=1)
    files = []
    for i, image in enumerate(images):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image[0]).save(files[-1])
    found = predict(tmp_path / "g.onnx", files, batch=2)
    expected = by_torch(model, images, (99.0,), (70.0,))
    got = np.array([list(p.probabilities.values()) for p in found if p.probabilities])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert [p.label for p in found] == [("x", "y", "z")[i] for i in expected.argmax(1)]
    assert [p.name for p in found] == [str(file) for file in files]
    colour = np.repeat(images[0].transpose(1, 2, 0), 3, axis=2)  # grey in three channels is the same image
    assert predict(tmp_path / "g.onnx", [colour])[0].confidence == pytest.approx(found[0].confidence)


def test_prediction_reads_every_kind_of_image(exported: tuple[nn.Module, Path, Export], tmp_path: Path) -> None:
    model, path, _ = exported
    image = pixels(1)[0].transpose(1, 2, 0)
    expected = by_torch(model, pixels(1))[0]
    Image.fromarray(image).save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(tmp_path / "turned.png", exif=exif)
    rgba = np.dstack([image, np.full((11, 11), 255, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    inputs = [tmp_path / "plain.png", str(tmp_path / "turned.png"), tmp_path / "alpha.png"]
    inputs += [image, image.transpose(2, 0, 1), image.astype(np.uint16) * 257]  # type: ignore[list-item]
    for found in predict(path, inputs):
        assert found.failure is None, found
        np.testing.assert_allclose(list(found.probabilities.values()), expected, atol=1e-5)  # type: ignore[union-attr]
        assert tuple(found.probabilities) == HOSTILE  # type: ignore[arg-type]
        assert found.label == HOSTILE[int(expected.argmax())]
        assert found.confidence == pytest.approx(expected.max(), abs=1e-5)
    wide = Image.fromarray(np.pad(image, ((0, 0), (4, 4), (0, 0))))  # the centre is the image
    wide.save(tmp_path / "wide.png")
    np.testing.assert_allclose(
        list(predict(path, [tmp_path / "wide.png"])[0].probabilities.values()),  # type: ignore[union-attr]
        expected,
        atol=1e-5,
    )


def test_an_unreadable_image_fails_alone(exported: tuple[nn.Module, Path, Export], tmp_path: Path) -> None:
    _, path, _ = exported
    (tmp_path / "broken.png").write_bytes(b"\x89PNG not really")
    Image.fromarray(pixels(1)[0].transpose(1, 2, 0)).save(tmp_path / "good.png")
    found = predict(
        path, [tmp_path / "broken.png", tmp_path / "good.png", tmp_path / "absent.png", np.zeros((2, 2, 7)), tmp_path]
    )
    assert [p.failure is None for p in found] == [False, True, False, False, False]
    assert found[0].label is None
    assert found[0].confidence is None
    assert "shape (2, 2, 7)" in str(found[3].failure)
    assert found[0].failure == "is no image (wanted PNG, JPEG, WebP, TIFF, BMP or GIF)"
    assert found[2].failure == "there is no such file"
    assert str(found[4].failure).startswith("is a folder; type: archscout predict RUN")
    assert predict(path, []) == []


def test_a_folder_stands_for_the_images_below_it(exported: tuple[nn.Module, Path, Export], tmp_path: Path) -> None:
    from archscout.verbs import predict as predict_below

    _, path, _ = exported
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "deep/a.PNG", ".hidden.png"):
        Image.fromarray(pixels(1)[0].transpose(1, 2, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    found = predict_below(path, [tmp_path, tmp_path / "b.png"])
    assert [Path(p.name).name for p in found] == ["b.png", "a.PNG", "b.png"]
    assert all(p.failure is None for p in found)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        predict_below(path, [tmp_path / "empty"])


def test_files_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UserError, match="cannot load"):
        predict(tmp_path / "text.onnx", [])
    with pytest.raises(UserError, match="cannot load"):
        measure_onnx(tmp_path / "absent.onnx")
    stranger = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, [1])],
            [onnx.helper.make_tensor_value_info("y", 1, [1])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(stranger, str(tmp_path / "stranger.onnx"))
    with pytest.raises(UserError, match="wanted an ONNX file by archscout"):
        predict(tmp_path / "stranger.onnx", [])


def test_what_cannot_be_parsed_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ONNX Runtime would make of it is not known."""
    (tmp_path / "text.onnx").write_text("hello")
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match=r"cannot load '.*text.onnx'"):
        predict(tmp_path / "text.onnx", [])
    with pytest.raises(UserError, match="cannot load the exported network"):
        deploy._session(b"hello", 1)


def said(**values: str) -> Callable[[onnx.ModelProto], None]:
    """A change of what a file says of itself."""

    def change(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            entry.value = values.get(entry.key, entry.value)

    return change


def without_probabilities(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def of_any_height(model: onnx.ModelProto) -> None:
    said(size="999999999x11")(model)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_probabilities, "says it has 5 classes, but its outputs are logits"),
        (said(classes='["a", "b"]'), "says it has 2 classes, but its outputs are logits"),
        (said(classes=json.dumps([str(i) for i in range(9)])), "says it has 9 classes"),
        (said(classes='["a", "a", "b", "c", "d"]'), "does not say its classes"),
        (said(classes="[" * 100_000), "does not say its classes"),
        (said(classes='{"a": 1}'), "does not say its classes"),
        (said(size="12x11"), "says its images are 3 x 12 x 11, but its inputs are image"),
        (said(size="999999999999x999999999999"), "but its inputs are image"),
        (said(size="11"), "does not say its classes, size"),
        (said(size="9" * 5000 + "x11"), "does not say its classes, size"),
        (said(colour="L"), "says its images are 1 x 11 x 11"),
        (of_any_height, "says its images are 3 x 999999999 x 11"),
    ],
)
def test_files_that_contradict_themselves(
    change: Callable[[onnx.ModelProto], None], told: str, exported: tuple[nn.Module, Path, Export], tmp_path: Path
) -> None:
    model = onnx.load(str(exported[1]))
    change(model)
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(UserError, match=told) as raised:
        predict(tmp_path / "m.onnx", [pixels(1)[0]])
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("side", "classes", "told"),
    [
        (2, 5, "cannot run"),
        (2, 3, r"answers \(4, 3\) for 1 images and 3 classes"),
        (6000, 3, "wanted at most 16777216 pixels"),
    ],
)
def test_files_that_answer_something_else(side: int, classes: int, told: str, tmp_path: Path) -> None:
    """A network that only puts its pixels into rows of `classes`."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["image", "rows"], ["probabilities"])],
        "g",
        [helper.make_tensor_value_info("image", kind, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("probabilities", kind, ["batch", classes])],
        [helper.make_tensor("rows", onnx.TensorProto.INT64, [2], [-1, classes])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    about = {"classes": json.dumps(list("abcdefgh")[:classes]), "size": f"{side}x{side}", "colour": "RGB"}
    helper.set_model_props(model, about)
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(UserError, match=told):
        predict(tmp_path / "m.onnx", [np.zeros((2, 2, 3), np.uint8)])


def test_the_latency_of_the_file(exported: tuple[nn.Module, Path, Export]) -> None:
    found = measure_onnx(exported[1], seconds=0.05)
    assert (found.runtime, found.threads, found.device) == ("onnxruntime", 1, "cpu")
    assert 0 < found.low <= found.median <= found.high <= found.p95


def test_tracing_is_the_second_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.onnx.export

    def only_tracing(*args: object, dynamo: bool, **kwargs: object) -> object:
        if dynamo:
            raise RuntimeError("the new exporter does not know this")
        return original(*args, dynamo=False, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.onnx, "export", only_tracing)
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = export_onnx(
            model, tmp_path / "t.onnx", input_shape=(3, 11, 11), classes=list("abcde"), mean=MEAN, std=STD
        )
    assert done.exporter == "tracing"
    images = pixels(7)
    found = predict(tmp_path / "t.onnx", list(images))
    got = np.array([list(p.probabilities.values()) for p in found if p.probabilities])
    np.testing.assert_allclose(got, by_torch(model, images), atol=1e-5)


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = deploy._onnx_probabilities
    monkeypatch.setattr(deploy, "_onnx_probabilities", lambda *a: original(*a) + 0.002)
    with pytest.raises(UserError, match=r"differs from PyTorch by 0\.002"):
        export_onnx(net(), tmp_path / "m.onnx", input_shape=(3, 11, 11), classes=list("abcde"), mean=MEAN, std=STD)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["a", "b"]}, "5 outputs, but 2 class names"),
        ({"classes": ["a"] * 5}, "must differ"),
        ({"mean": (1.0,)}, "need 3 values"),
        ({"std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"metadata": {"classes": "x"}}, "choose another key"),
        ({"check_images": np.zeros((2, 3, 5, 5))}, r"wanted \(N, 3, 11, 11\)"),
        ({"path": "no/such/folder/m.onnx"}, "no folder"),
    ],
)
def test_requests_that_cannot_be_met(change: dict[str, object], message: str, tmp_path: Path) -> None:
    request: dict[str, object] = {
        "path": tmp_path / "m.onnx",
        "input_shape": (3, 11, 11),
        "classes": list("abcde"),
        "mean": MEAN,
        "std": STD,
    }
    with pytest.raises(UserError, match=message):
        export_onnx(net(), **{**request, **change})  # type: ignore[arg-type]


def test_a_network_that_diverged_is_refused(tmp_path: Path) -> None:
    model = net()
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        export_onnx(model, tmp_path / "m.onnx", input_shape=(3, 11, 11), classes=list("abcde"), mean=MEAN, std=STD)


# --- weights ---


def test_weights_round_trip(tmp_path: Path) -> None:
    model, other = net(), Net()
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_shared_and_overlapping_tensors(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
        model[2].weight = model[0].weight
        model[3].weight = nn.Parameter(model[0].weight.detach().t())  # the same memory in another order
        return model

    model, other = tied(), tied()
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(16.0).view(4, 4))
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other[0].weight, model[0].weight)
    assert other[2].weight is other[0].weight
    assert torch.equal(other[3].weight, model[3].weight)


def test_channels_last_weights_round_trip(tmp_path: Path) -> None:
    model, other = net().to(memory_format=torch.channels_last), Net()
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other.conv.weight, model.conv.weight)


def test_weights_of_another_network(tmp_path: Path) -> None:
    save_weights(net(), tmp_path / "w.safetensors")
    wide = Net(classes=7)
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    with pytest.raises(UserError, match=r"tensor 'head.weight' .* is .*\(5, 8\).* wants .*\(7, 8\)"):
        load_weights(wide, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in wide.state_dict().items())
    with pytest.raises(UserError, match=r"no tensor '0\.weight'"):
        load_weights(nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.safetensors")
    short = Net()
    short.head = nn.Linear(8, 5, bias=False)
    with pytest.raises(UserError, match=r"a tensor 'head.bias' that this network lacks"):
        load_weights(short, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="no weights at"):
        load_weights(net(), tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UserError, match="no weights that can be read"):
        load_weights(net(), tmp_path / "text.safetensors")


@pytest.mark.parametrize("shared", ['{"a": ["head.bias"]}', '{"a": 1}', "[1]", "{", "[" * 100_000])
def test_weights_that_lie_about_what_is_shared(shared: str, tmp_path: Path) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in net().state_dict().items()}
    (tmp_path / "w.safetensors").write_bytes(save(tensors, metadata={"shared": shared}))
    with pytest.raises(UserError, match="no weights that can be read"):
        load_weights(net(), tmp_path / "w.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(net(), tmp_path / "w.safetensors")
    before = (tmp_path / "w.safetensors").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("archscout.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(Net(), tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


# --- int8 ---


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, Path, Int8, Data]:
    """A small network that has learned scikit-learn's digits, exported, and quantized."""
    from archscout.fit import fit, recipe_for
    from archscout.spaces import SPACES

    data = load("digits")
    space = SPACES["plain"](data.shape, 10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = space.build(space.parse("resnet8-w8"))
    train = data.part("train")
    recipe = recipe_for(train, data.shape, 10, mirrors=False, balanced=False, epochs=3)
    fit(model, train, recipe=recipe, epochs=3, seed=0, mean=data.mean, std=data.std)
    folder = tmp_path_factory.mktemp("int8")
    export_onnx(
        model, folder / "m.onnx", input_shape=data.shape, classes=list(data.classes), mean=data.mean, std=data.std
    )
    done = export_int8(
        folder / "m.onnx", folder / "m8.onnx", calibration=train, judged=data.part("validation"), images=100
    )
    return model, folder / "m.onnx", folder / "m8.onnx", done, data


def test_int8_says_what_it_costs(quantized: tuple[nn.Module, Path, Path, Int8, Data]) -> None:
    """Accuracy before is that of the torch network; after, that of the file, image by image."""
    from archscout.fit import evaluate

    model, _, path, done, data = quantized
    judged = data.part("validation")
    before = evaluate(model, judged, mean=data.mean, std=data.std)
    assert done.images == len(judged)
    assert done.calibration == 100
    assert done.float_accuracy == pytest.approx(before.accuracy)
    assert done.float_balanced_accuracy == pytest.approx(before.balanced_accuracy)
    found = predict(path, [np.asarray(data.images[i]) for i in judged.indices])
    right = np.array([p.label for p in found]) == np.array(data.classes)[judged.labels]
    assert done.accuracy == pytest.approx(right.mean())
    assert done.accuracy_interval[0] < done.accuracy < done.accuracy_interval[1] or right.all()
    assert done.accuracy > done.float_accuracy - 0.05 > 0.7
    assert done.agreement > 0.9
    assert json.loads(json.dumps(done.to_json()))["path"] == "m8.onnx"


def test_int8_weights_are_int8_and_the_rest_is_kept(quantized: tuple[nn.Module, Path, Path, Int8, Data]) -> None:
    model, before, path, done, data = quantized
    small, large = onnx.load(str(path)), onnx.load(str(before))
    assert {e.key: e.value for e in small.metadata_props} == {e.key: e.value for e in large.metadata_props}
    assert [(i.name, o.name) for i, o in zip(small.graph.input, small.graph.output, strict=False)] == [
        (i.name, o.name) for i, o in zip(large.graph.input, large.graph.output, strict=False)
    ]
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in small.graph.initializer]
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert sum(a.size for a in arrays if a.dtype == np.int8 and a.ndim > 1) == weights
    assert not [a for a in arrays if a.dtype == np.float32 and a.ndim > 1 and a.size > 4]
    assert done.bytes == path.stat().st_size < done.float_bytes
    counted = measure(model, data.shape, ["flash_int8"])["flash_int8"]
    assert sum(a.nbytes for a in arrays) == pytest.approx(counted, rel=0.15)  # ranges of activations come on top


def test_calibration_images_are_of_all_classes() -> None:
    labels = np.repeat([0, 1, 2], [50, 8, 3])
    chosen = deploy._spread_over_classes(labels, 20)
    assert np.bincount(labels[chosen]).tolist() == [9, 8, 3]
    assert len(set(chosen.tolist())) == 20
    assert deploy._spread_over_classes(labels, 1000).tolist() == list(range(61))


def test_int8_of_what_cannot_be_quantized(
    quantized: tuple[nn.Module, Path, Path, Int8, Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path, _, _, data = quantized
    parts = {"calibration": data.part("train"), "judged": data.part("validation")}
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UserError, match="cannot load"):
        export_int8(tmp_path / "text.onnx", tmp_path / "o.onnx", **parts)
    with pytest.raises(UserError, match="no folder"):
        export_int8(path, tmp_path / "no" / "o.onnx", **parts)
    before = path.read_bytes()
    (tmp_path / "link.onnx").symlink_to(path)
    for target in (path, path.parent / "." / path.name, tmp_path / "link.onnx"):
        with pytest.raises(UserError, match="another name"):
            export_int8(path, target, **parts)
    assert path.read_bytes() == before

    def broken(*_: object, **__: object) -> None:
        raise ValueError("unknown operation Foo")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", broken)
    with pytest.raises(UserError, match=r"cannot be quantized \(unknown operation Foo\)"):
        export_int8(path, tmp_path / "o.onnx", **parts)
    assert not (tmp_path / "o.onnx").exists()
