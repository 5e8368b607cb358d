"""archscout report: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options


@app.command()
def report(
    run: options.Run,
    out: Annotated[Path | None, typer.Option(help="Where to write it (default: RUN/report.html).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts of the report as JSON.")] = False,
) -> None:
    """Write the report page of a run, finished or not."""
    from archscout.facts import facts_json
    from archscout.verbs import report as write

    if as_json:
        print(facts_json(run))
    else:
        print(write(run, out))
