"""Memory of a network counted in other ways than by the trace: on its ONNX graph, and by PyTorch's allocator."""

from __future__ import annotations

import onnx
import torch
from onnx import numpy_helper, shape_inference
from torch import nn

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose")
INTO = ("Conv", "Gemm", "Add", "AveragePool", "GlobalAveragePool", "MaxPool", "ReduceMean")


def int8_bytes(content: bytes) -> tuple[int, int]:
    """RAM and flash at int8 of an ONNX network: the live results at each node in turn, and the weights with biases.

    A Relu writes over what the node before it made, if no other node reads that; views take nothing.
    """
    graph = shape_inference.infer_shapes(onnx.load_from_string(content)).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants, nodes = set(weights), []
    for node in graph.node:  # what is computed from constants and shapes alone is known before
        if node.op_type in ("Constant", "Shape") or all(name in constants for name in node.input):
            constants.update(node.output)
        else:
            nodes.append(node)
    sizes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        count = 1
        for side in value.type.tensor_type.shape.dim:
            count *= side.dim_value
        sizes[value.name] = count
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, []).append(place)
    maker = {node.output[0]: node.op_type for node in nodes}
    root = {graph.input[0].name: graph.input[0].name}
    for node in nodes:
        first = next(name for name in node.input if name not in constants)
        over = node.op_type == "Relu" and readers[first] == [nodes.index(node)] and maker.get(first) in INTO
        root[node.output[0]] = root[first] if over or node.op_type in VIEWS else node.output[0]
    peak = 0
    for place, node in enumerate(nodes):
        alive = set()
        for name, home in root.items():
            begun = name == graph.input[0].name or any(name in other.output for other in nodes[: place + 1])
            if begun and (max(readers.get(name, [-1])) >= place or name in node.output):
                alive.add(home)
        peak = max(peak, sum(sizes[home] for home in alive))
    flash = 0
    for node in nodes:
        if node.op_type in ("Conv", "Gemm"):
            weight = weights[node.input[1]]
            flash += weight.size + 8 * weight.shape[0]
        if node.op_type == "BatchNormalization":
            flash += 8 * weights[node.input[1]].size
    return peak, flash


def step_bytes(model: nn.Module, shape: tuple[int, int, int], batch: int) -> int:
    """Bytes of one training step with momentum: weights, gradients, momentum, and the allocator's peak meanwhile."""
    model = model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images, labels = torch.randn(batch, *shape), torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=True)
    held = images.nbytes + sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    held += sum(p.nbytes for p in model.parameters())  # momentum
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    now = peak = 0
    events = record.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return held + peak
