"""Methods of a person's own that cannot be found, do not fit or fail: a UserError that names them, and no run left."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from archscout import search
from archscout.errors import UserError, unknown
from archscout.naming import calling, find, is_own, require_settings, settings_of
from archscout.selection import SELECTORS
from archscout.selection.selector import Selector
from archscout.space import SearchSpace
from archscout.spaces import SPACES
from archscout.strategies import STRATEGIES


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:\n", "importing 'own_module' for the proxy 'own_module:f' failed (SyntaxError"),
        ("1 / 0\n", "importing 'own_module' for the proxy 'own_module:f' failed (ZeroDivisionError"),
        ("import own_module.missing\n", "cannot import 'own_module' for the proxy"),
        ("x = 1\n", "module 'own_module' has no 'f'"),
    ],
)
def test_modules_that_cannot_be_imported(text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_module", raising=False)
    with pytest.raises(UserError) as caught:
        find("proxy", "own_module:f", {})
    assert told in str(caught.value)


@pytest.mark.parametrize("name", [":f", ".relative:f", "a b:c", "module:"])
def test_names_of_another_form(name: str) -> None:
    with pytest.raises(UserError, match="is no module:name"):
        find("proxy", name, {})


def test_own_methods_are_told_from_those_of_the_package() -> None:
    assert not any(map(is_own, (*SPACES.values(), *STRATEGIES.values(), *SELECTORS.values())))
    assert not is_own(functools.partial(STRATEGIES["evolution"], population=8))
    assert is_own(bad)
    assert is_own(functools.partial(bad, 1))
    assert is_own(NoTell)
    with pytest.raises(KeyError), calling("space", SPACES["plain"], "nothing else"):
        raise KeyError("of the package")
    with (
        pytest.raises(UserError, match="space 'test_naming:bad' failed") as caught,
        calling("space", bad, "b"),
    ):
        raise KeyError("mine")
    assert isinstance(caught.value.__cause__, KeyError)


def test_settings_are_read_along_the_bases() -> None:
    assert settings_of(SELECTORS["dds"]) >= {"share", "seed", "unbiased", "size", "part"}  # type: ignore[operator]
    assert settings_of(lambda part, **more: part) is None
    with pytest.raises(UserError, match="unknown setting of the selector dds 'epoch'; did you mean 'epochs'"):
        require_settings("selector", SELECTORS["dds"], ["epoch"], ("epochs",))
    require_settings("selector", SELECTORS["dds"], ["unbiased"])


def test_nothing_known_is_said_in_words() -> None:
    assert str(unknown("device", "pi", [])) == "unknown device 'pi' (there are none yet)"


def bad(shape: Any, classes: int) -> SearchSpace:
    return {}["x"]


def short(shape: Any) -> SearchSpace:
    return SPACES["plain"](shape, 10)


def no_space(shape: Any, classes: int) -> Any:
    return {"a": (1, 2)}


class NoTell:
    def __init__(self, space: Any, *, seed: int, goal: Any) -> None: ...

    def ask(self, n: int = 1) -> list[Any]:
        return []


def no_seed(space: Any) -> Any:
    return STRATEGIES["random"](space, seed=0, goal=None)  # type: ignore[arg-type]


def no_strategy(space: Any, *, seed: int, goal: Any) -> Any:
    return object()


class Unfinished(Selector):
    """Has no choose."""


def no_share(part: Any, *, seed: int) -> Any:
    return None


def no_selector(part: Any, *, seed: int, share: float) -> Any:
    return 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"space": bad}, "space 'test_naming:bad' failed (KeyError: 'x'); wanted a function (input_shape, classes)"),
        ({"space": short}, "space 'test_naming:short' failed (TypeError"),
        ({"space": no_space}, "space 'test_naming:no_space' gave dict"),
        ({"strategy": NoTell}, "strategy 'test_naming:NoTell' is none"),
        ({"strategy": no_seed}, "strategy 'test_naming:no_seed' failed (TypeError"),
        ({"strategy": no_strategy}, "strategy 'test_naming:no_strategy' made object"),
        ({"select": Unfinished}, "selector 'test_naming:Unfinished' has no choose(record)"),
        ({"select": NoTell}, "selector 'test_naming:NoTell' is none"),
        ({"select": no_share}, "selector 'test_naming:no_share' failed (TypeError"),
        ({"select": no_selector}, "selector 'test_naming:no_selector' made int"),
    ],
)
def test_methods_that_do_not_fit_leave_no_run(
    settings: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archscout.pipeline.measure_profile", lambda *a, **k: pytest.fail("something was measured"))
    data = torch.randint(0, 256, (60, 8, 8, 3), dtype=torch.uint8).numpy(), [i % 3 for i in range(60)]
    with pytest.raises(UserError) as caught:
        search(data, out=tmp_path / "run", candidates=4, finalists=1, epochs=1, workers=0, **settings)
    assert told in str(caught.value)
    assert not (tmp_path / "run").exists()
