"""What a finished or unfinished run found, read from its folder."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archscout.errors import UserError

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from archscout.data import Data


class Result:
    """The outcome of a run: the winner, the front, every candidate, and the files. Reads the folder, changes nothing.

    Raises UserError where the folder is no run, or where what is asked for was not reached yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.events = read_events(self.folder)

    def __repr__(self) -> str:
        winner = self.events.get("winner") or {}
        return f"Result({str(self.folder)!r}, winner={winner.get('arch')!r})"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return "stage/audit" in self.events

    @cached_property
    def best(self) -> dict[str, Any]:
        """The winner: space, arch (text), role, costs, validation, test metrics, measured latency and energy.

        int8: what quantizing it cost, if `archscout export --int8` did.
        """
        entered = self.events.get("winner") or self.events.get("only_winner")
        if entered is None:
            raise UserError(f"run {self.folder} has no winner yet; type: archscout resume {self.folder}")
        records = {(r["space"], r["arch"]): r for r in self.events.get("verified", [])}
        record = records.get((entered["space"], entered["arch"]), {})
        audit = self.events.get("audit") or {}
        deployed = self.events.get("deployed") or {}
        return {
            **entered,
            "metric": self.events.get("metric"),
            "costs": record.get("costs") or entered.get("costs", {}),
            "test": (audit.get("parts") or {}).get("test"),
            "latency": deployed.get("latency"),
            "onnx_latency": deployed.get("onnx_latency"),
            "energy": deployed.get("energy"),
            "int8": last(self.events, "int8"),
        }

    @cached_property
    def candidates(self) -> list[dict[str, Any]]:
        """Every proposal that was met, in order: arch, costs, feasible, scores, failures, rank (1 = best), front."""
        return ranked_trials(self.events)

    @property
    def front(self) -> list[dict[str, Any]]:
        """The candidates that no other one beats in both rank and cost (the first limited cost, else macs)."""
        return [c for c in self.candidates if c["front"]]

    @property
    def report(self) -> Path:
        """Where the report page lies."""
        return self.folder / "report.html"

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a proposal: arch, rank, feasible, front, a column per cost and proxy, validation where verified."""
        import pandas as pd

        verified = {r["arch"]: r["validation"] for r in self.events.get("verified", []) if r["role"] != "baseline"}
        return pd.DataFrame(
            [
                {
                    "arch": c["arch"],
                    "rank": c["rank"],
                    "feasible": c["feasible"],
                    "front": c["front"],
                    **c["costs"],
                    **c["scores"],
                    "validation": verified.get(c["arch"]),
                }
                for c in self.candidates
            ]
        )

    def data(self, source: Any = None) -> Data:
        """The images of the run with its split, read again; `source` where they were an object of Python.

        UserError if they changed since.
        """
        import tomllib

        from archscout.data import load

        config = tomllib.loads((self.folder / "config.toml").read_text(encoding="utf-8"))
        if source is None and config["data"].startswith("object:"):
            raise UserError(f"the data of run {self.folder} were a Python object; give them from Python, data=...")
        names = ("size", "seed", "group", "data_root", "strict")
        found = load(source if source is not None else config["data"], **{k: config[k] for k in names if k in config})
        if found.fingerprint != self.events["data"]["fingerprint"]:
            raise UserError(f"the images of run {self.folder} changed since; put them back")
        return found

    def model(self) -> nn.Module:
        """The trained winner in eval mode; its images are normalised by the mean and std of architecture.json."""
        from archscout.deploy import load_weights
        from archscout.naming import find
        from archscout.spaces import SPACES

        about = json.loads((self.folder / "architecture.json").read_text(encoding="utf-8"))
        space = find("space", about["factory"], SPACES)
        if callable(space):
            space = space(tuple(about["input_shape"]), len(about["classes"]))
        model = space.build(space.parse(about["arch"]))
        load_weights(model, self.folder / "weights.safetensors")
        return model.eval()

    def export_onnx(self, path: str | Path) -> Path:
        """Write the trained network as one ONNX file, normalisation inside; checked against torch. Takes seconds."""
        from archscout.deploy import export_onnx

        about = json.loads((self.folder / "architecture.json").read_text(encoding="utf-8"))
        export_onnx(
            self.model(),
            path,
            input_shape=tuple(about["input_shape"]),
            classes=about["classes"],
            mean=about["mean"],
            std=about["std"],
        )
        return Path(path)


def last(events: dict[str, Any], key: str) -> Any:
    """The newest value of an event that may be repeated as KEY, KEY/1, KEY/2; None if there is none."""
    return next((v for k, v in reversed(events.items()) if k == key or k.startswith(f"{key}/")), None)


def ranked_trials(events: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials of a log with feasibility, rank in the pool of scored ones, and membership of the front."""
    from archscout.aggregate import rank_pool

    trials = [
        {
            "arch": value["arch"],
            "costs": {k: v for k, v in value["costs"].items() if k != "violation"},
            "feasible": value["costs"]["violation"] <= 0,
            "scores": value.get("scores", {}),
            "failures": value.get("failures", {}),
            "rank": None,
            "front": False,
        }
        for key, value in events.items()
        if key.startswith("trial/")
    ]
    scored = [t for t in trials if t["scores"]]
    directions = (events.get("goal") or {}).get("directions", {})
    if scored:
        for trial, rank in zip(scored, rank_pool([t["scores"] for t in scored], directions), strict=True):
            trial["rank"] = int(rank)
    axis = (events.get("goal") or {}).get("cost_axis", "macs")
    best = float("inf")
    for trial in sorted(scored, key=lambda t: (t["costs"].get(axis, 0.0), t["rank"])):
        if trial["rank"] < best:
            best, trial["front"] = trial["rank"], True
    return trials


def read_events(folder: Path) -> dict[str, Any]:
    """The logged values of a run by key, in log order, read without locking it; a torn last line is passed over."""
    path = folder / "trials.jsonl"
    if not (folder / "config.toml").is_file() or not path.is_file():
        raise UserError(f"'{folder}' is no run: wanted a folder that archscout search made")
    values: dict[str, Any] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                try:
                    event = json.loads(line)
                    values[event["event"]] = event["value"]
                except (ValueError, KeyError, TypeError):
                    raise UserError(f"{path} holds a damaged line: {line[:60]!r}; remove that line") from None
    return values
