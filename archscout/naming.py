"""A method is named by a word of its registry, by `module:attribute`, or is the object itself."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from archscout.errors import UserError, unknown


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
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise UserError(
                f"cannot import '{module}' for the {what} '{name}' ({error}); run where it can be imported"
            ) from None
        except (ValueError, TypeError):  # an empty or a relative name
            raise UserError(f"the {what} '{name}' is no module:name; write it like my_package.my_module:name") from None
        except AttributeError:
            raise UserError(f"module '{module}' has no '{attribute}', named by the {what} '{name}'") from None
    raise unknown(what, name, registry, "or give your own as module:name")


def word(method: Any) -> str:
    """The word a method goes by in logs and columns: a registry name, the part after the colon, or its `__name__`."""
    if isinstance(method, str):
        return method.rpartition(":")[2]
    method = getattr(method, "compute", method)
    return str(getattr(method, "name", None) or getattr(method, "__name__", type(method).__name__))
