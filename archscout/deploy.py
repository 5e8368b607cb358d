"""From a trained network to files that work elsewhere: ONNX with normalisation inside, prediction with it, weights."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from archscout.data import Part
from archscout.devices.latency import Latency, timed
from archscout.errors import UserError
from archscout.files import write_whole
from archscout.readers.picture import channels_last, decode, short_side, whole_array
from archscout.readers.source import Unreadable
from archscout.space import Shape

TOLERANCE = 1e-3  # largest allowed difference of a probability between PyTorch and ONNX Runtime
OWN = ("classes", "size", "channels", "colour", "layout", "range", "archscout")  # metadata that archscout writes
PIXELS = 4096 * 4096  # of an image, at most, that a file may ask for
ALIASES = "shared"  # safetensors metadata: names of tensors that are another tensor


@dataclass(frozen=True)
class Export:
    """What an export wrote, and how far ONNX Runtime is from PyTorch on the images it was checked with.

    bytes: size of the file. max_difference: the largest difference of a probability. agreement: the share of `images`
    (their number) for which both name the same class. opset: the ONNX operator set. exporter: "dynamo" or "tracing".
    """

    path: Path
    bytes: int
    max_difference: float
    agreement: float
    images: int
    opset: int
    exporter: str

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as plain values; the path as its last part."""
        return {**asdict(self), "path": self.path.name}


@dataclass(frozen=True)
class Int8:
    """What a quantization wrote, and what it cost in accuracy.

    bytes, float_bytes: sizes of the int8 file and of the one it was made from.  accuracy, float_accuracy: shares of
    `images` images named right, with int8 and before, and their 95 % intervals (low, high).  balanced_accuracy,
    float_balanced_accuracy: means over the classes.  agreement: share of the images for which both name the same class.
    calibration: images that the ranges of activations were read from.  latency, float_latency: medians in ms, ONNX
    Runtime on this machine's CPU, one thread.
    """

    path: Path
    bytes: int
    float_bytes: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    float_accuracy: float
    float_accuracy_interval: tuple[float, float]
    float_balanced_accuracy: float
    agreement: float
    images: int
    calibration: int
    latency: float
    float_latency: float

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as plain values; the path as its last part."""
        return {
            **asdict(self),
            "path": self.path.name,
            "accuracy_interval": list(self.accuracy_interval),
            "float_accuracy_interval": list(self.float_accuracy_interval),
        }


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image: the likeliest class, its probability, and the probability of every class.

    For an image that could not be read `failure` says why, and label, confidence and probabilities are None.
    """

    name: str
    label: str | None
    confidence: float | None
    probabilities: Mapping[str, float] | None
    failure: str | None = None


class Deployed(nn.Module):
    """A network with its normalisation before it and the softmax after it: pixels 0..255 -> logits, probabilities."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and probabilities, (N, classes) each, of pixels (N, C, H, W)."""
        logits = self.model((image - self.mean) / self.std)
        return logits, logits.softmax(1)


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    input_shape: Shape,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    check_images: np.ndarray | torch.Tensor | None = None,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Export:
    """Write a trained network as one ONNX file that takes pixels, and check it in ONNX Runtime against PyTorch.

    The file has the input "image", float32 (batch, C, H, W) of pixels 0..255 with any batch size, and the outputs
    "logits" and "probabilities", (batch, classes). Its metadata says classes (JSON), size (height x width), channels,
    colour order, layout and value range, next to your own `metadata`. `mean` and `std` are per channel on the 0..255
    scale. `check_images` (N, C, H, W), 0..255, are what both runtimes are compared on, alone and as a batch; without
    them random pixels are used. Takes a few seconds. The model is left as found.

    Raises UserError if any probability differs by more than 0.001, or if the network cannot be exported.
    """
    import onnx

    target = Path(path)
    _check_request(target, input_shape, classes, mean, std, metadata or {})
    wrapped = Deployed(copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format), mean, std).eval()
    images = _check_batch(check_images, input_shape)
    expected = _torch_probabilities(wrapped, images, classes)
    proto, exporter = _to_onnx(wrapped, images, opset)
    proto = _tidied(proto, _described(input_shape, classes, metadata or {}))
    try:
        onnx.checker.check_model(proto, full_check=True)
        content = proto.SerializeToString()
    except Exception as error:
        raise UserError(
            f"the exported network is no valid ONNX file ({_line(error)}); keep weights.safetensors"
        ) from None
    found = _onnx_probabilities(content, images)
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"ONNX Runtime differs from PyTorch by {difference:.2g} in a probability, allowed is {TOLERANCE}; "
            f"nothing was written to {target}; does the network behave the same in eval mode on every call?"
        )
    _write(target, content)
    return Export(
        path=target,
        bytes=len(content),
        max_difference=difference,
        agreement=float((found.argmax(1) == expected.argmax(1)).mean()),
        images=len(images),
        opset=_opset(proto),
        exporter=exporter,
    )


def export_int8(
    model_path: str | Path, path: str | Path, *, calibration: Part, judged: Part, images: int = 256
) -> Int8:
    """Write an exported network with 8-bit weights and activations, and compare its answers with those before.

    Use it for devices that compute in int8. Static quantization by ONNX Runtime in the QDQ form, which other runtimes
    read too: weights symmetric and per output channel, activations with one range each, from the smallest to the
    largest value that `images` images of `calibration` give (equally many of each class, as far as there are).
    Normalisation and softmax stay in fp32. `judged` are the images on which both files are compared; they must not be
    training images, or the loss looks smaller than it is. Input, outputs and metadata stay as they were. Takes some
    seconds, and about two inferences of each image.

    Raises UserError for a file that archscout did not write and for a network that cannot be quantized.

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", arXiv 1712.05877.
    """
    from archscout.audit import wilson

    source, target = Path(model_path), Path(path)
    if target.resolve() == source.resolve():
        raise UserError(f"'{target}' is the network that is to be quantized; give the int8 file another name")
    session = _session(source, 1)
    _what_it_wants(session, source)
    if not target.absolute().parent.is_dir():
        raise UserError(f"there is no folder {target.absolute().parent} to write {target.name} into; make it first")
    chosen = _spread_over_classes(calibration.labels, images)
    content = _quantized(source, calibration, chosen)
    small = _session(content, 1)
    answers = {"int8": _answers(small, judged), "float": _answers(session, judged)}
    right = {name: found == judged.labels for name, found in answers.items()}
    n = len(judged)
    intervals = {name: tuple(float(end) for end in wilson(int(hits.sum()), n)) for name, hits in right.items()}
    balanced = {
        name: float(np.mean([hits[judged.labels == label].mean() for label in np.unique(judged.labels)]))
        for name, hits in right.items()
    }
    _write(target, content)
    return Int8(
        path=target,
        bytes=len(content),
        float_bytes=source.stat().st_size,
        accuracy=float(right["int8"].mean()),
        accuracy_interval=(intervals["int8"][0], intervals["int8"][1]),
        balanced_accuracy=balanced["int8"],
        float_accuracy=float(right["float"].mean()),
        float_accuracy_interval=(intervals["float"][0], intervals["float"][1]),
        float_balanced_accuracy=balanced["float"],
        agreement=float((answers["int8"] == answers["float"]).mean()),
        images=n,
        calibration=len(chosen),
        latency=measure_onnx(target).median,
        float_latency=measure_onnx(source).median,
    )


def _spread_over_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Places of `count` images, equally many of each class as far as there are, the same at every call."""
    order = np.random.default_rng(0).permutation(len(labels))
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])


def _quantized(source: Path, calibration: Part, chosen: np.ndarray) -> bytes:
    """The bytes of the int8 model of an exported one."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Hands out the calibration images, one batch at a time."""

        def __init__(self) -> None:
            self.batches = iter(np.array_split(chosen, -(-len(chosen) // 32)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            positions = next(self.batches, None)
            return None if positions is None else {"image": calibration.batch(positions)[1].float().numpy()}

    before = onnx.load(str(source), format="protobuf", load_external_data=False)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready, done = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
        try:
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            nodes = onnx.load(str(ready)).graph.node
            quantize_static(
                str(ready),
                str(done),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[node.name for node in nodes if node.op_type in ("Sub", "Div", "Softmax")],
            )
            proto = onnx.load(str(done))
        except Exception as error:  # the quantizer raises many kinds
            raise UserError(f"this network cannot be quantized ({_line(error)}); keep {source.name}") from None
    del proto.metadata_props[:]
    proto.metadata_props.extend(before.metadata_props)
    return bytes(proto.SerializeToString())


def _answers(session: Any, part: Part) -> np.ndarray:
    """The class that a session names for each image of a part."""
    found = []
    for start in range(0, len(part), 64):
        images = part.batch(np.arange(start, min(start + 64, len(part))))[1].float().numpy()
        found.append(session.run(["probabilities"], {"image": images})[0].argmax(1))
    return np.concatenate(found)


def measure_onnx(path: str | Path, *, threads: int = 1, seconds: float = 0.5) -> Latency:
    """The latency of an ONNX file in ONNX Runtime on the CPU: batch 1, in milliseconds.

    Use it to see what a deployed network costs beside its latency in PyTorch. Takes about 1.3 x `seconds`.
    """
    session = _session(path, threads)
    entry = session.get_inputs()[0]
    shape = [side if isinstance(side, int) else 1 for side in entry.shape]
    image = {entry.name: np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)}
    return timed(
        lambda: session.run(None, image),
        seconds=seconds,
        min_repeats=20,
        device="cpu",
        runtime="onnxruntime",
        threads=threads,
    )


def predict(
    model_path: str | Path, images: Sequence[str | Path | np.ndarray], *, batch: int = 64, threads: int = 1
) -> list[Prediction]:
    """The class of each image by an exported network, in ONNX Runtime alone: nothing of the run is executed.

    `images` are files or arrays: (H, W), (H, W, 1 or 3) or (1 or 3, H, W), 8 or 16 bits or floats 0..1. They are read
    as for training: upright by EXIF, transparency over white, short side resized, centre cropped. An image that cannot
    be read gives a Prediction with a failure, the others go on. An array is named by its position.
    Raises UserError if the file is no ONNX file that archscout wrote.
    """
    session = _session(model_path, threads)
    classes, shape = _what_it_wants(session, model_path)
    names = [str(image) if isinstance(image, str | Path) else str(i) for i, image in enumerate(images)]
    found: list[Prediction] = []
    for start in range(0, len(images), batch):
        ready: dict[int, np.ndarray] = {}
        failures: dict[int, str] = {}
        for position in range(start, min(start + batch, len(images))):
            try:
                ready[position] = _pixels(images[position], shape)
            except (Unreadable, UserError, MemoryError, OSError) as error:
                failures[position] = str(error) or type(error).__name__
        rows: dict[int, np.ndarray] = {}
        if ready:
            pixels = np.stack(list(ready.values())).transpose(0, 3, 1, 2).astype(np.float32)
            rows = dict(zip(ready, _probabilities(session, pixels, len(classes), model_path), strict=True))
        for position in range(start, min(start + batch, len(images))):
            if position in failures:
                found.append(Prediction(names[position], None, None, None, failures[position]))
                continue
            row = rows[position]
            best = int(row.argmax())
            found.append(
                Prediction(
                    names[position],
                    classes[best],
                    float(row[best]),
                    {name: float(value) for name, value in zip(classes, row, strict=True)},
                )
            )
    return found


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the parameters and buffers of a network as safetensors; the file appears whole or not at all.

    Tensors that the network shares are written once.
    """
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"'{name}' of the network's state is no tensor; keep extra state out of state_dict")
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            shared[name] = seen[key]
        else:
            seen[key] = name
            tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    _write(Path(path), save(tensors, metadata={ALIASES: json.dumps(shared)}))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy the weights of a file that `save_weights` wrote into a network of the same structure.

    Raises UserError that names the first tensor that differs; the network is then unchanged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            shared = json.loads((file.metadata() or {}).get(ALIASES, "{}"))
        if not isinstance(shared, dict) or not all(isinstance(name, str) for name in shared.values()):
            raise ValueError(f"the entry '{ALIASES}' is damaged")
    except FileNotFoundError:
        raise UserError(f"there are no weights at {path}") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} holds no weights that can be read ({_line(error)})") from None
    tensors.update({alias: tensors[name] for alias, name in shared.items() if name in tensors})
    state = model.state_dict()
    for name, tensor in state.items():
        if name not in tensors:
            raise UserError(f"{path} has no tensor '{name}', which this network wants; is it of another architecture?")
        if tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
            got, wanted = ((tuple(t.shape), str(t.dtype)) for t in (tensors[name], tensor))
            raise UserError(f"tensor '{name}' in {path} is {got}, this network wants {wanted}; another architecture?")
    for name in tensors:
        if name not in state:
            raise UserError(f"{path} has a tensor '{name}' that this network lacks; is it of another architecture?")
    model.load_state_dict(tensors)


def _check_request(
    path: Path,
    input_shape: Shape,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    metadata: Mapping[str, str],
) -> None:
    channels = input_shape[0]
    if channels not in (1, 3):
        raise UserError(f"an exported network takes images of 1 or 3 channels, got {channels}")
    if len(mean) != channels or len(std) != channels or not all(s > 0 for s in std):
        raise UserError(f"mean and std need {channels} values each, std above 0; got {list(mean)} and {list(std)}")
    if len(set(classes)) != len(classes) or not classes:
        raise UserError(f"class names must differ, got {list(classes)}")
    taken = [key for key in metadata if key in OWN]
    if taken:
        raise UserError(f"metadata '{taken[0]}' is written by archscout itself; choose another key")
    if not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.absolute().parent} to write {path.name} into; make it first")


def _check_batch(images: np.ndarray | torch.Tensor | None, input_shape: Shape) -> torch.Tensor:
    if images is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (8, *input_shape), generator=generator).float()
    batch = torch.as_tensor(images).detach().to("cpu", torch.float32, copy=True)
    if batch.ndim != 4 or tuple(batch.shape[1:]) != tuple(input_shape) or not len(batch):
        raise UserError(f"check_images has shape {tuple(batch.shape)}, wanted (N, {', '.join(map(str, input_shape))})")
    if len(batch) == 1:  # a batch of two shows whether the batch size is free
        batch = batch.repeat(2, 1, 1, 1)
    return batch.contiguous()


def _torch_probabilities(wrapped: nn.Module, images: torch.Tensor, classes: Sequence[str]) -> np.ndarray:
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        found = np.concatenate([wrapped(chunk)[1].numpy() for chunk in images.split(64)])
    if found.shape[1] != len(classes):
        raise UserError(f"the network has {found.shape[1]} outputs, but {len(classes)} class names were given")
    if not np.isfinite(found).all():
        raise UserError("the network's outputs are not finite; it cannot be deployed: train it again")
    return found


def bare_onnx(model: nn.Module, input_shape: Shape, *, batch: int = 1) -> bytes:
    """A network as the bytes of an ONNX file for a fixed batch, without normalisation, softmax, or any check.

    Use it to measure how long a network takes in ONNX Runtime; the input is "image", float32 (batch, C, H, W), the
    output "logits". Takes about a second. Raises UserError if the network cannot be exported.
    """
    import onnx

    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()
    sample = torch.zeros(batch, *input_shape)
    file = io.BytesIO()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            with _quiet():
                torch.onnx.export(
                    plain,
                    (sample,),
                    file,  # type: ignore[arg-type]
                    dynamo=False,
                    input_names=["image"],
                    output_names=["logits"],
                )
            return file.getvalue()
        except Exception as error:  # the exporters raise many kinds; the second one may still do it
            first = _line(error)
        try:
            with _quiet():
                program = torch.onnx.export(
                    plain, (sample,), dynamo=True, input_names=["image"], output_names=["logits"], verbose=False
                )
            assert program is not None
            return bytes(onnx.ModelProto.SerializeToString(program.model_proto))
        except Exception as error:
            raise UserError(
                f"this network cannot be written as ONNX (tracing: {first}; torch.export: {_line(error)}); "
                "build it from operations that ONNX has, or measure it with --runtime torch"
            ) from None


def _to_onnx(wrapped: nn.Module, images: torch.Tensor, opset: int | None) -> tuple[Any, str]:
    """The network as an ONNX model in memory, by torch.export, or by tracing where that fails."""
    import onnx

    sample = images[:2].clone()
    outputs = ["logits", "probabilities"]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            with _quiet():
                program = torch.onnx.export(
                    wrapped,
                    (sample,),
                    dynamo=True,
                    input_names=["image"],
                    output_names=outputs,
                    dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                    opset_version=opset,
                    verbose=False,
                )
            assert program is not None
            return program.model_proto, "dynamo"
        except Exception as error:  # the exporters raise many kinds; the second one may still do it
            first = _line(error)
        try:
            with _quiet():
                file = io.BytesIO()
                torch.onnx.export(
                    wrapped,
                    (sample,),
                    file,  # type: ignore[arg-type]
                    dynamo=False,
                    input_names=["image"],
                    output_names=outputs,
                    dynamic_axes={name: {0: "batch"} for name in ("image", *outputs)},
                    opset_version=opset,
                )
            return onnx.load_from_string(file.getvalue()), "tracing"
        except Exception as error:
            raise UserError(
                f"this network cannot be written as ONNX (torch.export: {first}; tracing: {_line(error)}); "
                "use its weights.safetensors, or build it from operations that ONNX has"
            ) from None


def _tidied(proto: Any, described: Mapping[str, str]) -> Any:
    """The model with the metadata of archscout, and without the exporter's notes: they name files of this machine."""
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        del graph.metadata_props[:]
        parts = [*graph.node, *graph.value_info]
        if graph is proto.graph:
            parts += [*graph.input, *graph.output, *graph.initializer]
        for part in parts:
            del part.metadata_props[:]
            if hasattr(part, "doc_string"):
                part.doc_string = ""
    del proto.metadata_props[:]
    for key, value in described.items():
        proto.metadata_props.add(key=key, value=value)
    proto.producer_name = "archscout"
    proto.producer_version = described["archscout"]
    return proto


def _described(input_shape: Shape, classes: Sequence[str], metadata: Mapping[str, str]) -> dict[str, str]:
    channels, height, width = input_shape
    try:
        own_version = version("archscout")
    except PackageNotFoundError:
        own_version = "unknown"
    return {
        "classes": json.dumps([str(name) for name in classes]),
        "size": f"{height}x{width}",
        "channels": str(channels),
        "colour": "RGB" if channels == 3 else "L",
        "layout": "NCHW",
        "range": "0..255",
        "archscout": own_version,
        **{str(key): str(value) for key, value in metadata.items()},
    }


def _onnx_probabilities(content: bytes, images: torch.Tensor) -> np.ndarray:
    """What ONNX Runtime says: the first image alone, so that two batch sizes are tried, then the others together."""
    session = _session(content, 1)
    pixels = images.numpy()
    chunks = [pixels[:1], *(pixels[at : at + 64] for at in range(1, len(pixels), 64))]
    return np.concatenate([session.run(["probabilities"], {"image": chunk})[0] for chunk in chunks])


def _session(model: str | Path | bytes, threads: int, provider: str = "CPUExecutionProvider") -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is not installed; type: pip install onnxruntime") from None

    if threads < 1:
        raise UserError(f"threads is at least 1, got {threads}")
    if provider not in onnxruntime.get_available_providers():
        raise UserError(
            f"onnxruntime here has no {provider} (it has {', '.join(onnxruntime.get_available_providers())}); "
            "install the build for your device, such as onnxruntime-gpu, or take --device cpu"
        )
    what = "the exported network" if isinstance(model, bytes) else f"'{model}'"
    _require_alone(model, what)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the file is called
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=[provider])
    except Exception as error:
        raise UserError(f"ONNX Runtime cannot load {what} ({_line(error)}); wanted an ONNX file") from None


def _require_alone(model: str | Path | bytes, what: str) -> None:
    """UserError for an ONNX file that would read weights from other files, which may lie anywhere.

    Also for what cannot be parsed here, as what ONNX Runtime would make of it is not known then.
    """
    import onnx

    try:
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
        proto = onnx.load_model_from_string(content, format="protobuf")
    except Exception as error:  # the parser raises many kinds
        raise UserError(f"cannot load {what} ({_line(error)}); wanted an ONNX file") from None
    waiting: list[Any] = [proto]
    while waiting:  # tensors may lie deep in the attributes of nested graphs
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            if message.data_location == onnx.TensorProto.EXTERNAL:
                raise UserError(f"{what} keeps weights in other files, which are not read; save it as one file")
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else value


def _what_it_wants(session: Any, path: str | Path) -> tuple[list[str], Shape]:
    """The classes of an exported network and the shape of its images; UserError where its parts contradict them."""
    about = session.get_modelmeta().custom_metadata_map
    wanted = "wanted an ONNX file by archscout"
    try:
        classes = json.loads(about["classes"])
        height, width = (int(side) for side in about["size"].split("x"))
        channels = {"RGB": 3, "L": 1}[about["colour"]]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("classes")
        if len(set(classes)) != len(classes):
            raise ValueError("classes repeat")
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"'{path}' does not say its classes, size and colour ({_line(error)}); {wanted}") from None
    entries = {entry.name: (entry.type, entry.shape) for entry in session.get_inputs()}
    kind, shape = entries.get("image", ("", []))
    if len(entries) != 1 or kind != "tensor(float)" or list(shape[1:]) != [channels, height, width]:
        got = ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in entries.items()) or "none"
        raise UserError(
            f"'{path}' says its images are {channels} x {height} x {width}, but its inputs are {got:.200}; {wanted}"
        )
    if not 0 < height * width <= PIXELS:
        raise UserError(f"'{path}' wants images of {height} x {width}; wanted at most {PIXELS} pixels")
    answers = {entry.name: (entry.type, entry.shape) for entry in session.get_outputs()}
    kind, shape = answers.get("probabilities", ("", []))
    if kind != "tensor(float)" or len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != len(classes)):
        got = ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in answers.items()) or "none"
        raise UserError(f"'{path}' says it has {len(classes)} classes, but its outputs are {got:.200}; {wanted}")
    return classes, (channels, height, width)


def _probabilities(session: Any, images: np.ndarray, classes: int, path: str | Path) -> np.ndarray:
    """(images, classes) that a network says of images (N, C, H, W); UserError where it cannot run or says otherwise."""
    try:
        found = session.run(["probabilities"], {"image": images})[0]
    except Exception as error:  # ONNX Runtime raises kinds of its own
        raise UserError(f"ONNX Runtime cannot run '{path}' ({_line(error)}); export it again") from None
    if found.shape != (len(images), classes):
        raise UserError(
            f"'{path}' answers {found.shape} for {len(images)} images and {classes} classes; export it again"
        )
    return found


def _pixels(image: str | Path | np.ndarray, shape: Shape) -> np.ndarray:
    """One image as the network wants it: uint8 (H, W, C)."""
    channels, height, width = shape
    if isinstance(image, str | Path):
        array = _opened(Path(image), min(height, width))
    else:
        array = np.asarray(image)
        array = array[..., None] if array.ndim == 2 else array
        array = array if channels_last(array.shape, "array") else array.transpose(1, 2, 0)
        array = whole_array(array, "array")
    if array.shape[2] != channels:
        array = _recoloured(array, channels)
    if array.shape[:2] == (height, width):
        return array
    if height != width:
        raise UserError(f"image is {array.shape[0]} x {array.shape[1]}, this network wants exactly {height} x {width}")
    return short_side(array, height)


def _opened(file: Path, short: int) -> np.ndarray:
    """The pixels of an image file. Raises Unreadable with a reason that says what is wrong with the file."""
    from PIL import Image, UnidentifiedImageError

    if file.is_dir():
        raise Unreadable(f"is a folder; type: archscout predict RUN {file}/*.png")
    if not file.exists():
        raise Unreadable("there is no such file")
    try:
        with Image.open(file):
            pass
    except UnidentifiedImageError:
        raise Unreadable("is no image (wanted PNG, JPEG, WebP, TIFF, BMP or GIF)") from None
    except PermissionError:
        raise Unreadable("may not be read; give yourself read permission (chmod u+r)") from None
    except Exception:
        pass  # decoding meets it again, and names it
    return decode(file, short)


def _recoloured(array: np.ndarray, channels: int) -> np.ndarray:
    """Grey as three equal channels, or colour as grey by the ITU-R 601 weights (as Pillow's convert("L"))."""
    from PIL import Image

    if channels == 3:
        return np.repeat(array, 3, axis=2)
    return np.asarray(Image.fromarray(array).convert("L"))[..., None]


def _opset(proto: Any) -> int:
    return next(int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]


def _write(path: Path, content: bytes) -> None:
    """Put `content` at `path` by renaming a finished file, so that a reader never sees half of it."""
    write_whole(path, content, sync=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Prints, warnings and log lines of the exporters inside the block are thrown away."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
