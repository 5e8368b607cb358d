"""Make docs/methods.md: a card for each search space, strategy, differentiable search and selector, from its docstring.

    python benchmarks/method_cards.py

Proxies have cards with figures of their own, see proxy_cards.py.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from proxy_cards import escaped, filled

from archscout.differentiable import DIFFERENTIABLE
from archscout.predicted import Predictor
from archscout.selection import SELECTORS
from archscout.spaces import SPACES
from archscout.strategies import STRATEGIES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"

INTRO = """
# Methods

<!-- Made by benchmarks/method_cards.py from the docstrings of the methods: edit those. -->

What there is, in the words of the code: what a method is, when to take it, what it costs, where it fails, and its
source. Which one to take first says [how to choose](how-to-choose.md); the cards of the [proxies](proxies.md) have a
page of their own, with figures. The blocks of this page run as they stand.
"""
SPACE = """
A space is made for a shape of images and a number of classes: `--space NAME`, or in Python

```python
import numpy as np

from archscout.spaces import SPACES

for name, make in SPACES.items():
    space = make((3, 32, 32), 10)
    print(f"{name}: {space.size:.3g} architectures, like", space.format(space.sample(np.random.default_rng(0)))[:60])
```
"""
STRATEGY = """
A strategy proposes architectures and is told what came of them: `--strategy NAME`, or in a loop of your own

```python
from archscout.spaces import SPACES
from archscout.strategies import STRATEGIES
from archscout.strategies.strategy import Goal

space = SPACES["plain"]((3, 32, 32), 10)
for name, make in STRATEGIES.items():
    strategy = make(space, seed=0, goal=Goal(scores={"width": "max"}))
    for _ in range(4):
        archs = strategy.ask(8)
        strategy.tell(archs, [{"width": float(arch[0]), "violation": 0.0} for arch in archs])
    print(name, "would try next:", space.format(strategy.ask(1)[0]))
```
"""
SUPERNET = """
These train one network that contains all others: `--strategy NAME` with the spaces that support it, or in Python

```python
import numpy as np

from archscout.data import load
from archscout.differentiable import darts
from archscout.differentiable.stage import halves
from archscout.spaces.nasbench201 import nasbench201

draw = np.random.default_rng(0)
data = load((draw.integers(0, 255, (64, 8, 8, 3), dtype=np.uint8), np.arange(64) % 2))
weight_part, arch_part = halves(data.part("train"), seed=0)
space = nasbench201((3, 8, 8), 2, channels=4, cells=1)
found = darts(space, weight_part, arch_part, mean=data.mean, std=data.std, epochs=2, batch_size=8)
print(space.format(found.arch), found.story.history[-1]["entropy"])
```
"""
SELECTOR = """
A selector chooses the training images of each round: `--select NAME`, `archscout.select(loader, NAME)`, or by itself

```python
import numpy as np

from archscout.selection import SELECTORS


class Labels:
    labels = np.repeat([0, 1, 2], [100, 80, 20])

    def __len__(self):
        return 200


points = np.random.default_rng(0).normal(size=(200, 8))
for name, make in SELECTORS.items():
    more = {"embedding": points} if name in ("dds", "kcentre") else {}
    selector = make(Labels(), seed=0, share=0.3, **more)
    print(name, np.bincount(Labels.labels[selector.next_round().numpy()]))
```
"""
GROUPS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("Search spaces", SPACE, SPACES),
    ("Strategies", STRATEGY, {**STRATEGIES, "predictor": Predictor}),
    ("Differentiable searches", SUPERNET, DIFFERENTIABLE),
    ("Selectors", SELECTOR, SELECTORS),
)
ENTRY = re.compile(r"(\w+(?:, \w+)*):(?: +(?=\S)|$)")  # begins what a docstring says of a parameter


def page() -> str:
    """The page in Markdown."""
    parts = [about(INTRO)]
    for title, intro, methods in GROUPS:
        links = ", ".join(f"[`{name}`](#{anchor(name, title)})" for name in methods)
        parts += [f"## {title}", filled(links), about(intro)]
        parts += [card(name, title, method) for name, method in methods.items()]
    return "\n\n".join(parts) + "\n"


def anchor(name: str, title: str) -> str:
    """Where the card of a method is; `darts` and `random` are the names of two."""
    return heading(name, title).replace(" ", "-")


def heading(name: str, title: str) -> str:
    word = {"Search spaces": "space", "Selectors": "selector"}.get(title, "strategy")
    return f"{name} {word}"


def about(text: str) -> str:
    """A text of this file, its paragraphs filled and its code as it is."""
    blocks = re.split(r"(```python\n.*?```)", text.strip(), flags=re.S)
    found = []
    for block in blocks:
        paragraphs = [block] if block.startswith("```") else re.split(r"\n\s*\n", block.strip())
        found += [
            p if p.startswith(("```", "#", "<")) else filled(" ".join(p.split())) for p in paragraphs if p.strip()
        ]
    return "\n\n".join(found)


def card(name: str, title: str, method: Any) -> str:
    """What a method is, in the words of its docstring."""
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(method) or "")
    return "\n\n".join([f"### {heading(name, title)}", *map(prose, paragraphs)])


def prose(paragraph: str) -> str:
    """A paragraph of a docstring as Markdown; what it says of parameters as a list.

    It is a list if it begins with an entry and each of its other lines begins one or is indented, but a single line is
    none. In a sentence a line can look like an entry; then the others do not.
    """
    lines = paragraph.splitlines()
    if all(line.startswith("    ") for line in lines):
        return paragraph  # a formula
    begins = [bool(ENTRY.match(line)) for line in lines]
    indented = [line.startswith(" ") for line in lines]
    if len(lines) == 1 or not begins[0] or not all(map(any, zip(begins, indented, strict=True))):
        return filled(escaped(" ".join(paragraph.split())))
    entries: list[str] = []
    for line, begun in zip(lines, begins, strict=True):
        if begun:
            entries.append(line)
        else:
            entries[-1] += f" {line.strip()}"
    return "\n".join(item(" ".join(entry.split())) for entry in entries)


def item(entry: str) -> str:
    """What a docstring says of a parameter, as an item of a list."""
    match = ENTRY.match(entry)
    assert match
    text = f"- **{escaped(match[1])}**: {escaped(entry[match.end() :])}"
    return filled(text).replace("\n", "\n  ").removeprefix("\\")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="count the cards; the page stays")
    parser.add_argument("--out", type=Path, help="where --quick writes")
    args = parser.parse_args()
    made = page()
    if not args.quick:
        PAGE.write_text(made, encoding="utf-8")
    elif args.out:
        results_file.write(args.out, [results_file.figure("cards", [float(made.count("\n### "))], "count")])


if __name__ == "__main__":
    main()
