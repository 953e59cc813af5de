"""From pairs of people to the examples of every update: split, directions, dropout of inputs, mirroring."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pds_bids.bids.write import write_json
from pds_bids.exceptions import UsageError
from pds_bids.inference.prepare import Window, scale_template, scale_to_mean
from pds_bids.methods import Batch
from pds_bids.modalities import ANATOMY, CONTRASTS, MAP_UNITS, MODALITIES, Contrast, Direction
from pds_bids.phantom.pair import SOURCE_CHANNELS, TARGET_CHANNELS
from pds_bids.phantom.stream import PairStream
from pds_bids.seeds import derive_seed

__all__ = [
    "Augmentation",
    "ContrastPair",
    "ContrastPairs",
    "ExampleStream",
    "PairSource",
    "Split",
    "UpdateStream",
    "collate",
    "loader",
    "make_example",
    "split_subjects",
    "to_device",
]

Example = dict[str, Tensor]
# What a 1 of a network is in the maps of the stream, whose MD is in um^2/ms.
STREAM_UNITS = {Contrast.FA: MAP_UNITS[Contrast.FA], Contrast.MD: 1e3 * MAP_UNITS[Contrast.MD]}


@dataclass(frozen=True, eq=False)
class ContrastPair:
    """All contrasts of one person as arrays.

    Parameters
    ----------
    source, target : ndarray
        ``(C, X, Y, Z)`` float32 in the order of :class:`~pds_bids.modalities.Contrast`, in-brain mean 1 or in
        units of ``MAP_UNITS``, zero outside the mask and where there is none. `target` holds the anatomy,
        too.
    mask : ndarray
        ``(X, Y, Z)`` bool.
    template : ndarray
        ``(4, X, Y, Z)`` float32.
    name : str
        The anatomy.
    has_source, has_target : frozenset of Contrast
        What there is.
    """

    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    template: np.ndarray
    name: str
    has_source: frozenset[Contrast] = frozenset(CONTRASTS)
    has_target: frozenset[Contrast] = frozenset(CONTRASTS)


class PairSource(Protocol):
    """Anything that makes the i-th pair, always the same one for the same index."""

    def pair(self, index: int) -> ContrastPair:
        """Return pair number `index`."""


class ContrastPairs:
    """Pairs of a stream, without their protocol, in the channels of all contrasts.

    Parameters
    ----------
    stream : PairStream
        Simulated people, on any device.
    """

    def __init__(self, stream: PairStream) -> None:
        self.stream = stream
        self._pair = lru_cache(2)(self._make)

    def __getstate__(self) -> dict[str, object]:
        return {"stream": self.stream}

    def __setstate__(self, state: dict[str, PairStream]) -> None:
        self.__init__(state["stream"])  # type: ignore[misc]

    def pair(self, index: int) -> ContrastPair:
        """Return pair number `index`; the last ones are remembered, for both directions of a person."""
        return self._pair(index)

    def _make(self, index: int) -> ContrastPair:
        pair = self.stream.pair(index)
        source, target = (np.zeros((len(CONTRASTS), *pair.mask.shape), np.float32) for _ in range(2))
        source[[CONTRASTS.index(c) for c in SOURCE_CHANNELS]] = pair.source.cpu().numpy()
        target[[CONTRASTS.index(c) for c in TARGET_CHANNELS]] = pair.target.cpu().numpy()
        target[CONTRASTS.index(ANATOMY)] = source[CONTRASTS.index(ANATOMY)]
        for contrast, unit in STREAM_UNITS.items():
            target[CONTRASTS.index(contrast)] /= unit
        mask, template = (tensor.cpu().numpy() for tensor in (pair.mask, pair.template))
        return ContrastPair(source, target, mask, template, pair.name, frozenset(SOURCE_CHANNELS))


@dataclass(frozen=True)
class Split:
    """Names of the people for training, for choosing and calibrating, and for the final figures."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write the names as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Split":
        """Read what `save` wrote, or what somebody wrote by hand.

        Raises
        ------
        UsageError
            If it is no such file, a name is in two parts, or nobody is left for training.
        """
        try:
            parts = json.loads(path.read_text())
            split = cls(*(tuple(map(str, parts[name])) for name in ("train", "validation", "test")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: not a split ({error!r}); expected JSON with lists train, validation and test"
            ) from error
        names = [*split.train, *split.validation, *split.test]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not split.train:
            why = f"{', '.join(twice)} twice, a leak" if twice else "nobody to train on"
            raise UsageError(f"{path}: {why}; every person belongs to one of train, validation and test")
        return split


def split_subjects(
    names: Sequence[str],
    seed: int,
    n_validation: int = 2,
    n_test: int = 3,
    *,
    families: Mapping[str, str] | None = None,
) -> Split:
    """Split people, never images, at random.

    Parameters
    ----------
    names : sequence of str
        One name per person; the order does not matter.
    seed : int
        Seed of the split.
    n_validation, n_test : int
        Sizes of the two held-out sets, larger where a family is; the rest is for training.
    families : mapping of str to str, optional
        Family by name; relatives stay together, others are nobody's relatives.

    Returns
    -------
    Split
        Sorted names.

    Raises
    ------
    UsageError
        If a name appears twice or nobody is left for training.
    """
    people = sorted(names)
    if len(set(people)) != len(people):
        raise UsageError("a person appears twice; a split would leak")
    if len(people) <= n_validation + n_test:
        raise UsageError(f"{len(people)} people do not suffice to hold out {n_validation} + {n_test}")
    members: dict[str, list[str]] = {}
    for name in people:
        members.setdefault((families or {}).get(name, name), []).append(name)
    order = np.random.default_rng(derive_seed(seed, "split")).permutation(sorted(members))
    test: list[str] = []
    validation: list[str] = []
    train: list[str] = []
    for family in map(str, order):
        part = test if len(test) < n_test else validation if len(validation) < n_validation else train
        part += members[family]
    if not train:
        raise UsageError(
            f"{len(members)} families do not suffice to hold out {n_validation} + {n_test} people"
        )
    return Split(*(tuple(sorted(part)) for part in (train, validation, test)))


@dataclass(frozen=True)
class Augmentation:
    """How often inputs are withheld or mirrored.

    Parameters
    ----------
    p_drop_contrast : float
        Probability that one of several source contrasts is withheld.
    p_drop_template : float
        Probability that the template channels are withheld.
    p_drop_anatomy : float
        Probability that the person's own T1w is withheld.
    p_mirror : float
        Probability that the person is mirrored left to right; the template is not.
    """

    p_drop_contrast: float = 0.2
    p_drop_template: float = 0.3
    p_drop_anatomy: float = 0.5
    p_mirror: float = 0.5


def make_example(
    pair: ContrastPair, window: Window, direction: Direction, drop: Sequence[Contrast] = ()
) -> Example:
    """Cut, mask and scale a pair for one direction.

    Parameters
    ----------
    pair : ContrastPair
        Simulated person.
    window : Window
        What the network sees.
    direction : Direction
        Decides which contrasts are source.
    drop : sequence of Contrast
        Source contrasts to withhold.

    Returns
    -------
    dict of str to Tensor
        Fields of `Batch` for one person, without the leading dimension.
    """
    mask = window.crop(pair.mask)
    source = np.zeros((len(CONTRASTS), *window.shape), np.float32)
    present = np.zeros(len(CONTRASTS), np.float32)
    for contrast in direction.sources:
        if contrast in pair.has_source and contrast not in drop:
            channel = CONTRASTS.index(contrast)
            image = window.crop(pair.source[channel])
            source[channel] = scale_to_mean(image, mask, f"{pair.name} {contrast}")[0]
            present[channel] = 1
    return {
        "source": torch.from_numpy(source),
        "present": torch.from_numpy(present),
        "template": torch.from_numpy(scale_template(window.crop(pair.template), mask)),
        "mask": torch.from_numpy(mask[None].astype(np.float32)),
        "direction": torch.tensor(direction.code),
        "target": torch.from_numpy(np.ascontiguousarray(window.crop(pair.target), np.float32)),
        "given": torch.tensor([float(contrast in pair.has_target) for contrast in CONTRASTS]),
    }


class ExampleStream:
    """Training examples; the i-th one depends on the seed and on i only.

    Parameters
    ----------
    pairs : PairSource
        People.
    window : Window
        What the network sees.
    augmentation : Augmentation
        Dropout and mirroring.
    seed : int
        Seed of direction, dropout and mirroring.
    """

    def __init__(self, pairs: PairSource, window: Window, augmentation: Augmentation, seed: int) -> None:
        self.pairs = pairs
        self.window = window
        self.augmentation = augmentation
        self.seed = seed

    def example(self, index: int) -> Example:
        """Return example number `index`.

        Directions alternate, so that batches of two hold one person both ways: people are what takes time.
        """
        rng = np.random.default_rng(derive_seed(self.seed, "example", index))
        person, way = divmod(index, len(Direction))
        direction = list(Direction)[way]
        contrasts = MODALITIES[direction.source].sources
        drop = []
        if len(contrasts) > 1 and rng.random() < self.augmentation.p_drop_contrast:
            drop.append(contrasts[rng.integers(len(contrasts))])
        if rng.random() < self.augmentation.p_drop_anatomy:
            drop.append(ANATOMY)
        example = make_example(self.pairs.pair(person), self.window, direction, drop)
        if rng.random() < self.augmentation.p_drop_template:
            example["template"] = torch.zeros_like(example["template"])
        if rng.random() < self.augmentation.p_mirror:
            for name in ("source", "mask", "target"):
                example[name] = example[name].flip(1)
        return example


class UpdateStream(IterableDataset):
    """The examples of update after update, those of one process.

    Update u consists of the examples from ``u * batch_size``, cut into passes. Process r of W gets the passes
    r, r + W, ...: whatever the number of processes, an update sees the same passes.

    Parameters
    ----------
    examples : ExampleStream
        Where examples come from.
    batch_size, pass_size : int
        Examples per update, over all processes, and per pass.
    first, stop : int
        Updates to make: from the first up to the last but one.
    rank, n_processes : int
        Which process this is, and of how many.

    Raises
    ------
    UsageError
        If the passes cannot be shared evenly.
    """

    def __init__(
        self,
        examples: ExampleStream,
        batch_size: int,
        pass_size: int,
        *,
        first: int = 0,
        stop: int,
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.pass_size = pass_size
        self.first = first
        self.stop = stop
        self.passes = range(rank, batch_size // pass_size, n_processes)
        if batch_size // pass_size % n_processes:
            raise UsageError(
                f"a batch of {batch_size} in passes of {pass_size} cannot be shared by {n_processes} "
                f"processes; set --batch-size to a multiple of {pass_size * n_processes}"
            )

    def __len__(self) -> int:
        """Return how many updates are left."""
        return max(self.stop - self.first, 0)

    def update(self, number: int) -> list[tuple[int, Example]]:
        """Return the passes of one update, each with its number."""
        made = []
        for index in self.passes:
            start = number * self.batch_size + index * self.pass_size
            examples = [self.examples.example(start + i) for i in range(self.pass_size)]
            made.append((index, collate(examples)))
        return made

    def __iter__(self) -> Iterator[list[tuple[int, Example]]]:
        # Workers take turns, and the loader collects from them in turn.
        worker = get_worker_info()
        offset, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(self.first + offset, self.stop, step):
            yield self.update(number)


def loader(updates: UpdateStream, n_workers: int = 0) -> DataLoader:
    """Return the updates in their order, made here or ahead of time in other processes."""
    if not n_workers:
        return DataLoader(updates, batch_size=None)
    return DataLoader(updates, batch_size=None, num_workers=n_workers, prefetch_factor=4)


def collate(examples: Sequence[Example]) -> Example:
    """Stack examples; a plain dictionary, because worker processes send those cheaply."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def to_device(stacked: Example, device: torch.device | str) -> Batch:
    """Return a `Batch` on `device`."""
    return Batch(**stacked).to(device)
