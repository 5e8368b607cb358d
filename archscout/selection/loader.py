"""Data selection for a training loop of your own: two lines change."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from archscout.errors import UserError
from archscout.naming import calling, find, full, require_settings
from archscout.selection.selector import Selector

MAKES = "a subclass of archscout.selection.Selector, or a function (part, *, seed, share) that makes one"


class Indexed(Dataset[tuple[int, Any]]):
    """A map-style dataset whose items carry their position."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> tuple[int, Any]:
        return position, self.dataset[position]

    def __getitems__(self, positions: list[int]) -> list[tuple[int, Any]]:
        if hasattr(self.dataset, "__getitems__"):
            return list(zip(positions, self.dataset.__getitems__(positions), strict=True))
        return [(position, self.dataset[position]) for position in positions]


class Collate:
    """Puts the positions of a batch beside what the loader's own collate function makes of the rest."""

    def __init__(self, inner: Callable[[list[Any]], Any]) -> None:
        self.inner = inner

    def __call__(self, items: list[tuple[int, Any]]) -> tuple[Tensor, Any]:
        return torch.tensor([position for position, _ in items]), self.inner([item for _, item in items])


class Pictures:
    """A dataset of (image, label, ...) seen as labelled pixels, for selectors that compare images.

    Images are PIL images, arrays or tensors (C, H, W) or (H, W[, C]); they are read one by one when they are asked for,
    with whatever random transform the dataset has, under a fixed seed.
    """

    def __init__(self, dataset: Any, labels: np.ndarray) -> None:
        self.dataset, self.labels = dataset, labels

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions: Any) -> tuple[Tensor, Tensor, Tensor]:
        """(positions, images (k, C, H, W), labels)."""
        where = torch.as_tensor(np.asarray(positions, dtype=np.int64))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(where[0]) if len(where) else 0)
            images = [_pixels(self.dataset[int(position)][0]) for position in where]
        return where, torch.stack(images), torch.from_numpy(self.labels[where.numpy()])


class SelectedLoader:
    """A DataLoader that yields only the images a selector chose for the round; made by `select`.

    Each iteration is a round. Batches are those of the loader it was made from, with the same settings; `observe` tells
    the selector how the images of the batch yielded last fared. What is not here (`dataset`, `batch_size`, ...) is
    looked up in that loader, `original`.

    dataset:  whose positions the selector chooses; default: the loader's.
    """

    def __init__(self, loader: DataLoader[Any], selector: Selector, dataset: Any = None) -> None:
        self.original, self.selector = loader, selector
        workers: dict[str, Any] = {}
        if loader.num_workers:
            workers = {
                "prefetch_factor": loader.prefetch_factor, "persistent_workers": loader.persistent_workers,
                "multiprocessing_context": loader.multiprocessing_context,
            }  # fmt: skip
        self.loader: DataLoader[Any] = DataLoader(
            Indexed(loader.dataset if dataset is None else dataset),
            batch_size=loader.batch_size,
            sampler=selector,
            drop_last=loader.drop_last,
            num_workers=loader.num_workers,
            collate_fn=Collate(loader.collate_fn or default_collate),
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            generator=loader.generator,
            **workers,
        )
        self.positions: Tensor | None = None

    def __len__(self) -> int:
        """Batches of the current round; before the first, of a round of the wanted size."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for positions, batch in self.loader:
            self.positions = positions
            yield batch

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "original":  # the last while one is being unpickled
            raise AttributeError(f"{type(self).__name__} has no attribute '{name}'")
        return getattr(self.original, name)

    def observe(self, losses: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """The loss to step on, after the outcomes of the batch yielded last were recorded.

        losses (b,) one per image, with their graph (reduction="none"); logits (b, classes); target (b,).
        """
        if self.positions is None:
            raise UserError("observe before any batch: iterate over the loader that archscout.select returned")
        if losses.ndim == 0:
            raise UserError(
                "observe got one mean loss for the batch; wanted one per image: "
                "F.cross_entropy(logits, y, reduction='none')"
            )
        if len(losses) != len(self.positions):
            raise UserError(
                f"observe got {len(losses)} losses for a batch of {len(self.positions)} images; "
                "give the losses of the whole batch, one per image"
            )
        return self.selector.observe(self.positions, losses, logits, target)

    def state_dict(self) -> dict[str, Any]:
        """The state of the selector; save it at the end of a round, beside the network's."""
        return self.selector.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts a selector's state back: the next iteration is the next round."""
        self.selector.load_state_dict(state)


def select(
    loader: DataLoader[Any],
    selector: Any = "dds",
    *,
    share: float = 0.2,
    epochs: float | None = None,
    labels: Any = None,
    seed: int = 0,
    **settings: Any,
) -> SelectedLoader:
    """A loader like `loader` that goes, each round, only over the images that a selector chooses.

    In a training loop with a loss per image two lines change: `loader = archscout.select(loader, "dds")`, and the loss
    to step on, `loss = loader.observe(losses, logits, y)`, where `losses` has one entry per image.

    loader:    over a map-style dataset of (image, label, ...); its sampler is replaced, all else is kept. Any number of
               workers. Of a SubsetRandomSampler the indices are kept: only those images are chosen from, and positions
               in the selector's record are places in them.
    selector:  a name (`archscout list select`), a class or function (part, *, seed, share, ...) -> Selector, or a ready
               Selector.
    share:     part of the images in a round.
    epochs:    passes over as many images as the dataset has that the whole training will take, if known: iterate
               epochs / share rounds. Some selectors end otherwise than they begin.
    labels:    one for each image of the dataset if it has none in `targets` or `labels`; without either each item is
               read once.
    settings:  of the selector.

    The dataset should hand out images without heavy random transforms if the selector compares images. In several
    processes (torch.distributed) each gets its share of a round; wrap the network as usual.
    Raises UserError for a dataset without length or items by position, a batch_sampler or a sampler that weights or
    repeats images, an unknown selector, and rounds of less than a batch where the loader drops the last one.
    """
    from archscout.selection import SELECTORS

    if not isinstance(loader, DataLoader):
        raise UserError(f"select wants a torch DataLoader, got {type(loader).__name__}")
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise UserError("select wants a map-style dataset, with len() and items by position; this one can only stream")
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        raise UserError("select chooses the batches itself; give the loader a batch_size instead of a batch_sampler")
    dataset = sampled(loader)
    if isinstance(selector, Selector):
        if settings:
            raise UserError(
                f"'{next(iter(settings))}' is a setting, and this selector is ready: give it where you make the "
                "selector, or give the selector's class"
            )
        chosen = selector
    else:
        if labels is None:
            known = labels_of(dataset)
        else:
            known, n = np.asarray(labels, dtype=np.int64), len(loader.dataset)
            if len(known) != n:
                raise UserError(f"select got {len(known)} labels for {n} images")
            known = known if dataset is loader.dataset else known[dataset.indices]
        make = find("selector", selector, SELECTORS)
        require_settings("selector", make, settings, ("epochs", "labels"))
        chosen = made_by(make, Pictures(dataset, known), seed=seed, share=share, **settings)
    if len(chosen.record.labels) != len(dataset):
        where = "dataset" if dataset is loader.dataset else "SubsetRandomSampler"
        raise UserError(
            f"the selector is of {len(chosen.record.labels)} images, the loader's {where} has {len(dataset)}"
        )
    if loader.drop_last and len(chosen) < loader.batch_size:
        raise UserError(
            f"drop_last=True would drop all of a round: {len(chosen)} images in a process, in batches of "
            f"{loader.batch_size}; make the loader with drop_last=False or a smaller batch_size, or raise share"
        )
    if epochs is not None:
        chosen.expect(round(epochs * len(chosen.record.labels)))
    return SelectedLoader(loader, chosen, dataset)


def made_by(make: Any, part: Any, **settings: Any) -> Selector:
    """The selector that a class or function makes for a part. Raises UserError where it makes none."""
    require_makes(make)
    with calling("selector", make, MAKES):
        made = make(part, **settings)
    if not isinstance(made, Selector):
        raise UserError(f"selector '{full(make)}' made {type(made).__name__}; wanted {MAKES}")
    return made


def require_makes(make: Any) -> None:
    """Raises UserError for what cannot make a selector: what cannot be called, and a class without `choose`."""
    if isinstance(make, Selector) or not callable(make):
        raise UserError(f"a selector is wanted as {MAKES}; got a ready {type(make).__name__}")
    if inspect.isclass(make) and (not issubclass(make, Selector) or inspect.isabstract(make)):
        lacks = "has no choose(record)" if issubclass(make, Selector) else "is none"
        raise UserError(f"selector '{full(make)}' {lacks}; wanted {MAKES}")


def sampled(loader: DataLoader[Any]) -> Any:
    """The dataset that a loader's sampler draws from: all of it, or the Subset of a SubsetRandomSampler.

    Raises UserError for samplers that weight, repeat or leave out images in another way.
    """
    dataset: Any = loader.dataset
    sampler: Any = loader.sampler
    if type(sampler) is SubsetRandomSampler:
        return Subset(dataset, [int(position) for position in sampler.indices])
    kind, source = type(sampler), getattr(sampler, "data_source", getattr(sampler, "dataset", ()))
    plain = kind in (SequentialSampler, DistributedSampler) or (kind is RandomSampler and not sampler.replacement)
    if not plain or len(source) != len(dataset):
        raise UserError(
            f"select replaces the loader's sampler, but a {kind.__name__} like this one says which images are drawn "
            "and how often: make the loader with shuffle=True, over torch.utils.data.Subset(dataset, positions) "
            "if only some of them are wanted"
        )
    return dataset


def labels_of(dataset: Any) -> np.ndarray:
    """int64 (n,), the labels of a dataset, from its `targets` or `labels`, else from its items, each read once."""
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[np.asarray(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1].numpy().astype(np.int64)
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        if found is not None and len(found) == len(dataset):
            return np.asarray(found, dtype=np.int64)
    return np.array([int(dataset[i][1]) for i in range(len(dataset))], dtype=np.int64)


def _pixels(image: Any) -> Tensor:
    """An image as a tensor (C, H, W)."""
    if not isinstance(image, Tensor):
        image = torch.from_numpy(np.array(image))
        if image.ndim == 3:
            image = image.permute(2, 0, 1)
    return image[None] if image.ndim == 2 else image
