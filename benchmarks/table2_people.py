"""Simulated people for `table2.py`: split by head, made once, kept in memory-mapped files."""

import hashlib
import os
from collections.abc import Callable
from functools import cache as cache_call
from pathlib import Path

import numpy as np

from pds_bids.imaging.grid import Grid
from pds_bids.inference.prepare import DEFAULT_WINDOW, Window, scale_to_mean
from pds_bids.modalities import CONTRASTS, MAP_UNITS, TARGETS, Contrast
from pds_bids.template import MODEL_GRID, get_template, load_template
from pds_bids.training.data import ContrastPair, PairSource, split_subjects
from pds_bids.training.people import People
from pds_bids.training.phantoms import load_phantoms

SEED = 1
# Part of the names of cached files: raise it when what is cached changes.
VERSION = 2
#: Part of the 3 mm grid whose blocks of 2 x 2 x 2 voxels make the 6 mm grid; cuts off 4 mm at the lower pole.
REDUCED_SOURCE = Window((9, 6, 4), (48, 64, 48))
REDUCED_WINDOW = Window((0, 0, 0), (24, 32, 24))
REDUCED_GRID = Grid(
    REDUCED_WINDOW.shape,
    np.block(
        [
            [np.eye(3) * 6, (MODEL_GRID.vox2ras @ [9.5, 6.5, 4.5, 1])[:3, None]],
            [np.zeros((1, 3)), np.ones((1, 1))],
        ]
    ),
)
#: Odd, so that the second time a person comes, it is for the other direction.
N_TRAIN = 241
# People whose mean the atlas is.
N_ATLAS = 120
#: Heads that are held out to calibrate, and to test.
N_HEADS = {"validation": 3, "test": 6}


#: As in the paper, nothing but the other modality is read; the anatomy is not.
SOURCES = frozenset((Contrast.BOLD, Contrast.DWI, Contrast.B0))


class CoarsePairs:
    """Pairs at 6 mm: in-brain averages of blocks, in-brain mean 1 again.

    Parameters
    ----------
    pairs : PairSource
        On the model grid.
    """

    def __init__(self, pairs: PairSource) -> None:
        self.pairs = pairs

    def pair(self, index: int) -> ContrastPair:
        """Return pair number `index`."""
        fine = self.pairs.pair(index)
        cut = REDUCED_SOURCE.crop
        inside = cut(fine.mask).astype(np.float32)
        share = _blocks(inside)
        mask = share >= 0.5
        source, target = (
            np.stack(
                [
                    in_units(_blocks(image * inside) / np.maximum(share, 0.125), mask, contrast, fine.name)
                    if contrast in there
                    else np.zeros(mask.shape, np.float32)
                    for contrast, image in zip(CONTRASTS, cut(images), strict=True)
                ]
            )
            for images, there in ((fine.source, SOURCES), (fine.target, TARGETS))
        )
        return ContrastPair(source, target, mask, _blocks(cut(fine.template)), fine.name)


def in_units(image: np.ndarray, mask: np.ndarray, contrast: Contrast, name: str) -> np.ndarray:
    """Mask an image; divide it by its in-brain mean unless it is a map, which has an absolute scale."""
    if contrast in MAP_UNITS:
        return np.where(mask, image, 0).astype(np.float32)
    return scale_to_mean(image, mask, name)[0]


class KeptPairs:
    """Pairs from a memory-mapped file; beyond its end, it starts again.

    Parameters
    ----------
    path : Path
        ``(N, 2 C + 1, X, Y, Z)`` float16: source, target, mask. Beside it, names and the
        template's channels.
    """

    def __init__(self, path: Path) -> None:
        self.images = np.load(path, mmap_mode="r")
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as rest:
            self.names, self.template = rest["names"].tolist(), rest["template"]

    def __len__(self) -> int:
        """Return the number of different pairs."""
        return len(self.images)

    def pair(self, index: int) -> ContrastPair:
        """Return pair number `index`."""
        number = index % len(self)
        n = len(CONTRASTS)
        images = self.images[number].astype(np.float32)
        return ContrastPair(
            images[:n],
            images[n : 2 * n],
            images[-1] > 0.5,
            self.template,
            self.names[number],
            SOURCES,
            frozenset(TARGETS),
        )


def keep(make: Callable[[], PairSource], indices: range, path: Path) -> KeptPairs:
    """Make pairs and keep them, unless that was done before."""
    if not path.exists():
        pairs = make()
        made = [pairs.pair(index) for index in indices]
        rows = [np.concatenate([p.source, p.target, p.mask[None]]).astype(np.float16) for p in made]
        np.savez(path.with_suffix(".npz"), names=[p.name for p in made], template=made[0].template)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, np.stack(rows))
        os.replace(partial, path)
    return KeptPairs(path)


def table_people(
    labels: Path | None, cache: Path, *, is_reduced: bool, n_train: int, n_validation: int, n_test: int
) -> People:
    """Return people by split; heads that are tested are never trained on.

    Parameters
    ----------
    labels : Path, optional
        Label maps; without them all people are variations of one head, and held-out figures say little.
    cache : Path
        Keeps heads and pairs.
    is_reduced : bool
        6 mm instead of 3 mm.
    n_train : int
        People to train on, if reduced.
    n_validation, n_test : int
        People of the held-out heads.

    Returns
    -------
    People
        Their training stream repeats after `n_train` people if reduced, and is endless otherwise.
    """
    names = [path.name.removesuffix(".nii.gz") for path in sorted(labels.glob("*.nii.gz"))] if labels else []
    split = split_subjects(names, SEED, N_HEADS["validation"], N_HEADS["test"]) if names else None
    # Late: heads take gigabytes and are not needed once all pairs are kept.
    streams = cache_call(lambda: load_phantoms(labels, cache, SEED, split=split))
    key = hashlib.sha256(f"{VERSION} {SEED} {split} {is_reduced}".encode()).hexdigest()[:10]
    kept: dict[str, PairSource] = {}
    for part, n in {"train": n_train, "validation": n_validation, "test": n_test}.items():

        def make(part: str = part) -> PairSource:
            pairs: PairSource = getattr(streams(), part)
            return CoarsePairs(pairs) if is_reduced else pairs

        is_kept = is_reduced or part != "train"
        kept[part] = keep(make, range(n), cache / f"pairs-{part}-{n}-{key}.npy") if is_kept else make()
    template = load_template(get_template(cache), REDUCED_GRID if is_reduced else MODEL_GRID)
    return People(
        split or streams().split,
        **kept,
        template=template,
        atlas_indices=range(min(N_ATLAS, n_train)),
        n_validation=n_validation,
    )


def table_window(*, is_reduced: bool) -> Window:
    """Return what the networks see."""
    return REDUCED_WINDOW if is_reduced else DEFAULT_WINDOW


def _blocks(images: np.ndarray) -> np.ndarray:
    """Average blocks of 2 x 2 x 2 voxels of the last three axes."""
    *lead, x, y, z = images.shape
    return images.reshape(*lead, x // 2, 2, y // 2, 2, z // 2, 2).mean((-5, -3, -1))
