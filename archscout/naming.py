"""A method is named by a word of its registry, by `module:attribute`, or is the object itself."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from archscout.errors import UserError, unknown

#: folders in which a module of module:name is looked for, after all others; the command line adds its working folder.
#: They join sys.path only when such a name is followed: else a file in them could pass for an optional package.
FOLDERS: list[str] = []


def find(what: str, name: Any, registry: Mapping[str, Any]) -> Any:
    """The method that `name` stands for: an entry of `registry`, an importable `module:attribute`, or `name` itself.

    `what` is the kind of method, for the error. Raises UserError for a name that leads nowhere.
    """
    if not isinstance(name, str):
        return name
    if name in registry:
        return registry[name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), attribute)):
            raise UserError(f"the {what} '{name}' is no module:name; write it like my_package.my_module:name")
        if "" not in sys.path:
            sys.path += [folder for folder in FOLDERS if folder not in sys.path]  # workers inherit it
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(
                f"cannot import '{module}' for the {what} '{name}' ({error}); run where it can be imported: in the "
                f"folder of {module.partition('.')[0]}.py, or with its package installed"
            ) from error
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"importing '{module}' for the {what} '{name}' failed ({type(error).__name__}: {error}); mend that file"
            ) from error
        try:
            return getattr(found, attribute)
        except AttributeError:
            raise UserError(f"module '{module}' has no '{attribute}', named by the {what} '{name}'") from None
    raise unknown(what, name, registry, "or give your own as module:name")


def word(method: Any) -> str:
    """The word a method goes by in logs and columns: a registry name, the part after the colon, or its `__name__`."""
    if isinstance(method, str):
        return method.rpartition(":")[2]
    method = getattr(method, "compute", method)
    return str(getattr(method, "name", None) or getattr(method, "__name__", type(method).__name__))


def is_own(method: Any) -> bool:
    """Whether a method is a person's own, not one of this package; a partial of a method is as the method."""
    method = getattr(method, "func", method)
    module = getattr(method, "__module__", None) or type(method).__module__
    return module.partition(".")[0] != "archscout"


@contextmanager
def calling(what: str, method: Any, wanted: str) -> Iterator[None]:
    """Around a call of a method that may be a person's own: whatever that raises becomes a UserError that names it.

    what: the kind of method.  wanted: what should have been given.  An error of a method of this package stays as it
    is, since nobody but its authors can mend it.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if not is_own(method):
            raise
        raise UserError(
            f"{what} '{full(method)}' failed ({type(error).__name__}: {str(error)[:200]}); wanted {wanted}"
        ) from error


def full(method: Any) -> str:
    """module:name of a method where it has both, else its word; for errors."""
    module, name = getattr(method, "__module__", None), getattr(method, "__qualname__", None)
    return f"{module}:{name}" if module and name else word(method)


def require_settings(what: str, make: Any, given: Iterable[str], beside: Iterable[str] = ()) -> None:
    """Raises UserError for a setting that a class or function does not take, with those that it takes.

    what: the kind of method, for the error.  beside: names that the caller takes itself, for the list.
    """
    takes = settings_of(make)
    if takes is None:
        return
    for name in given:
        if name not in takes:
            known = (takes | set(beside)) - {"part"}
            raise unknown(f"setting of the {what} {word(make)}", name, known)


def settings_of(make: Any) -> set[str] | None:
    """The arguments by name of a function, or of a class and the bases that it hands the rest on to; None for any."""
    levels = [make]
    if inspect.isclass(make):
        levels = [vars(base)["__init__"] for base in make.__mro__ if "__init__" in vars(base)]
    names: set[str] = set()
    for level in levels:
        try:
            parameters = inspect.signature(level).parameters.values()
        except (TypeError, ValueError):  # written in C
            return None
        kinds = {parameter.kind for parameter in parameters}
        names |= {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)} - {"self"}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return names
    return None
