"""Options that several verbs share, and how tables are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from archscout.config import USUAL_BUDGET, Config


def usual(name: str, unit: str = "") -> str:
    """The default of a setting, for its help."""
    value = Config.model_fields[name].get_default(call_default_factory=True)
    return f"(default: {value:g}{unit})" if isinstance(value, float) else f"(default: {value}{unit})"


Data = Annotated[str | None, typer.Option(help="Image folder, .npz file, torchvision:NAME, or digits.")]
DataRoot = Annotated[str | None, typer.Option(help="Where torchvision data lie.")]
Size = Annotated[
    int | None, typer.Option(help="Side in pixels to bring images to (default: their own size, at most 224).")
]
Group = Annotated[
    str | None, typer.Option(help="Regular expression on file paths; images of one group stay on one side of a split.")
]
Strict = Annotated[bool | None, typer.Option("--strict", help="Refuse data with any unreadable image.")]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        help="Largest allowed cost, like latency=5ms, energy=5mJ, ram_int8=256kB, params=300k; repeatable. A number "
        "alone is in ms (latency), mJ (energy), W (power), bytes (memory, ram_int8, flash_int8, training_memory), or a "
        "plain count (params, macs, flops)."
    ),
]
InputShape = Annotated[str | None, typer.Option(help="Shape of an image, channels x height x width, like 3x32x32.")]
DeviceProfile = Annotated[
    str | None,
    typer.Option(
        help="Device that latency and energy are of: a name of archscout device list, a run folder or a JSON file "
        "(default: this machine)."
    ),
]
Select = Annotated[
    str | None,
    typer.Option(
        help=f"What chooses the training images (search: in verification); see archscout list select {usual('select')}."
    ),
]
Share = Annotated[
    float | None, typer.Option(help=f"Part of the images in a round of a --select other than full {usual('share')}.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        help=f"Time for the whole run, like 20m (default: {USUAL_BUDGET}, none with --epochs; a number alone is "
        "seconds)."
    ),
]
Epochs = Annotated[float | None, typer.Option(help="Epochs of the full training (default: what the budget affords).")]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="How to train: auto; as the cells of a space were evaluated when published: darts or pdarts (600 epochs "
        f"unless told), nasbench201 (200), tas (305, with --teacher); or module:function of your own {usual('recipe')}."
    ),
]
Pretrained = Annotated[
    list[str] | None,
    typer.Option(help="Known network with a local file of its weights, like resnet18=resnet18.pth; repeatable."),
]
Teacher = Annotated[
    str | None,
    typer.Option(help="Run whose network teaches the full training, such as the unpruned one after --strategy tas."),
]
Metric = Annotated[
    str | None,
    typer.Option(help=f"accuracy, balanced_accuracy, or auto (balanced if imbalanced) {usual('metric')}."),
]
Flip = Annotated[
    str | None,
    typer.Option(help=f"Mirror images in training: yes, no, or auto (decided from the images) {usual('flip')}."),
]
Seed = Annotated[int | None, typer.Option(help=f"Everything random follows from it {usual('seed')}.")]
Device = Annotated[str | None, typer.Option(help=f"cpu, cuda or cuda:N {usual('device')}.")]
Devices = Annotated[
    int | None, typer.Option(help=f"GPUs for the training of a supernet and the full training {usual('devices')}.")
]
TrainThreads = Annotated[int | None, typer.Option(help="Threads of the full training (default: all cores).")]
Out = Annotated[Path | None, typer.Option(help="New run folder (default: runs/DATA-SPACE-N).")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with any of these settings; flags win.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the code that a run or file names (module:function), though it was not made here by you."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Run = Annotated[Path, typer.Argument(help="Run folder.", show_default=False)]


def show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        print(json.dumps(list(rows), indent=1))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0] if rows else ():
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(f"{v:.4g}" if isinstance(v, float) else str(v)) for v in row.values()))
    Console().print(table)


def conclude(result: Any, as_json: bool) -> None:
    """Print what a run found: the folder, the winner, its accuracy with the baseline beside it, latency, the report."""
    from archscout.facts import facts_of, spent_by_stage, units_of

    facts = facts_of(result.folder)
    found = facts["summary"]
    if as_json:
        told = {**found, "spent": spent_by_stage(facts), "folder": str(result.folder), "report": str(result.report)}
        print(json.dumps({**told, "units": units_of(told)}, indent=1))
        return
    metric = found["metric"].replace("_", " ")
    print(f"run       {result.folder}")
    print(f"winner    {found['winner']}  ({found['space']}, {found['winner_role']})")
    if test := found["test"]:
        print(
            f"test      {metric} {100 * test['value']:.1f} % (95 % interval {100 * test['low']:.1f} to "
            f"{100 * test['high']:.1f}, n = {test['n']})"
        )
    if (baseline := found["baseline"]) and found["validation"] is not None and baseline["validation"] is not None:
        print(
            f"beside    in verification: winner {100 * found['validation']:.1f} %, plain baseline "
            f"{100 * baseline['validation']:.1f} % (validation {metric}, short training)"
        )
    if latency := found["latency"]:
        print(
            f"latency   {latency['median']:.2f} ms ({latency['low']:.2f} to {latency['high']:.2f}; "
            f"{latency['device']}, {latency['runtime']}, {latency['threads']} thread, batch 1)"
        )
    size = f"{found['params'] / 1000:.1f} k params" if found["params"] else ""
    if found["memory_bytes"]:
        size += f", {found['memory_bytes'] / 1e6:.2f} MB memory"
    print(f"size      {size}")
    print(f"time      {found['seconds']:.0f} s")
    print(f"report    {result.report}")
