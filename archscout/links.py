"""The skip links of a network: which channels pass layers by, found while one image of zeros runs through it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from archscout.costs.trace import hollow
from archscout.probe import NotDefined
from archscout.space import Shape

CONVOLVE = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
JOIN = ("cat", "concat", "concatenate")
ADD = ("add", "add_", "__add__", "__iadd__", "__radd__")
MOVE = (
    "__getitem__", "chunk", "split", "tensor_split", "narrow", "index_select", "view", "reshape", "flatten",
    "unflatten", "transpose", "permute", "swapaxes", "movedim", "contiguous",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A part of a network in which links skip layers.

    widths: channels of the maps in it, one per layer.  realised: skip links that there are; a link is one channel of a
    map that a later layer reads although another layer lies between.  possible: how many there could be.
    """

    widths: tuple[int, ...]
    realised: int
    possible: int


def cells_of(model: nn.Module, input_shape: Shape) -> list[Cell]:
    """The cells of a network for images of `input_shape` (channels, height, width), in order of execution.

    *Concatenated*: the maps that torch.cat ever puts together along the channels, directly or by way of others, are one
    cell, and so is a last convolution that reads them and joins no other cell. A layer is all that lies between reading
    such maps and making one, be it one convolution or several. A layer's place is one more than the last place that it
    reads; a link from a place before that skips, and all channels of the cell before that are possible links.

    *Added*: where two branches that leave from one map are summed, the maps of the longer branch, from that one on, are
    a cell, one convolution a layer. The shorter branch, empty or a projection, adds as many skip links as that map has
    channels; possible are those from every map to every layer but the next. A branch of one layer has none.

    Raises NotDefined where a sum joins other branches, and where there is no skip link. Runs on shapes alone, on a copy
    without weights; a model that cannot is copied and really run.
    """
    seen = observe(model, input_shape)
    cells = [*joined_cells(seen), *added_cells(seen)]
    if not any(cell.realised for _, cell in cells):
        raise NotDefined("no link skips a layer: no concatenation or sum of maps brings an earlier one back")
    return [cell for _, cell in sorted(cells, key=lambda found: found[0])]


# --- what is seen while the network runs -----------------------------------------------------------------------------


@dataclass
class Map:
    """What made a map: `kind` (image, conv, sum), its number of channels, and the channels read, a tensor per input."""

    kind: str
    width: int
    reads: tuple[Tensor, ...] = ()


class Observer(TorchFunctionMode):
    """Follows every channel from the map that made it to the layers that read it.

    maps: in order of execution, the image first.  owner: channel number -> number of its map; channels are numbered
    through the whole network.  groups: for each concatenation the maps that it puts together.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.maps: list[Map] = []
        self.owner: list[int] = []
        self.groups: list[list[int]] = []
        self.make(image, "image")

    def make(self, output: Tensor, kind: str, *reads: Tensor, axis: int = 1) -> None:
        """Give a new map its channel numbers, along `axis`."""
        first, width = len(self.owner), output.shape[axis]
        self.owner += [len(self.maps)] * width
        self.maps.append(Map(kind, width, tuple(torch.unique(along(read, axis)) for read in reads)))
        tag(output, torch.arange(first, first + width, device="cpu"), axis)

    def owners(self, channels: Tensor) -> list[int]:
        """The maps of some channels, in order of execution."""
        return sorted({self.owner[channel] for channel in channels.tolist()})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        given = [value for value in (*args, *kwargs.values()) if channels_of(value) is not None]
        read = [channels_of(value) for value in given]
        if name in JOIN:
            tensors = args[0] if args else kwargs["tensors"]
            read = [channels_of(value) for value in tensors]
            axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            if is_map(output) and axis in (1, -3) and not any(one is None for one in read):
                set_channels(output, torch.cat(read, 1))
                self.groups.append(self.owners(along(channels_of(output))))
        elif name in MOVE and given and given[0] is args[0]:
            moved = func(read[0].contiguous() if name == "view" else read[0], *args[1:], **kwargs)
            pairs = zip(output, moved, strict=True) if isinstance(output, tuple | list) else [(output, moved)]
            for one, channels in pairs:
                set_channels(one, channels)
        elif is_map(output) and given:
            whole = [value for value in given if value.shape == output.shape]
            if name in CONVOLVE:
                self.make(output, "conv", read[0])
            elif name == "linear":  # on maps whose channels come last
                self.make(output, "conv", read[0], axis=3)
            elif name in ADD and len(whole) == 2:
                self.make(output, "sum", *read)
            elif whole:
                set_channels(output, channels_of(whole[0]))
            elif is_map(given[0]) and given[0].shape[1] == output.shape[1]:  # a pool, or a change of size
                tag(output, along(read[0]))
        return output


def is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def channels_of(value: Any) -> Any:
    """The channel number of every value of a tensor, on the CPU; None where it is not followed."""
    return getattr(value, "channels_followed", None) if isinstance(value, Tensor) else None


def set_channels(value: Tensor, channels: Tensor) -> None:
    value.channels_followed = channels  # type: ignore[attr-defined]


def tag(value: Tensor, channels: Tensor, axis: int = 1) -> None:
    """Say which channels, (C,), a map holds along `axis`, at every place; this takes no memory per place."""
    set_channels(value, channels.view([-1 if a == axis else 1 for a in range(4)]).expand(value.shape))


def along(channels: Tensor, axis: int = 1) -> Tensor:
    """The channels, (C,), that a map holds along `axis`."""
    return channels[0, :, 0, 0] if axis == 1 else channels[0, 0, 0, :]


def observe(model: nn.Module, input_shape: Shape) -> Observer:
    """One forward of one image of zeros in eval mode, on shapes alone where the model allows it."""
    try:
        return follow(hollow(model, {}), torch.zeros(1, *input_shape, device="meta"))
    except Exception:
        if any(p.is_meta for p in model.parameters()):
            raise
    with torch.random.fork_rng(devices=[]):
        return follow(copy.deepcopy(model).float().cpu().eval(), torch.zeros(1, *input_shape))


def follow(network: nn.Module, image: Tensor) -> Observer:
    with torch.no_grad(), Observer(image) as seen:
        network(image)
    return seen


# --- cells -----------------------------------------------------------------------------------------------------------


def joined_cells(seen: Observer) -> Iterator[tuple[int, Cell]]:
    """The cells whose maps are concatenated, each with the number of its first map."""
    groups: list[set[int]] = []
    for maps in map(set, seen.groups):
        if len(maps) > 1:
            groups = [g for g in groups if not g & maps] + [maps.union(*(g for g in groups if g & maps))]
    grouped = set().union(*groups)
    for group in groups:
        inner: set[int] = set()
        links = {number: read_of(seen, number, group, inner) for number in sorted(group)}
        for number, made in enumerate(seen.maps):
            last = made.kind == "conv" and number not in grouped and number not in inner
            if last and len(group & set(seen.owners(made.reads[0]))) > 1:
                links[number] = read_of(seen, number, group, set())
        places: dict[int, int] = {}
        for number in sorted(links):
            places[number] = 1 + max((places[seen.owner[c]] for c in links[number]), default=-1)
        realised = possible = 0
        for number, channels in links.items():
            before = {m for m in places if places[m] < places[number] - 1}
            realised += sum(seen.owner[c] in before for c in channels)
            possible += sum(seen.maps[m].width for m in before)
        if possible:
            yield min(group), Cell(tuple(seen.maps[m].width for m in sorted(links)), realised, possible)


def read_of(seen: Observer, number: int, group: set[int], inner: set[int]) -> set[int]:
    """The channels of a cell's maps that the layer which makes map `number` reads; maps inside it join `inner`."""
    found, waiting, met = set(), [number], {number}
    while waiting:
        for channels in seen.maps[waiting.pop()].reads:
            found |= {c for c in channels.tolist() if seen.owner[c] in group}
            new = set(seen.owners(channels)) - group - met
            met |= new
            waiting += new
    inner.update(met)
    return found


def added_cells(seen: Observer) -> Iterator[tuple[int, Cell]]:
    """The residual blocks, each with the number of the sum that ends it."""
    for number, made in enumerate(seen.maps):
        if made.kind != "sum":
            continue
        one, other = (branch(seen, channels) for channels in made.reads)
        start = next((m for m in one if m in other), None)
        if start is None:
            raise NotDefined("a sum joins branches that are no chains of convolutions from one and the same map")
        longer = max(one.index(start), other.index(start))
        chain = (one if one.index(start) == longer else other)[longer:0:-1]
        widths = tuple(seen.maps[m].width for m in chain)
        possible = sum(width * (longer - 1 - place) for place, width in enumerate(widths))
        if possible:
            yield number, Cell(widths, widths[0], possible)


def branch(seen: Observer, channels: Tensor) -> list[int]:
    """The maps of a chain of convolutions from its end back to the map that it leaves from."""
    chain: list[int] = []
    while len(maps := seen.owners(channels)) == 1:
        chain += maps
        if seen.maps[maps[0]].kind != "conv":
            break
        channels = seen.maps[maps[0]].reads[0]
    return chain
