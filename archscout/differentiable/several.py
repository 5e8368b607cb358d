"""A differentiable search in several processes, one per GPU: one supernet, the same in all, and one architecture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from archscout.differentiable.bilevel import Story
from archscout.differentiable.choice import relax
from archscout.differentiable.darts import Found
from archscout.errors import UserError, leaving, taking
from archscout.naming import word
from archscout.space import SearchSpace

NOTE = "told"  # the file of an error that a person can mend


def on_several(
    method: Callable[..., Found],
    devices: int,
    space: SearchSpace,
    *parts: Any,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> Found:
    """What `method(space, *parts, **options)` finds with `devices` processes that share every batch.

    Use it where one GPU is too slow; on the CPU threads serve better, and it is there for tests. Everything given must
    be picklable, which closures are not, and spaces only as portable(...); on_progress, which hears of the entries of
    the first process, is called in this one. Starting costs some seconds. Under torchrun, call the method itself: it
    takes its share of each batch wherever torch.distributed is initialised. Raises RuntimeError if the processes do not
    end at the same architecture.
    """
    if devices < 2:
        return method(space, *parts, on_progress=on_progress, **options)
    place = str(options.get("device", "cpu"))
    if ":" in place:
        raise UserError(f"a search on {devices} devices wants the kind alone, cpu or cuda, got device {place}")
    if place == "cuda" and torch.cuda.device_count() < devices:
        raise UserError(f"{devices} GPUs were asked for, this machine has {torch.cuda.device_count()}")
    with tempfile.TemporaryDirectory() as folder:
        told = torch.multiprocessing.get_context("spawn").SimpleQueue()
        arguments = (folder, devices, method, space, parts, options, told)
        with taking(Path(folder) / NOTE):
            children = torch.multiprocessing.spawn(_work, arguments, nprocs=devices, join=False)
            ended = False
            while not ended:
                ended = children.join(timeout=0.2)
                while not told.empty():
                    entry = told.get()
                    if on_progress is not None:
                        on_progress(entry)
        answer = torch.load(Path(folder) / "answer.pt", weights_only=True, map_location="cpu")
    arch, weights, made, story, choice, most_skips = answer
    supernet = relax(space, word(method), **made)
    supernet.load_state_dict(weights)
    return Found(tuple(arch), supernet, Story(**story), choice, made, most_skips)


def _work(
    rank: int,
    folder: str,
    devices: int,
    method: Callable[..., Found],
    space: SearchSpace,
    parts: Any,
    options: Any,
    told: Any,
) -> None:
    """One process of several; the first leaves what was found in a file."""
    device = str(options.get("device", "cpu"))
    if device == "cuda":
        torch.cuda.set_device(rank)
        options = {**options, "device": f"cuda:{rank}"}
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=devices)
    try:
        with leaving(Path(folder) / NOTE):
            found = method(space, *parts, on_progress=told.put, **options)
        archs: list[Any] = [None] * devices
        dist.all_gather_object(archs, tuple(found.arch))
        if len(set(archs)) > 1:
            raise RuntimeError(f"the processes of one search ended at different architectures: {archs}")
        if rank == 0:
            content = (list(found.arch), found.supernet.state_dict(), found.options, asdict(found.story))
            torch.save((*content, found.choice, found.most_skips), Path(folder) / "answer.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
