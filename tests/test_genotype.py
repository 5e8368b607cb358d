"""The usual notation of cells: read as a syntax tree, written back, refused with the reason, and taken by verbs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import archscout
from archscout.errors import UserError
from archscout.spaces import SPACES
from archscout.spaces.darts import PUBLISHED, darts, read_genotype, write_genotype
from archscout.spaces.nasbench201 import EXAMPLE, nasbench201

SPACE = darts((3, 12, 12), 4, channels=4, layers=3)
# As their authors published them: https://github.com/quark0/darts, https://github.com/chenxin061/pdarts,
# https://github.com/yuhuixu1993/PC-DARTS (genotypes.py).
TEXTS = {
    "DARTS_V1": "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])",
    "DARTS_V2": "DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
    "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
    "reduce_concat=[2, 3, 4, 5])",
    "PDARTS": "Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0),('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3',0), ('dil_conv_5x5', 4)], normal_concat=range(2, 6), "
    "reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2), ('max_pool_3x3', 0), "
    "('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], reduce_concat=range(2, 6))",
    "PC_DARTS_cifar": "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), "
    "('dil_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], "
    "normal_concat=range(2, 6), reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), "
    "('sep_conv_5x5', 2), ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)], "
    "reduce_concat=range(2, 6))",
}
GOOD = TEXTS["PDARTS"]


@pytest.mark.parametrize("name", TEXTS)
def test_published_cells_by_name_and_by_genotype(name: str) -> None:
    arch = SPACE.parse(name)
    assert SPACE.parse(TEXTS[name]) == arch == SPACE.parse(PUBLISHED[name])
    assert SPACE.format(arch) == PUBLISHED[name]
    listed = set(re.findall(r"\('\w+', ?\d\)", TEXTS[name].replace(",0", ", 0")))
    assert set(re.findall(r"\('\w+', ?\d\)", SPACE.notation(arch))) == listed


def test_random_architectures_go_there_and_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        arch = tuple(int(rng.integers(len(options))) for options in SPACE.choices.values())
        assert read_genotype(write_genotype(arch)) == SPACE.parse(SPACE.notation(arch)) == arch


def test_other_ways_to_write_a_genotype() -> None:
    arch = SPACE.parse(GOOD)
    positional = re.sub(r"\b\w+=(?=[\[r])", "", GOOD)
    assert "=" not in positional
    nested = re.sub(r"(\('\w+', ?\d\), ?\('\w+', ?\d\))", r"[\1]", GOOD)
    assert nested.count("[[") == 2
    for text in (
        positional, nested, GOOD.replace("Genotype", "genotypes.Genotype"), GOOD.replace("[", "(").replace("]", ")"),
        f"  best = {GOOD}\n", GOOD.replace("'", '"'), GOOD.replace("range(2, 6)", "(2, 3, 4, 5)"),
        GOOD.replace(", ", ",\n "),
    ):  # fmt: skip
        assert SPACE.parse(text) == arch, text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD[:-1], "no genotype"),
        (GOOD.replace("Genotype(", "Genotypes("), "no genotype"),
        ("Genotype", "no genotype"),
        (GOOD.replace("('dil_conv_5x5', 4)", "('none', 4)"), "'none': wanted one of max_pool_3x3"),
        (GOOD.replace("('dil_conv_5x5', 4)", "('sep_conv_7x7', 4)"), "'sep_conv_7x7': wanted one of"),
        (GOOD.replace("('dil_conv_5x5', 4)", "('dil_conv_5x5', 5)"), "node 5 of the normal cell reads"),
        (GOOD.replace("('dil_conv_5x5', 4)", "('dil_conv_5x5', -1)"), "node 5 of the normal cell reads"),
        (GOOD.replace("('dil_conv_5x5', 4)", "('dil_conv_5x5', 0)"), "two different ones of 0 to 4"),
        (GOOD.replace("('dil_conv_5x5', 3)", "('dil_conv_5x5', 1)"), "node 5 of the reduce cell reads"),
        (GOOD.replace("('dil_conv_5x5', 4)", "('dil_conv_5x5', '4')"), "wanted a pair like"),
        (GOOD.replace("('dil_conv_5x5', 4)", "('dil_conv_5x5', True)"), "wanted a pair like"),
        (GOOD.replace("('dil_conv_5x5', 4)", "4"), "wanted a pair like"),
        (GOOD.replace(", ('dil_conv_5x5', 4)", ""), "has 7 edges: wanted 8"),
        (GOOD.replace("normal_concat=range(2, 6)", "normal_concat=range(2, 5)"), r"normal_concat is range\(2, 5\)"),
        (GOOD.replace("reduce_concat=range(2, 6)", "reduce_concat=range(10**9)"), "reduce_concat is"),
        (GOOD.replace("normal_concat=range(2, 6), ", ""), "each once"),
        (GOOD.replace("reduce_concat", "other"), "each once"),
        (GOOD.replace("normal=[", "normal=print(1) or ["), r"normal is print\(1\) or"),
        (GOOD.replace("('dil_conv_5x5', 4)", "(__import__('os').name, 4)"), r"normal is \[\('skip_connect', 0\)"),
        (re.sub(r"reduce=\[.*\], r", "reduce=[], r", GOOD), "reduce cell of the genotype has 0 edges"),
        (GOOD.replace("range(2, 6)", "range(2, 6).__class__(2, 6)"), "normal_concat is"),
        ("Genotype(" + "(" * 5000 + ")" * 5000 + ")", "characters|no genotype"),
        ("Genotype(" + "-" * 9000 + "1)", "no genotype|each once"),
        ("Genotype(**{})", "each once"),
    ],
)  # fmt: skip
def test_what_is_no_genotype_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        SPACE.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "DARTS_V3", "0-0-0", PUBLISHED["PDARTS"] + "-", PUBLISHED["PDARTS"].replace("sep3", "none"),
     PUBLISHED["PDARTS"].replace("reduce", "normal"), PUBLISHED["PDARTS"].replace("~4", "~5")],
)  # fmt: skip
def test_malformed_texts(text: str) -> None:
    with pytest.raises(UserError, match="wanted a text like normal-sep3~0"):
        SPACE.parse(text)


def test_a_node_reads_two_different_ones() -> None:
    with pytest.raises(UserError, match="node 2 of the normal cell reads the nodes 1 and 1: wanted two different"):
        SPACE.parse(PUBLISHED["DARTS_V2"].replace("normal-sep3~0+sep3~1", "normal-sep3~1+sep3~1"))


def test_the_notation_of_other_spaces_is_their_text() -> None:
    space = nasbench201((3, 8, 8), 2)
    assert space.notation(space.parse(EXAMPLE)) == EXAMPLE
    for name, make in SPACES.items():
        made = make((3, 32, 32), 4)
        arch = made.sample(np.random.default_rng(0))
        assert made.parse(made.notation(arch)) == arch, name


def test_verbs_take_a_genotype(tmp_path: Path) -> None:
    listed = tmp_path / "archs.txt"
    listed.write_text("\n".join([TEXTS["DARTS_V2"], "PDARTS", GOOD]))
    table = archscout.rank(SPACE, listed, proxies="params", batch_size=4, workers=0, input_shape=(3, 12, 12), classes=4)
    assert table.arch.tolist() == [TEXTS["DARTS_V2"], "PDARTS", GOOD]
    assert table.params[1] == table.params[2] != table.params[0]
