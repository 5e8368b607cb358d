"""archscout demo: the main job on the digits inside scikit-learn."""

from __future__ import annotations

from archscout.cli import app, options


@app.command()
def demo(out: options.Out = None, seed: options.Seed = None, as_json: options.Json = False) -> None:
    """Run the whole main job on scikit-learn's handwritten digits, within three minutes on two cores, offline."""
    from archscout.pipeline import demo as run_demo

    options.conclude(run_demo(out=out, seed=seed or 0), as_json)
