"""archscout resume: continue a stopped run."""

from __future__ import annotations

from archscout.cli import app, options


@app.command()
def resume(run: options.Run, trust: options.Trust = False, as_json: options.Json = False) -> None:
    """Continue a run that was stopped; nothing already computed is computed again."""
    from archscout.pipeline import resume as run_resume

    options.conclude(run_resume(run, trust=trust), as_json)
