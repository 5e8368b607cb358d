"""The space fbnet against counts by hand, and its canonical form against the modules that are built."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from archscout.costs import measure
from archscout.errors import UserError
from archscout.spaces.fbnet import BLOCKS, OPTIONS, SKIP, FBNet, canonical, fbnet, parse_text

SPACE = fbnet((3, 32, 32), 100)
WIDTHS = [16, *[24] * 4, *[32] * 4, *[64] * 4, *[112] * 4, *[184] * 4, 352]


def count(arch: tuple[int, ...], sides: list[int], head: int) -> tuple[int, int]:
    """Parameters and multiply-adds, from the sentences that describe the network; `sides` of the map of each layer."""
    before, side = 16, sides[0]
    params, macs = 3 * 9 * 16 + 32, 3 * 9 * 16 * side**2
    for option, after, out in zip(arch, WIDTHS, sides[1:], strict=True):
        if option != SKIP:
            kernel, expand, groups = BLOCKS[OPTIONS[option]]
            inner = before * expand
            params += before * inner // groups + kernel**2 * inner + inner * after // groups + 4 * inner + 2 * after
            macs += before * inner // groups * side**2 + (kernel**2 * inner + inner * after // groups) * out**2
        elif before != after or side != out:
            params, macs = params + before * after + 2 * after, macs + before * after * out**2
        before, side = after, out
    return params + 352 * head + 2 * head + head * 100 + 100, macs + 352 * head * side**2 + head * 100


@pytest.mark.parametrize(
    ("shape", "sides", "head"),
    [
        ((3, 32, 32), [32, 32, *[32] * 4, *[16] * 4, *[8] * 4, *[8] * 4, *[4] * 4, 4], 1504),
        ((3, 224, 224), [112, 112, *[56] * 4, *[28] * 4, *[14] * 4, *[14] * 4, *[7] * 4, 7], 1984),
    ],
)
def test_networks_have_the_sizes_counted_by_hand(shape: tuple[int, int, int], sides: list[int], head: int) -> None:
    space, rng = fbnet(shape, 100), np.random.default_rng(0)
    for arch in [(SKIP,) * 22, tuple(range(9)) + tuple(range(9)) + (0, 1, 8, 7), space.sample(rng)]:
        with torch.device("meta"):
            found = measure(space.build(arch), shape, ["params", "macs"])
        assert (found["params"], found["macs"]) == count(arch, sides, head), arch


def test_identities_leave_no_trace() -> None:
    """Networks are equal, module by module, exactly where the canonical forms are: second stages of three options."""
    built: dict[str, set[tuple[int, ...]]] = {}
    with torch.device("meta"):
        for middle in product((0, 5, SKIP), repeat=3):
            arch = (0, 0, *middle, *(SKIP,) * 17)
            network = FBNet([OPTIONS[index] for index in arch], (3, 32, 32), 100)  # as written, not as canonical
            built.setdefault(str(network), set()).add(canonical(arch))
    assert all(len(forms) == 1 for forms in built.values())
    assert len(built) == 1 + 2 + 4 + 8


def test_distinct_networks() -> None:
    """Per stage of four layers: the first, and up to three blocks of eight kinds in their order, by listing them."""
    stage = {canonical((0, *layers, *(0,) * 17))[1:5] for layers in product(range(9), repeat=4)}
    assert len(stage) == 9 * (1 + 8 + 64 + 512)
    assert SPACE.distinct == 9 * len(stage) ** 5 * 9


def test_the_published_encoding_is_the_text(real_data) -> None:
    """Operator indices of the table, as digits; costs of the 22 layers lie in their order."""
    table = pytest.importorskip("pandas").read_parquet(real_data / "nas" / "help_fbnet_latency.parquet")
    for indices in table["arch_idx"][:50]:
        arch = tuple(int(i) for i in indices.strip("[]").split(",")) if isinstance(indices, str) else tuple(indices)
        assert SPACE.parse("".join(map(str, arch))) == arch
    assert len(table) == 5_000


@pytest.mark.parametrize("wrong", ["", "0" * 21, "0" * 23, "9" * 22, "a" * 22])
def test_malformed_texts(wrong: str) -> None:
    with pytest.raises(UserError, match="wanted 22 digits"):
        parse_text(wrong)
