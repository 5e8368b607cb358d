"""A published benchmark table as one value: networks, their trained accuracies, their costs, and who is whose twin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from archscout.errors import UserError

if TYPE_CHECKING:
    import pandas

    from archscout.space import Arch, SearchSpace


@dataclass(frozen=True, eq=False)
class Table:
    """The networks of a benchmark, one per row, with what was measured of each. Arrays have n rows; missing is NaN.

    space:      registry word of the search space.
    archs:      text of each network.
    accuracies: name -> (n,) test accuracy in per cent, mean over the published seeds.
    seeds:      name -> (n, seeds) accuracy of each training, where published.
    costs:      name -> (n,), smaller is better; always with `params` and `macs`.
    twins:      (n,) number of the network's canonical form: rows of one number compute the same.
    functions:  (n,) number of the network's function key: rows of one number can represent the same function.
    connected:  (n,) whether every operation lies on a path from the input to the output. True of the cell that has no
                operation at all, whose output is zero: the published proxies of NAS-Bench-201 hold it too.
    """

    space: str
    archs: list[str]
    accuracies: dict[str, np.ndarray]
    seeds: dict[str, np.ndarray]
    costs: dict[str, np.ndarray]
    twins: np.ndarray
    functions: np.ndarray
    connected: np.ndarray

    def __len__(self) -> int:
        return len(self.archs)

    def align(self, scores: Mapping[Any, float] | Sequence[float] | np.ndarray) -> np.ndarray:
        """Scores (n,) float64 of every row; NaN where there is none.

        scores: an array of n numbers, or a mapping from text or Arch. A row that the mapping lacks takes the score of a
        row with the same canonical form. Raises UserError for a name that is not of the space.
        """
        if not isinstance(scores, Mapping):
            values = np.asarray(scores, dtype=float)
            if values.shape != (len(self),):
                raise UserError(f"wanted {len(self)} scores, one per row of the table, got the shape {values.shape}")
            return values
        space = self.search_space()
        place = {text: row for row, text in enumerate(self.archs)}
        values, shared = np.full(len(self), np.nan), np.full(int(self.twins.max(initial=-1)) + 1, np.nan)
        for key, value in scores.items():
            text = key if key in place else space.format(space.parse(key) if isinstance(key, str) else tuple(key))
            row = place.get(text)
            if row is None:
                raise UserError(f"'{text}' is not in the table of {len(self)} networks")
            values[row] = shared[self.twins[row]] = np.nan if value is None else value
        return np.where(np.isnan(values), shared[self.twins], values)

    def search_space(self) -> SearchSpace:
        """The search space of the networks, for CIFAR-10's images."""
        from archscout.spaces import SPACES

        return SPACES[self.space]((3, 32, 32), 10)


def load_table(path: str | Path, hardware: str | Path | Sequence[str | Path] = ()) -> Table:
    """A table file (.parquet or .csv) of a known benchmark, with the costs of further files; takes seconds.

    path:      NAS-Bench-201 (columns arch_str, cifar10_test_200ep, cifar100_test_200ep, ...) or NAS-Bench-Macro
               (arch, mean_acc, acc_seed0.., params, flops), known by its columns.
    hardware:  files with an `index` column and costs of NAS-Bench-201: HW-NAS-Bench, HELP.
    Negative accuracies and costs that are not positive are missing. So are Pixel 3 latencies below 1 ms: the rest of
    that column starts at 1.6 ms and they fit no network.
    """
    frame = read_frame(path)
    for wanted, make in KNOWN.items():
        if set(wanted) <= set(frame.columns):
            table = make(frame)
            break
    else:
        raise UserError(
            f"{path} is no table that is known: wanted the columns "
            + " or ".join(", ".join(wanted) for wanted in KNOWN)
            + f"; got {', '.join(map(str, frame.columns[:12]))}"
        )
    for file in [hardware] if isinstance(hardware, str | Path) else hardware:
        table = with_hardware(table, frame, read_frame(file), file)
    return table


def read_frame(path: str | Path) -> pandas.DataFrame:
    """A parquet or CSV file as a frame; texts stay texts."""
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; give a .parquet or .csv file of a benchmark")
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype={"arch": str, "arch_str": str})
        return pd.read_parquet(path)
    except ImportError:
        raise UserError(f"reading {path} needs pyarrow; type: pip install pyarrow") from None
    except (ValueError, OSError) as error:
        raise UserError(f"cannot read {path} as a table ({error}); give a .parquet or .csv file") from None


def nasbench201_table(frame: pandas.DataFrame) -> Table:
    """The table of NAS-Bench-201: accuracies cifar10 and cifar100 after 200 epochs, and the other published ones."""
    from archscout.spaces.nasbench201 import parse_cell

    texts = frame["arch_str"].tolist()
    archs = [parse_cell(text) for text in texts]
    names = {"cifar10_test_200ep": "cifar10", "cifar100_test_200ep": "cifar100"}
    names |= {name: name for name in frame.columns if name.endswith(("_acc_200ep", "_12ep"))}
    table = Table(
        space="nasbench201",
        archs=texts,
        accuracies={name: present(frame[column]) for column, name in names.items() if column in frame},
        seeds={},
        costs=cell_sizes(archs),
        twins=np.zeros(0),
        functions=np.zeros(0),
        connected=np.array([is_connected(arch) for arch in archs], dtype=bool),
    )
    return numbered(table, archs)


def macro_table(frame: pandas.DataFrame) -> Table:
    """The table of NAS-Bench-Macro: accuracy cifar10 and its seeds, params and macs (its column flops counts them)."""
    texts = frame["arch"].tolist()
    seeds = [column for column in frame.columns if column.startswith("acc_seed")]
    table = Table(
        space="macro",
        archs=texts,
        accuracies={"cifar10": present(frame["mean_acc"])},
        seeds={"cifar10": np.column_stack([present(frame[column]) for column in seeds])} if seeds else {},
        costs={"params": present(frame["params"]), "macs": present(frame["flops"])},
        twins=np.zeros(0),
        functions=np.zeros(0),
        connected=np.ones(len(texts), dtype=bool),
    )
    space = table.search_space()
    return numbered(table, [space.parse(text) for text in texts])


KNOWN: dict[tuple[str, ...], Callable[[pandas.DataFrame], Table]] = {
    ("arch_str", "cifar10_test_200ep"): nasbench201_table,
    ("arch", "mean_acc", "params", "flops"): macro_table,
}


def with_hardware(table: Table, frame: pandas.DataFrame, costs: pandas.DataFrame, file: Any) -> Table:
    """The table with the cost columns of another file, joined on `index`; names lose cifar10__ and help_."""
    if "index" not in costs or "index" not in frame:
        raise UserError(f"cannot join {file}: both files want the column index, the number of the network")
    rows = costs.set_index("index").reindex(frame["index"])
    found = {}
    for column in rows.columns.difference(["arch_str"]):
        name = column.removeprefix("cifar10__")
        found[name] = positive(rows[column], least=1.0 if "pixel3" in name else 0.0)
    return replace(table, costs={**table.costs, **found})


def present(column: pandas.Series) -> np.ndarray:
    """A column as float64 with NaN for what is missing: empty or negative."""
    values = column.to_numpy(dtype=float, na_value=np.nan)
    return np.where(values < 0, np.nan, values)


def positive(column: pandas.Series, least: float) -> np.ndarray:
    """A cost column as float64 with NaN where it is not positive or below `least`."""
    values = column.to_numpy(dtype=float, na_value=np.nan)
    return np.where((values <= 0) | (values < least), np.nan, values)


def numbered(table: Table, archs: Sequence[Arch]) -> Table:
    """The table with the numbers of its twins and functions filled in."""
    space = table.search_space()
    twins = {arch: number for number, arch in enumerate(dict.fromkeys(map(space.canonical, archs)))}
    functions = {key: number for number, key in enumerate(dict.fromkeys(map(space.function_key, archs)))}
    return replace(
        table,
        twins=np.array([twins[space.canonical(arch)] for arch in archs], dtype=np.int64),
        functions=np.array([functions[space.function_key(arch)] for arch in archs], dtype=np.int64),
    )


def is_connected(arch: Arch) -> bool:
    """Whether every operation of a NAS-Bench-201 cell lies on a path from its input to its output.

    An operation is anything but none. It is enough that each starts where another ends or at the input, and ends where
    another starts or at the output: a cell has no circles. 9,445 of the 15,625 cells are connected; one of them has no
    operation.
    """
    from archscout.spaces.nasbench201 import EDGES, NONE

    edges = [edge for op, edge in zip(arch, EDGES, strict=True) if op != NONE]
    filled = {0} | {target for _, target in edges}
    needed = {3} | {source for source, _ in edges}
    return all(source in filled and target in needed for source, target in edges)


def cell_sizes(archs: Sequence[Arch]) -> dict[str, np.ndarray]:
    """`params` and `macs` (n,) of NAS-Bench-201 cells, without building 15,625 networks.

    Both are sums over the convolutions that are built: three networks are measured (an empty cell, one convolution of
    each kernel), and the rest is counting.
    """
    from archscout.costs import measure
    from archscout.spaces.nasbench201 import OPS, canonical, nasbench201

    space = nasbench201((3, 32, 32), 10)
    kernels = [OPS.index("nor_conv_1x1"), OPS.index("nor_conv_3x3")]
    counts = np.array([[canonical(arch).count(op) for op in kernels] for arch in archs]).reshape(len(archs), 2)
    found = {}
    for cost in ("params", "macs"):
        base, *more = (
            measure(space.build((0, 0, 0, op, 0, 0)), space.input_shape, [cost])[cost] for op in (0, *kernels)
        )
        found[cost] = base + counts @ (np.array(more, dtype=float) - base)
    return found
