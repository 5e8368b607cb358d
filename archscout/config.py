"""What a run is asked to do: one checked, saved, re-readable value."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from archscout.errors import UserError, unknown

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
USUAL_BUDGET = "20m"  # of a run that is told neither a budget nor epochs
LEAST_BUDGET = 40.0  # seconds; starting the workers and measuring the device already take about 20


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def parse_seconds(value: str | float | int) -> float:
    """A duration in seconds from "20m", "90s", "1.5h" or a number of seconds. Raises UserError otherwise."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) < 1e300 else math.inf
    else:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|)\s*", str(value))
        if not found:
            raise UserError(f"'{value}' is no duration; write a number with s, m or h, like 20m")
        seconds = float(found[1]) * SECONDS[found[2]]
    bare = re.fullmatch(r"[\d.]+", str(value).strip())
    if not math.isfinite(seconds) or seconds < LEAST_BUDGET:
        raise UserError(
            f"a budget of {seconds:g} s is too short; the least is {LEAST_BUDGET:g}s, and 5m or more is useful"
            + (f" ({value} was read as seconds; for minutes type {value}m)" if bare else "")
        )
    return seconds


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < 1e300


class Config(BaseModel):
    """Everything that decides a run, in base units; saved as config.toml in the run folder.

    Counts (`candidates`, `finalists`, `epochs`) make a run reproducible from its seed; a `budget` in seconds is turned
    into counts when the run starts. Giving both keeps the given counts and plans the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    data: str = Field(description="image folder, .npz file, torchvision:NAME or digits")
    data_root: str | None = Field(None, description="where torchvision data lie")
    size: int | None = Field(None, ge=4, le=1024, description="side in pixels to which images are brought")
    group: str | None = Field(
        None, description="regular expression on the file path; images of one group stay together"
    )
    strict: bool = Field(False, description="refuse data with any unreadable image")
    space: str = Field("mobilenet", description="search space")
    strategy: str = Field("evolution", description="what proposes architectures")
    reward: Literal["proxies", "accuracy"] = Field(
        "proxies", description="what the strategy is told: the proxies' scores, or accuracy after a short training"
    )
    inherit: bool = Field(False, description="short trainings begin with the weights of the nearest trained network")
    proxies: tuple[str, ...] = Field((), description="zero-shot proxies that rank; empty: the default set")
    select: str = Field("full", description="selector of the training images: in verification, and in `train`")
    share: float = Field(0.2, gt=0, le=1, description="part of the images in a round of a selector other than full")
    limits: dict[str, float] = Field({}, description="largest allowed costs: ms, mJ, W, bytes, counts")
    device_profile: str | None = Field(
        None, description="device that latency and energy are of: name, run folder or JSON file; none: this machine"
    )
    budget: float | None = Field(None, description="seconds the whole run may take")
    candidates: int | None = Field(None, ge=2, le=10_000_000, description="architectures to score")
    finalists: int | None = Field(None, ge=1, le=1000, description="architectures to verify by training")
    trainings: int | None = Field(None, ge=1, le=100_000, description="short trainings of a search by accuracy")
    epochs: float | None = Field(None, gt=0, le=10_000, description="epochs of the full training")
    split: tuple[float, float, float] | None = Field(
        None, description="parts of the time for ranking, verification and full training; none: decided by the program"
    )
    supernet: dict[str, int | float | str] = Field(
        {}, description="how darts, pdarts and tas train their supernet: option -> value, such as beta = 0.3"
    )
    objectives: tuple[str, ...] = Field(
        (), description="costs that verification, and strategies of several objectives, weigh against accuracy"
    )
    recipe: str = Field("auto", description="how `train` trains: auto, darts, or a module:function of your own")
    pretrained: dict[str, str] = Field(
        {}, description="weights of known networks that are fine-tuned beside the finalists: network -> file"
    )
    teach: Literal["auto", "yes", "no"] = Field("auto", description="whether the best of these teaches the winner")
    teacher: str | None = Field(None, description="finished run whose network teaches the full training")
    metric: Literal["auto", "accuracy", "balanced_accuracy"] = Field("auto", description="what decides")
    flip: Literal["auto", "yes", "no"] = Field("auto", description="mirror images in training")
    seed: int = Field(0, ge=0, lt=2**31)
    device: str = Field("cpu", description="cpu, cuda or cuda:N")
    devices: int = Field(1, ge=1, le=64, description="GPUs for a supernet and the full training")
    workers: int | str = Field(default_factory=cores, description="processes, or ray, or ray://ADDRESS")
    threads: int = Field(1, ge=1, le=256, description="threads of each scoring and each verification")
    train_threads: int = Field(default_factory=cores, ge=1, le=256, description="threads of the full training")
    timeout: float = Field(120.0, gt=0, description="seconds after which scoring one network is given up")
    out: str = Field("", description="run folder; empty: runs/DATA-SPACE-N")

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
            raise ValueError(f"'{value}' is no device; write cpu, cuda or cuda:0")
        return value

    @field_validator("split", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        given = value
        if isinstance(value, str):
            try:
                value = tuple(float(part) for part in value.split(","))
            except ValueError:
                value = ()
        fits = value is None or (isinstance(value, list | tuple) and len(value) == 3 and all(map(_positive, value)))
        if not fits:
            raise ValueError(f"'{given}' is no split; write three numbers above 0, like 5,15,80")
        return value

    @field_validator("objectives")
    @classmethod
    def _objectives(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from archscout.costs import COSTS

        for name in value:
            if name not in COSTS:
                raise ValueError(f"'{name}' is no cost; objectives are among {', '.join(COSTS)}")
        return value

    @field_validator("workers", mode="before")
    @classmethod
    def _workers(cls, value: Any) -> Any:
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not 0 <= value <= 1024:
            raise ValueError(f"{value} workers; write a number from 0 to 1024, ray, or ray://ADDRESS")
        if isinstance(value, str) and not (value == "ray" or value.startswith("ray://")):
            raise ValueError(f"'{value}' workers; write a number, ray, or ray://ADDRESS")
        return value

    def to_toml(self) -> str:
        """The config as TOML text, without the keys that are None."""
        return tomli_w.dumps({k: v for k, v in self.model_dump(mode="json").items() if v is not None})


#: settings whose text has a form of its own -> what they may be, and how they are written
FORMS: dict[str, tuple[tuple[type, ...], str]] = {
    "data": ((str,), 'a text, like data = "photos"'),
    "proxies": ((str, list, tuple), 'a list of names, like ["synflow", "naswot"]'),
    "limits": ((str, list, tuple, Mapping), "a table, like {latency = 5.0}"),
    "pretrained": ((list, tuple, Mapping), 'a table, like {resnet18 = "weights.pth"}'),
    "supernet": ((str, list, tuple, Mapping), "a table, like {beta = 0.3}"),
    "teacher": ((str, Path), "the folder of a run"),
    "space": ((str,), "a name"),
    "strategy": ((str,), "a name"),
    "select": ((str,), "a name"),
    "recipe": ((str,), "a name"),
}


def check_forms(values: Mapping[str, Any], names: Iterable[str] = FORMS) -> None:
    """Raises UserError for a setting of a kind that it cannot be, such as a number where names are wanted."""
    for name in names:
        kinds, wanted = FORMS[name]
        if (value := values.get(name)) is not None and not isinstance(value, kinds):
            raise UserError(f"setting '{name}' is {wanted}; got {str(value)[:80]!r} ({type(value).__name__})")


def make_config(values: Mapping[str, Any]) -> Config:
    """A checked Config from plain values; None means not given. Raises UserError that names the key and the remedy.

    `budget` may be text like "20m", `limits` a mapping or a list of "latency=5ms".
    """
    from archscout.costs.limits import parse_limits

    given = {key: value for key, value in values.items() if value is not None}
    check_forms(given)
    for key in given:
        if key not in Config.model_fields:
            raise unknown("setting", key, Config.model_fields)
    if "budget" in given:
        given["budget"] = parse_seconds(given["budget"])
    if "limits" in given:
        given["limits"] = parse_limits(given["limits"])
    if "supernet" in given:
        from archscout.differentiable.options import parse_options

        given["supernet"] = parse_options(given["supernet"])
    if "pretrained" in given:
        from archscout.pretrained import parse_files

        given["pretrained"] = parse_files(given["pretrained"])
    if isinstance(given.get("proxies"), str):
        given["proxies"] = tuple(part.strip() for part in given["proxies"].split(",") if part.strip())
    try:
        config = Config(**given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "config"
        if first["type"] == "missing":
            raise UserError(f"'{place}' is missing; give it on the command line or in the config file") from None
        wanted = in_words(first)
        raise UserError(f"setting '{place}': {wanted} (got {str(first.get('input'))[:80]!r})") from None
    if config.budget is None and config.epochs is None:
        config = config.model_copy(update={"budget": parse_seconds(USUAL_BUDGET)})
    return config


KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "a text", "tuple": "a list",
    "dict": "a table",
}  # fmt: skip
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def in_words(error: Mapping[str, Any]) -> str:
    """What was wanted where pydantic refuses a value, as a person would say it."""
    kind, field = str(error["type"]), Config.model_fields.get(str(error["loc"][0]))
    usual = None if field is None else field.get_default(call_default_factory=True)
    plain = isinstance(usual, int | float | str) and not isinstance(usual, bool) and usual != ""
    like = f", like {usual}" if plain else ""
    if kind == "literal_error":
        return "wanted " + error["ctx"]["expected"].replace("'", "")
    if kind.startswith(("greater_than", "less_than")) and field is not None:
        bounds = [
            f"{said} {getattr(mark, short):.10g}"
            for mark in field.metadata for short, said in BOUNDS.items() if hasattr(mark, short)
        ]  # fmt: skip
        return f"wanted a number {' and '.join(bounds)}{like}"
    for begin, wanted in KINDS.items():
        if kind.startswith(begin):
            return f"wanted {wanted}{like}"
    return str(error["msg"]).removeprefix("Value error, ")


def read_toml(path: str | Path) -> dict[str, Any]:
    """The plain values of a TOML config file. Raises UserError if it is absent or no TOML."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"cannot read the config file {path} ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f'{path} is no TOML file ({error}); write lines like: space = "mobilenet"') from None
