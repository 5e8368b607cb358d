"""archscout select: what a selector chooses from some images, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options


@app.command()
def select(
    data: Annotated[
        str, typer.Argument(help="Image folder, .npz file, torchvision:NAME, or digits.", show_default=False)
    ],
    selector: Annotated[
        str, typer.Option("--select", help="Selector to look at; see archscout list select, or your own module:name.")
    ] = "dds",
    share: Annotated[float, typer.Option(help="Part of the train images in a round.")] = 0.2,
    epochs: Annotated[
        float, typer.Option(help="Passes over as many images as the train part has; epochs / share rounds.")
    ] = 4.0,
    space: Annotated[str, typer.Option(help="Search space of the network that is trained.")] = "plain",
    arch: Annotated[str | None, typer.Option(help="The network (default: resnet8-w16 of plain).")] = None,
    seed: options.Seed = None,
    device: options.Device = None,
    train_threads: options.TrainThreads = None,
    data_root: options.DataRoot = None,
    size: options.Size = None,
    group: options.Group = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder (default: runs/DATA-SELECTOR-N).", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rounds as JSON.")] = False,
) -> None:
    """Train a small network on images that a selector chooses, and show what it chose and why, as one page."""
    from archscout.selection.story import select_story

    story = select_story(
        data, selector, share=share, epochs=epochs, space=space, arch=arch, seed=seed or 0, size=size, group=group,
        data_root=data_root, out=out, device=device or "cpu", threads=train_threads,
    )  # fmt: skip
    if as_json:
        options.show(story.rounds, True)
        return
    facts = story.facts
    final, rounds = facts["final"], facts["rounds"]
    print(f"selector  {facts['selector']}: {facts['what']}")
    print(
        f"rounds    {len(rounds)} of {rounds[0]['images']:,} of {facts['images']:,} images; {facts['updates']} changed"
    )
    print(f"chosen    {100 * facts['ever'] / facts['images']:.1f} % of all images at least once")
    if final["gap"] is not None:
        print(
            f"left out  {100 * final['accuracy'][2]:.1f} % right of the images never chosen, in classes with both "
            f"{100 * abs(final['gap']):.1f} points {'less' if final['gap'] > 0 else 'more'} than of those ever chosen"
        )
    print(f"suspects  {facts['suspected']} labels are probably wrong")
    print(f"page      {story.page}")
