"""archscout list: every method with one line each."""

from __future__ import annotations

from typing import Annotated

import typer

from archscout.cli import app, options


@app.command(name="list")
def list_methods(
    kind: Annotated[str | None, typer.Argument(help="space, strategy, selector, proxy or cost; all if absent.")] = None,
    as_json: options.Json = False,
) -> None:
    """Show the search spaces, strategies, selectors, proxies and costs, one line each."""
    from archscout.verbs import methods

    options.show(methods(kind), as_json)
