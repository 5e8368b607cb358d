"""What a finished or unfinished run found, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archscout.candidates import Candidates
from archscout.errors import UserError
from archscout.files import refuse_exits
from archscout.readers import OBJECT
from archscout.trust import code_in, require_trust

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from archscout.data import Data


class Result:
    """The outcome of a run: the winner, the front, every candidate, and the files. Reads the folder, changes nothing.

    Raises UserError where the folder is no run, or where what is asked for was not reached yet.
    """

    def __init__(self, folder: str | Path, *, trust: bool = False) -> None:
        """trust: import the code that the run names (a space, data of your own), though it was not made here."""
        self.folder, self.trust = Path(folder), trust
        self.events = Events(self.folder)

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
    def config(self) -> dict[str, Any]:
        """What the run was asked for: the values of config.toml."""
        return config_of(self.folder)

    @cached_property
    def about(self) -> dict[str, Any]:
        """The winner as architecture.json describes it: space, factory, arch, input_shape, classes, mean, std."""
        place = self.folder / "architecture.json"
        try:
            found = json.loads(place.read_text(encoding="utf-8"))
            shape, classes = found["input_shape"], found["classes"]
            good = (
                all(isinstance(found[name], str) for name in ("factory", "arch"))
                and len(shape) == 3
                and all(isinstance(side, int) and 0 < side <= 65536 for side in shape)
                and isinstance(classes, list)
                and all(isinstance(name, str) for name in classes)
                and all(len(list(map(float, found[name]))) == shape[0] for name in ("mean", "std"))
            )
        except FileNotFoundError:
            raise UserError(f"run {self.folder} has no winner yet; type: archscout resume {self.folder}") from None
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            good = False
        if not good:
            raise UserError(f"{place} is damaged; type: archscout resume {self.folder}, which writes it again")
        return found

    @cached_property
    def candidates(self) -> Candidates:
        """Every proposal met, in order: arch, costs, feasible, scores, failures, rank (1 = best of all), front."""
        goal = self.events.get("goal") or {}
        self.events.candidates.rate(goal.get("directions", {}), goal.get("cost_axis", "macs"))
        return self.events.candidates

    @property
    def front(self) -> list[dict[str, Any]]:
        """The candidates that no other one beats in both rank and cost (the first limited cost, else macs)."""
        return self.candidates.fronted()

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
        from archscout.data import load

        config, known = self.config, self.events.get("data")
        if not isinstance(known, dict) or "fingerprint" not in known:
            raise UserError(f"run {self.folder} has read no images yet; type: archscout resume {self.folder}")
        if source is None:
            require_text(config["data"], f"run {self.folder}", "give them from Python, data=...")
            require_trust(self.folder, code_in({"data": config["data"]}), self.trust)
        names = ("size", "seed", "group", "data_root", "strict")
        found = load(source if source is not None else config["data"], **{k: config[k] for k in names if k in config})
        if found.fingerprint != known["fingerprint"]:
            raise UserError(f"the images of run {self.folder} changed since; put them back")
        return found

    def model(self) -> nn.Module:
        """The trained winner in eval mode; its images are normalised by the mean and std of architecture.json."""
        from archscout.deploy import load_weights
        from archscout.naming import find
        from archscout.pretrained import pretrained
        from archscout.spaces import SPACES

        known = {**SPACES, "pretrained": pretrained}
        about, named = self.about, self.about["factory"]
        if named not in known and ":" in named:
            require_trust(self.folder, [named], self.trust)
            if named != self.config.get("space"):
                require_trust(self.folder / "architecture.json", [named], self.trust)
        space = find("space", named, known)
        if callable(space):
            space = space(tuple(about["input_shape"]), len(about["classes"]))
        model = space.build(space.parse(about["arch"]))
        load_weights(model, self.folder / "weights.safetensors")
        return model.eval()

    def export_onnx(self, path: str | Path) -> Path:
        """Write the trained network as one ONNX file, normalisation inside; checked against torch. Takes seconds."""
        from archscout.deploy import export_onnx

        about = self.about
        export_onnx(
            self.model(),
            path,
            input_shape=tuple(about["input_shape"]),
            classes=about["classes"],
            mean=about["mean"],
            std=about["std"],
        )
        return Path(path)


def config_of(folder: str | Path) -> dict[str, Any]:
    """The values of a run's config.toml."""
    from archscout.config import read_toml

    values = read_toml(Path(folder) / "config.toml")
    if not isinstance(values.get("data"), str):
        raise UserError(f"config.toml of run {folder} names no data; put it back as the run wrote it")
    return values


def require_text(data: Any, what: str, mend: str) -> None:
    """UserError where the data of a run were an object of Python, of which it keeps no more than the type."""
    if isinstance(data, str) and data.startswith(OBJECT):
        raise UserError(f"the data of {what} were a Python object; {mend}")


def last(events: Mapping[str, Any], key: str) -> Any:
    """The newest value of an event that may be repeated as KEY, KEY/1, KEY/2; None if there is none."""
    found = [name for name in events if name == key or name.startswith(f"{key}/")]
    return events[found[-1]] if found else None


class Events(Mapping[str, Any]):
    """The logged values of a run by key, in log order, read once without locking it; a torn last line is passed over.

    Values of trials, of which there may be many, stay in the file and are read again when they are asked for (some
    twenty microseconds); `candidates` holds their numbers. Takes about 50 us per event, and 0.6 kB of memory.
    Raises UserError where the folder is no run, and for a damaged line.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "trials.jsonl"
        if not (folder / "config.toml").is_file() or not self._path.is_file():
            raise UserError(f"'{folder}' is no run: wanted a folder that archscout search made")
        refuse_exits(folder)
        self._values: dict[str, Any] = {}
        self._trials: dict[str, tuple[int, int]] = {}
        self.candidates = Candidates()
        offset = 0
        with open(self._path, "rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    try:
                        event = json.loads(line)
                        key, value = event["event"], event["value"]
                        if key.startswith("trial/"):
                            self.candidates.add(value)
                            self._trials[key] = (offset, len(line))
                            value = None
                        self._values[key] = value
                    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
                        raise UserError(f"{self._path} holds a damaged line: {line[:60]!r}; remove that line") from None
                offset += len(line)

    def __getitem__(self, key: str) -> Any:
        if key not in self._trials:
            return self._values[key]
        start, length = self._trials[key]
        with open(self._path, "rb") as file:
            file.seek(start)
            return json.loads(file.read(length))["value"]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
