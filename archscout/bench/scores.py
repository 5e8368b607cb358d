"""Files of scores: a column of architectures, and a column for each proxy or rank."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from archscout.bench.table import Table, read_frame
from archscout.errors import UserError


def read_scores(path: str | Path, table: Table) -> dict[str, np.ndarray]:
    """Column name -> scores (n,) of every row of a table, NaN where there is none.

    path: .csv as `archscout rank` writes it, .parquet with the same columns, or .npz with the same arrays. The column
    `arch` (or the texts in `arch_str`) names the architectures, by any member of their canonical form; columns that are
    not numbers, `failures` and `index` are left out.
    """
    path = Path(path)
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError, AttributeError, MemoryError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read {path} as plain arrays ({str(error)[:100]}); save it with np.savez") from None
    else:
        frame = read_frame(path)
        columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    key = next((name for name in ("arch", "arch_str") if name in columns), None)
    if key is None:
        raise UserError(f"{path} has no column arch; got {', '.join(columns)}")
    archs = [str(text) for text in columns.pop(key)]
    found = {}
    for name, values in columns.items():
        if name not in ("index", "failures") and values.dtype.kind in "fiu" and values.shape == (len(archs),):
            found[name] = table.align(dict(zip(archs, values.astype(float).tolist(), strict=True)))
    if not found:
        raise UserError(f"{path} has no column of numbers beside {key}")
    return found
