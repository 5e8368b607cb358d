"""Checks for methods of your own: what archscout expects of them, as functions to call in your tests."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from archscout.data import Part
    from archscout.selection import Record, Selector
    from archscout.space import Arch, SearchSpace, Shape


def tiny_network(channels: int = 3, classes: int = 4, seed: int = 0) -> nn.Sequential:
    """A small convolutional network with batch normalisation and ReLU, drawn from a seed of its own."""
    from archscout.probe import seeded

    with seeded(seed, "tiny"):
        return nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )


def tiny_transformer(channels: int = 3, classes: int = 4, seed: int = 0) -> nn.Module:
    """A small vision transformer for 8 x 8 images, drawn from a seed of its own."""
    from archscout.probe import seeded
    from archscout.spaces.vit import vit

    space = vit((channels, 8, 8), classes)
    with seeded(seed, "tiny"):
        return space.build(space.parse("p2-w64-d2-h2r1-h2r1"))


class Dense(nn.Sequential):
    """A chain of layers whose input is kept beside its output, as further channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, super().forward(x)), 1)


def tiny_dense(channels: int = 3, classes: int = 4, seed: int = 0) -> nn.Sequential:
    """A small convolutional network with densely connected layers, drawn from a seed of its own."""
    from archscout.probe import seeded

    def layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()

    with seeded(seed, "tiny"):
        body = (*layer(channels, 6), Dense(*layer(6, 4)), Dense(*layer(10, 4)))
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(14, classes))


def tiny_part(counts: tuple[int, ...] = (40, 20, 9, 2, 1), seed: int = 0) -> Part:
    """Colour images of 8 x 8, so many of each class, in random order; those of a class are alike."""
    from archscout.data import Data, Part

    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.repeat(np.arange(len(counts)), counts))
    colours = draw.integers(30, 226, (len(counts), 1, 1, 3))
    images = (colours[labels] + draw.integers(-30, 31, (len(labels), 8, 8, 3))).clip(0, 255).astype(np.uint8)
    rows = np.arange(len(labels))
    data = Data(
        images=images,
        labels=labels,
        classes=tuple(f"class {label}" for label in range(len(counts))),
        names=tuple(f"image {row}" for row in rows),
        groups=None,
        parts={"train": rows},
        notes=(),
        fingerprint=f"tiny part of {counts}, seed {seed}",
        mean=tuple(images.mean((0, 1, 2)).tolist()),
        std=tuple(images.std((0, 1, 2)).clip(1).tolist()),
        mirrors=False,
    )
    return Part(data, rows, "train")


def check_proxy(proxy: Any) -> None:
    """Check a proxy of your own: a name, "module:name", a Proxy or a function (Probe) -> float.

    Call it in a test; costs a dozen passes of a tiny network. Raises AssertionError, with what is wrong, unless it

    * gives a finite number for a small convolutional network or, where it is not defined for that, for a transformer or
      a densely connected network,
    * gives the same number again under the same seed, alone and next to other proxies,
    * leaves the network (weights, buffers, mode, gradients, hooks), the batch and the random states of torch, NumPy and
      Python as they were,
    * has no score, for a stated reason, where the network's weights are NaN and the proxy reads data.
    """
    from archscout.probe import resolve, seeded, split
    from archscout.proxies import DEFAULT, PROXIES
    from archscout.scoring import methods_of, score

    ((name, method),) = methods_of([proxy]).items()
    rng = torch.Generator().manual_seed(1)
    images, labels = torch.randn(32, 3, 8, 8, generator=rng), torch.randint(4, (32,), generator=rng)
    with seeded(0, "try"):
        for make in (tiny_network, tiny_transformer, tiny_dense):
            if name in score(make(), images.clone(), labels.clone(), proxies=[proxy], batch_size=16):
                break
    model = make().eval()
    first_weight, *_, last_bias = model.parameters()
    first_weight.requires_grad_(False)
    last_bias.grad = torch.ones_like(last_bias)
    before = _state(model, images, labels)

    def read(network: nn.Module = model, proxies: Any = (proxy,)) -> Any:
        return score(network, images, labels, proxies=proxies, batch_size=16, seed=3)

    first = read()
    assert name in first, f"proxy '{name}' has no score for a small network: {first.failures.get(name)}"
    assert _same(before, _state(model, images, labels)), (
        f"proxy '{name}' changed the network, the batch or a random state: work on probe.copy(), draw from a generator"
    )
    assert read()[name] == first[name], f"proxy '{name}' is not determined by the seed: {first[name]}, {read()[name]}"
    others = [other for other in DEFAULT if other != name]
    beside = read(proxies=(*others, proxy))[name]
    assert beside == first[name], f"proxy '{name}' depends on its neighbours: {first[name]} alone, {beside} beside them"
    assert math.isfinite(first[name])

    broken = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(math.nan)
    result = read(broken)
    redrawn = {split(resolve(need)[1])[0] in ("noise", "kaiming", "frozen", "arc") for need in method.needs}
    reads = bool(method.needs) and True not in redrawn
    assert not reads or name not in result, f"proxy '{name}' scored a network of NaN weights: {result.get(name)}"
    assert name in result or result.failures[name], f"proxy '{name}' failed without a reason"
    assert name not in PROXIES or PROXIES[name] is not method or method.paper, f"proxy '{name}' names no source"


ROUNDS = 16  # of a check
RESUMED = (1, 2, 6)  # rounds in whose middle a check saves and restores


def check_selector(make: Any) -> None:
    """Check a selector of your own: a name, "module:name", or what is called as make(part, seed=..., share=...).

    Call it in a test; makes seven selectors of 72 images in five classes, of which one has a single image, and runs up
    to 16 rounds of each with made-up outcomes: of all images of a round, of some, or of none. Raises AssertionError,
    with what is wrong, unless

    * each round holds some images, each once, and no class is lost, from the first round on, of which nothing is known;
    * weights are finite, not negative, and of mean one over the round; `len` is the number of images;
    * the seed, the share and the outcomes determine everything, and another seed gives another order;
    * a state saved in the middle of a round, read with weights_only=True and put into a new selector, goes on exactly
      as the saved one does;
    * `choose` changes nothing in the Record but `size`; the part and the random states of torch, NumPy and Python stay
      as they were.
    """
    from archscout.fit import threads_set
    from archscout.naming import find, word
    from archscout.selection import SELECTORS, Selector

    build, part = find("selector", make, SELECTORS), tiny_part()
    labels, images = part.labels.copy(), part.data.images.copy()
    randomness = _randomness()

    def new(seed: int = 3) -> Selector:
        """A new selector; what it must leave alone is looked at then, and at the next call, after it was used."""
        selector = build(part, seed=seed, share=0.4)
        assert isinstance(selector, Selector), (
            f"made {type(selector).__name__} instead of a selector: subclass archscout.selection.Selector"
        )
        unchanged = np.array_equal(part.labels, labels) and np.array_equal(part.data.images, images)
        assert unchanged, f"selector '{word(selector)}' changed the part"
        assert _same(randomness, _randomness()), (
            f"selector '{word(selector)}' changed a random state: draw from record.generator"
        )
        return selector

    with threads_set(1):
        first = new()
        name = word(first)
        _watch(first, name)
        first.expect(8 * len(part))
        told, states = _play(first, name, part, ROUNDS)

        again = new()
        again.expect(8 * len(part))
        assert _same(told, _play(again, name, part, ROUNDS)[0]), (
            f"selector '{name}' is not determined by the seed: draw from record.generator only"
        )
        others = [_play(new(seed), name, part, 2)[0] for seed in (4, 5)]  # nobody says how long the training is
        assert any(not _same(other, told[: len(other)]) for other in others), (
            f"selector '{name}' does the same under any seed: hand seed=... to Selector.__init__"
        )
        for begun in RESUMED:
            resumed = new()
            try:
                resumed.load_state_dict(torch.load(io.BytesIO(states[begun]), weights_only=True))
            except Exception as error:
                raise AssertionError(f"selector '{name}' has a state that cannot be loaded: {error}") from error
            _observe(resumed, part, begun, 1)
            rest, _ = _play(resumed, name, part, ROUNDS)
            alike = len(rest) == 2 * (ROUNDS - begun) and _same(rest, told[-len(rest) :])
            assert alike, (
                f"selector '{name}' goes on differently when it is restored in round {begun}: keep no state of your own"
            )


def _play(selector: Selector, name: str, part: Part, rounds: int) -> tuple[list[Any], dict[int, bytes]]:
    """Runs a selector to the end of a round: the images and weights of each, and its state in the middle of some."""
    told: list[Any] = []
    states: dict[int, bytes] = {}
    record, n = selector.record, len(part)
    assert 0 < len(selector) <= n, f"selector '{name}' has {len(selector)} of {n} images before a round"
    for began in range(record.round + 1, rounds + 1):
        try:
            subset = selector.next_round()
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"selector '{name}' fails in round {began} with {type(error).__name__}: {error}"
            ) from error
        assert len(subset) > 0, f"selector '{name}' has an empty round {began}"
        outside = sorted(set(subset.tolist()) - set(range(n)))
        assert not outside, f"selector '{name}' chose the images {outside}, which are not there, in round {began}"
        assert len(subset.unique()) == len(subset), f"selector '{name}' has an image twice in round {began}"
        lost = sorted(set(part.labels.tolist()) - set(part.labels[subset.numpy()].tolist()))
        assert not lost, f"selector '{name}' lost the classes {lost} in round {began}"
        assert torch.equal(record.subset, subset), (
            f"selector '{name}' returned another round than is in its record: write choose, not next_round"
        )
        weights = record.weights[subset]
        sound = weights.isfinite() & (weights >= 0)
        assert sound.all(), f"selector '{name}' has the weights {weights[~sound].tolist()} in round {began}"
        assert math.isclose(float(weights.mean()), 1, abs_tol=1e-4), (
            f"selector '{name}' has weights of mean {float(weights.mean()):.4g} in round {began}, not of one"
        )
        assert len(selector) == len(subset), f"selector '{name}' has length {len(selector)} for {len(subset)} images"
        assert 0 < record.size <= n, f"selector '{name}' wants rounds of {record.size} of {n} images"
        told += [subset.clone(), weights.clone()]
        _observe(selector, part, began, 0)
        states[began] = _saved(selector, name) if began in RESUMED else b""
        _observe(selector, part, began, 1)
    return told, states


def _observe(selector: Selector, part: Part, began: int, half: int) -> None:
    """Half of a round's outcomes: made up, better from round to round. Some rounds have the first half, some none."""
    if began % 4 == 2 or (began % 4 == 1 and half == 1):
        return
    subset = selector.record.subset
    positions = subset[: len(subset) // 2] if half == 0 else subset[len(subset) // 2 :]
    draw = torch.Generator().manual_seed(began)
    labels = torch.tensor(part.labels)
    logits = torch.randn(len(part), int(labels.max()) + 1, generator=draw)
    ease = torch.rand(len(part), generator=torch.Generator().manual_seed(0))
    logits[torch.arange(len(part)), labels] += ease * began
    logits, target = logits[positions], labels[positions]
    selector.observe(positions, F.cross_entropy(logits, target, reduction="none"), logits, target)


def _saved(selector: Selector, name: str) -> bytes:
    file = io.BytesIO()
    try:
        torch.save(selector.state_dict(), file)
    except Exception as error:
        raise AssertionError(f"selector '{name}' has a state that cannot be saved: {error}") from error
    return file.getvalue()


def _watch(selector: Selector, name: str) -> None:
    """Has every choice of a selector looked at: what it changes in the Record."""
    choose = selector.choose

    def watched(record: Record) -> Any:
        kept = [field.name for field in fields(record) if field.name not in ("size", "generator")]
        before = copy.deepcopy([getattr(record, field) for field in kept])
        chosen = choose(record)
        for field, value in zip(kept, before, strict=True):
            assert _same([value], [getattr(record, field)]), (
                f"selector '{name}' changed record.{field} in round {record.round}: choose may set record.size only"
            )
        return chosen

    vars(selector)["choose"] = watched


DRAWN = 8  # architectures of a space that a check draws; half of them it builds
COUNTED = 1000  # a space of at most so many is walked through


def check_space(make: Any, input_shape: Shape = (3, 32, 32), classes: int = 4) -> None:
    """Check a search space of your own: a name, "module:name", a function (input_shape, classes), or a ready space.

    Call it in a test, for each shape of images that the space is for; a ready space is checked with its own. Looks at
    eight random architectures, at as many mutants and neighbours, and builds up to eight networks, each a few times;
    of at most 1,000 architectures all are counted. Raises AssertionError, with what is wrong, unless

    * the space is for that shape and number of classes, its name is a word, and no decision has an option twice;
    * a random architecture is one of the space, canonical, and determined by the generator that is given; mutants and
      neighbours, and those that it calls typical, are canonical architectures of the space too;
    * `canonical` is idempotent, and an architecture and its canonical form have equal costs;
    * `parse` inverts `format`, whose texts have no spaces, commas or quotes, and refuses other texts by a UserError;
    * a network maps images (n, channels, height, width) to finite logits (n, classes), and can be trained; the same
      architecture and torch seed give the same network, with weights of its own;
    * a network can be built on PyTorch's meta device, and its costs counted there;
    * `describe`, where there is one, gives what JSON can hold, and `distinct` is the number of canonical architectures;
    * the random states of torch, NumPy and Python stay as they were, but that of torch in building.
    """
    from archscout.fit import threads_set
    from archscout.naming import find
    from archscout.space import SearchSpace
    from archscout.spaces import SPACES

    made = find("space", make, SPACES)
    randomness = _randomness()
    space = made if isinstance(made, SearchSpace) else made(input_shape, classes)
    assert isinstance(space, SearchSpace), f"made {type(space).__name__} instead of a space: return a SearchSpace"
    name = space.name
    assert re.fullmatch(r"\w+", name), f"space '{name}' wants a name of one word"
    if space is not made:
        assert (space.input_shape, space.classes) == (input_shape, classes), (
            f"space '{name}' is for {space.input_shape} and {space.classes} classes: hand on input_shape and classes"
        )
    for decision, options in space.choices.items():
        twice = [option for place, option in enumerate(options) if option in options[:place]]
        assert not twice, f"space '{name}' has the options {twice} of '{decision}' twice"

    archs = [_drawn(space, seed) for seed in range(DRAWN)]
    assert archs == [_drawn(space, seed) for seed in range(DRAWN)], (
        f"space '{name}' draws architectures that are not determined by the generator: draw from it alone"
    )
    draw = np.random.default_rng(0)
    raw = [tuple(int(draw.integers(width)) for width in space.widths) for _ in range(DRAWN)]
    for arch in raw:
        _text_and_twin(space, arch)
    for arch in archs:
        _sound(space, arch, "draws")
        for near in (space.mutate(arch, draw), *itertools.islice(space.neighbours(arch), 2)):
            _sound(space, near, "has the mutant or neighbour")
    for arch in space.typical:
        _sound(space, arch, "calls typical")
    _refuses(space)
    if space.distinct is not None:
        assert space.distinct <= space.size, f"space '{name}' of {space.size} says that {space.distinct} are distinct"
    if space.size <= COUNTED:
        count = len({space.canonical(arch) for arch in space})
        assert space.distinct in (None, count), f"space '{name}' has {count} distinct ones, not {space.distinct}"
    assert _same(randomness, _randomness()), f"space '{name}' changed a random state: draw from the given generator"

    beside = [arch for pair in zip(archs, raw, strict=True) for arch in pair][:DRAWN]
    with threads_set(1), torch.random.fork_rng(devices=[]):
        for arch in dict.fromkeys(beside):
            try:
                _network(space, arch)
            except AssertionError:
                raise
            except Exception as error:
                raise AssertionError(
                    f"space '{name}' fails to build or run {space.format(arch)} with {type(error).__name__}: {error}"
                ) from error
    assert _same(randomness, _randomness()), f"space '{name}' changed a random state of NumPy or Python in building"


def _drawn(space: SearchSpace, seed: int) -> Arch:
    try:
        return space.sample(np.random.default_rng(seed))
    except Exception as error:
        raise AssertionError(f"space '{space.name}' fails to draw with {type(error).__name__}: {error}") from error


def _sound(space: SearchSpace, arch: Arch, what: str) -> None:
    """What holds of an architecture that a space gives by itself."""
    assert arch in space, f"space '{space.name}' {what} {arch!r}, which is not in it: wanted a tuple of ints"
    assert space.canonical(arch) == arch, f"space '{space.name}' {what} {arch}, which is not canonical"
    _text_and_twin(space, arch)


def _text_and_twin(space: SearchSpace, arch: Arch) -> None:
    """What holds of any architecture: its canonical form, its picks and its text."""
    twin = space.canonical(arch)
    assert twin in space, f"space '{space.name}' has {twin!r} as the canonical form of {arch}, which is not in it"
    assert space.canonical(twin) == twin, f"space '{space.name}': canonical is not idempotent, see {arch} and {twin}"
    assert space.encode(space.decode(arch)) == arch, f"space '{space.name}': the picks of {arch} are those of another"
    text = space.format(arch)
    assert isinstance(text, str), f"space '{space.name}' has {text!r} instead of a text of {arch}"
    assert text, f"space '{space.name}' has an empty text of {arch}"
    assert not re.search(r"[\s,\"']", text), f"space '{space.name}' has a space, comma or quote in the text '{text}'"
    try:
        read = space.parse(text)
    except Exception as error:
        raise AssertionError(f"space '{space.name}' cannot read its own text '{text}' of {arch}: {error}") from error
    alike = read == arch if arch == twin else space.canonical(read) == twin
    assert alike, f"space '{space.name}' reads its text '{text}' of {arch} as {read}"


def _refuses(space: SearchSpace) -> None:
    from archscout.errors import UserError

    for text in ("", "?", "no architecture"):
        try:
            found = space.parse(text)
        except UserError:
            continue
        except Exception as error:
            raise AssertionError(
                f"space '{space.name}' answers the text '{text}' with {type(error).__name__}, wanted a UserError"
            ) from error
        raise AssertionError(f"space '{space.name}' reads the text '{text}' as {found}, wanted a UserError")


def _network(space: SearchSpace, arch: Arch) -> None:
    """What holds of the network of an architecture."""
    from archscout.costs import measure

    name, text = space.name, space.format(arch)

    def built() -> nn.Module:
        torch.manual_seed(0)
        return space.build(arch)

    model, again = built(), built()
    assert isinstance(model, nn.Module), f"space '{name}' builds {type(model).__name__}, wanted a torch.nn.Module"
    mine = [*model.parameters(), *model.buffers()]
    shared = {id(tensor) for tensor in mine} & {id(tensor) for tensor in (*again.parameters(), *again.buffers())}
    assert not shared, f"space '{name}' builds networks of {text} that share weights: make new modules in build_from"
    assert list(model.parameters()), f"space '{name}' builds a network of {text} without parameters"
    weights, anew = model.state_dict(), again.state_dict()
    assert list(weights) == list(anew) and _same(list(weights.values()), list(anew.values())), (  # noqa: PT018
        f"space '{name}' builds {text} anew with other weights under the same torch seed"
    )
    images = torch.randn(3, *space.input_shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3) % space.classes
    with torch.inference_mode():
        logits, those = model.eval()(images), again.eval()(images)
    wanted = (3, space.classes)
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    assert shape == wanted, f"space '{name}' gives {shape} for {text}, wanted logits {wanted}"
    assert logits.isfinite().all(), f"space '{name}' gives logits that are not finite for {text}"
    assert torch.equal(logits, those), f"space '{name}' computes something else with the same network of {text}"
    F.cross_entropy(model.train()(images), labels).backward()
    assert any(p.grad is not None for p in model.parameters()), f"space '{name}': no gradient reaches weights of {text}"

    def costs(arch: Arch) -> dict[str, float]:
        with torch.device("meta"):
            empty = space.build(arch)
        return measure(empty, space.input_shape)

    counted = costs(arch)
    params = sum(parameter.numel() for parameter in model.parameters())
    assert counted["params"] == params, (
        f"space '{name}' builds {text} with {counted['params']:g} parameters on PyTorch's meta device, "
        f"and with {params} on the CPU"
    )
    wrong = {cost: value for cost, value in counted.items() if not math.isfinite(value)}
    assert not wrong, f"space '{name}' has the costs {wrong} for {text}"
    if (twin := space.canonical(arch)) != arch:
        differ = [cost for cost, value in costs(twin).items() if value != counted[cost]]
        assert not differ, (
            f"space '{name}' gives {text} and its canonical form {space.format(twin)} other costs: {', '.join(differ)}"
        )
    if space.describe is not None:
        picture = space.describe(arch)
        try:
            json.dumps(picture)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"space '{name}' describes {text} by what JSON cannot hold: {error}") from error


ASKED = (16, 16, 1, 7, 16, 16, 16)  # sizes of the generations of a check; those of the main job are of 16


def check_strategy(make: Any) -> None:
    """Check a strategy of your own: a name, "module:name", or what is called as make(space, seed=..., goal=...).

    Call it in a test; makes six strategies and asks each for some 90 architectures of toy spaces, with made-up
    outcomes and without a network. Raises AssertionError, with what is wrong, unless

    * `ask(n)` gives n canonical architectures of the space, as tuples of ints; they may repeat earlier ones;
    * the seed and what is told determine what is asked: a second strategy, told the same as read from a log, asks the
      same, which is how a stopped run goes on; and so it does when told one outcome at a time;
    * it goes on whatever it is told: outcomes that lack some scores or all, as of a network that failed, are over a
      limit, could not be built, or come again; nothing else in a whole search; and in a space of four architectures;
    * it leaves what it is told and the random states of torch, NumPy and Python as they were.
    """
    from archscout.naming import find, word
    from archscout.strategies import STRATEGIES
    from archscout.strategies.strategy import Goal

    build = find("strategy", make, STRATEGIES)
    name = word(make)
    goal = Goal(scores={"first": "max", "second": "min"}, costs=("params",))
    space, small = _toy(6, 4), _toy(2, 2)
    randomness = _randomness()

    def play(space: SearchSpace, outcomes: Any = _outcome, one_by_one: bool = False) -> list[Arch]:
        try:
            strategy = build(space, seed=3, goal=goal)
        except Exception as error:
            raise AssertionError(
                f"strategy '{name}' cannot be made as make(space, seed=3, goal=goal): {type(error).__name__}: {error}"
            ) from error
        return _search(strategy, name, space, outcomes, one_by_one)

    asked = play(space)
    assert _same(randomness, _randomness()), (
        f"strategy '{name}' changed a random state: draw from np.random.default_rng(seed)"
    )
    assert play(space) == asked, (
        f"strategy '{name}' is not determined by the seed and what it is told, so that a run cannot be resumed: draw "
        "from np.random.default_rng(seed), and keep nothing outside of the object"
    )
    assert play(space, one_by_one=True) == asked, (
        f"strategy '{name}' asks something else when outcomes are told one by one: count outcomes, not tells"
    )
    play(space, lambda arch, place: {"params": 100.0, "violation": 0.5})
    play(space, lambda arch, place: {"violation": 1e9} if place % 2 else {"params": 1.0, "violation": 0.0})
    play(small)


def _toy(decisions: int, options: int) -> SearchSpace:
    """A space without networks, where the last decision is inactive if the first is 0."""
    from archscout.space import SearchSpace

    return SearchSpace(
        name="toy",
        input_shape=(1, 2, 2),
        classes=2,
        choices={f"decision{place}": tuple(range(options)) for place in range(decisions)},
        build_from=lambda picks: nn.Flatten(),
        canonical_of=lambda arch: (*arch[:-1], 0) if arch[0] == 0 else arch,
    )


def _outcome(arch: Arch, place: int) -> dict[str, float]:
    """A made-up outcome: of each ten one or two failed, lack a score, could not be built, or stayed untried."""
    params = float(10 + sum(arch) + 3 * arch[0])
    if params > 26:
        return {"params": params, "violation": (params - 26) / 26}
    told = {"params": params, "violation": 0.0}
    match place % 10:
        case 3:
            return told  # failed
        case 5:
            return {**told, "first": float(sum(arch))}
        case 7:
            return {"violation": 1e9}
        case 9:
            return {**told, "skipped": 1.0}
    return {**told, "first": float(sum(arch)), "second": arch[1] / 7}


def _search(strategy: Any, name: str, space: SearchSpace, outcomes: Any, one_by_one: bool) -> list[Arch]:
    """What a strategy asks for in some generations, each told as it is read from a log."""
    found: list[Arch] = []
    for number, n in enumerate(ASKED):
        asked = _calling(name, f"ask {number + 1}", strategy.ask, n)
        listed = isinstance(asked, Sequence) and len(asked) == n
        assert listed, f"strategy '{name}' answers ask({n}) with {asked!r}, wanted a list of {n} architectures"
        for arch in asked:
            assert arch in space, (
                f"strategy '{name}' asks for {arch!r}, which is not in the space: wanted a tuple of ints below "
                f"{space.widths}"
            )
            assert space.canonical(arch) == arch, (
                f"strategy '{name}' asks for {arch}, which is not canonical: ask for space.canonical(arch)"
            )
        archs = [tuple(int(index) for index in arch) for arch in asked]
        values = [outcomes(arch, len(found) + place) for place, arch in enumerate(archs)]
        told = json.loads(json.dumps(values))
        given = list(archs)
        parts = [(archs[i : i + 1], told[i : i + 1]) for i in range(n)] if one_by_one else [(given, told)]
        for some, their in parts:
            _calling(name, f"tell {number + 1}", strategy.tell, some, their)
        assert (told, given) == (values, archs), f"strategy '{name}' changed what it was told: copy it"
        found += archs
    return found


def _calling(name: str, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception as error:
        raise AssertionError(f"strategy '{name}' fails in {what} with {type(error).__name__}: {error}") from error


def _state(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[Any]:
    """Everything that scoring must not change."""
    return [
        *(value.detach().clone() for value in model.state_dict().values()),
        *(None if p.grad is None else p.grad.clone() for p in model.parameters()),
        [p.requires_grad for p in model.parameters()],
        [m.training for m in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        images.clone(),
        images.requires_grad,
        labels.clone(),
        *_randomness(),
    ]


def _randomness() -> list[Any]:
    """The random states of torch, NumPy and Python."""
    numpy: Any = np.random.get_state()
    return [
        torch.get_rng_state(),
        torch.from_numpy(np.asarray(numpy[1], dtype=np.int64)),
        numpy[2:],
        random.getstate(),
    ]


def _same(first: list[Any], second: list[Any]) -> bool:
    return all(
        torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one == other
        for one, other in zip(first, second, strict=True)
    )
