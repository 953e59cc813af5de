"""A bank of simulated people: raw material of the baselines that every model is compared with."""

from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import WeightsError
from pds_bids.modalities import CONTRASTS, SOURCES, TARGETS, Contrast

__all__ = ["Bank"]

LEVELS = 255
ARRAYS = ("source", "target", "unit", "atlas", "has_source", "has_target")


@dataclass(frozen=True, eq=False)
class Bank:
    """Pairs of training people, in the voxels of one brain mask on the model grid.

    Parameters
    ----------
    mask : ndarray
        ``(X, Y, Z)`` bool.
    source : ndarray
        ``(n, S, V)`` uint8 in the order of `SOURCES`, as an acquisition gives them.
    target : ndarray
        ``(n, T, V)`` uint8 in the order of `TARGETS`; of simulated people noise-free and canonical.
    unit : ndarray
        ``(C,)`` float32 per contrast: what a step is worth, in the units of a network.
    atlas : ndarray
        ``(T, V)`` float16, mean of the target over many more people.
    has_source, has_target : ndarray
        ``(n, S)`` and ``(n, T)`` uint8, 1 for the images that there are.
    """

    mask: np.ndarray
    source: np.ndarray
    target: np.ndarray
    unit: np.ndarray
    atlas: np.ndarray
    has_source: np.ndarray
    has_target: np.ndarray

    @classmethod
    def from_images(
        cls,
        mask: np.ndarray,
        source: np.ndarray,
        target: np.ndarray,
        atlas: np.ndarray,
        has_source: np.ndarray | None = None,
        has_target: np.ndarray | None = None,
    ) -> "Bank":
        """Compress images.

        Parameters
        ----------
        mask : ndarray
            ``(X, Y, Z)`` bool.
        source, target : ndarray
            ``(n, C, X, Y, Z)``, in the units of a network.
        atlas : ndarray
            ``(C, X, Y, Z)``.
        has_source, has_target : ndarray, optional
            ``(n, C)`` bool; by default there is everything.

        Returns
        -------
        Bank
            What lies above the 99.95th percentile of a contrast is cut.
        """
        values = [images[..., mask] for images in (source, target)]
        unit = np.percentile(np.concatenate(values), 99.95, axis=(0, 2)) / LEVELS
        unit = np.maximum(unit, np.finfo(np.float32).tiny)
        packed = [np.clip(np.rint(v / unit[:, None]), 0, LEVELS).astype(np.uint8) for v in values]
        everything = np.ones((len(source), len(CONTRASTS)), bool)
        has = [everything if given is None else given for given in (has_source, has_target)]
        read, written = ([CONTRASTS.index(c) for c in group] for group in (SOURCES, TARGETS))
        return cls(
            mask,
            packed[0][:, read],
            packed[1][:, written],
            unit.astype(np.float32),
            atlas[written][:, mask].astype(np.float16),
            has[0][:, read].astype(np.uint8),
            has[1][:, written].astype(np.uint8),
        )

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> "Bank":
        """Undo `to_tensors`.

        Raises
        ------
        WeightsError
            If arrays are missing or do not fit together.
        """
        try:
            shape = tuple(int(n) for n in tensors["shape"])
            mask = np.unpackbits(tensors["mask"], count=int(np.prod(shape))).astype(bool).reshape(shape)
            bank = cls(mask, *(tensors[name] for name in ARRAYS))
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"bank of baselines is incomplete: {error}; install the package again"
            ) from error
        n, n_voxels = len(bank.source), int(mask.sum())
        expected = (
            (n, len(SOURCES), n_voxels),
            (n, len(TARGETS), n_voxels),
            (len(CONTRASTS),),
            (len(TARGETS), n_voxels),
            (n, len(SOURCES)),
            (n, len(TARGETS)),
        )
        if tuple(getattr(bank, name).shape for name in ARRAYS) != expected:
            raise WeightsError(f"bank of baselines: arrays do not fit the mask of {n_voxels} voxels")
        return bank

    def person(self, index: int, contrast: Contrast, *, is_source: bool) -> np.ndarray:
        """Return an image of a person in the voxels of the mask, ``(V,)`` float32."""
        images, names = (self.source, SOURCES) if is_source else (self.target, TARGETS)
        return images[index, names.index(contrast)] * self.unit[CONTRASTS.index(contrast)]

    def people_with(self, sources: tuple[Contrast, ...], targets: tuple[Contrast, ...]) -> np.ndarray:
        """Return the indices of the people who have all of some images."""
        there = self.has_source[:, [SOURCES.index(c) for c in sources]].all(1)
        return np.flatnonzero(there & self.has_target[:, [TARGETS.index(c) for c in targets]].all(1))

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return arrays that fit a safetensors file."""
        return {
            "shape": np.array(self.mask.shape, np.int64),
            "mask": np.packbits(self.mask),
            **{name: getattr(self, name) for name in ARRAYS},
        }

    def volume(self, values: np.ndarray) -> np.ndarray:
        """Put ``(..., V)`` values back into ``(..., X, Y, Z)`` float32, zeros outside the mask."""
        full = np.zeros((*values.shape[:-1], *self.mask.shape), np.float32)
        full[..., self.mask] = values
        return full
