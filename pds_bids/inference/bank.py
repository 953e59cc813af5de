"""A bank of simulated people: raw material of the baselines that every model is compared with."""

from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import WeightsError
from pds_bids.modalities import CONTRASTS

__all__ = ["Bank"]

LEVELS = 255


@dataclass(frozen=True, eq=False)
class Bank:
    """Simulated pairs of training people, in the voxels of one brain mask on the model grid.

    Parameters
    ----------
    mask : ndarray
        ``(X, Y, Z)`` bool.
    source, target : ndarray
        ``(n, 3, V)`` uint8, as an acquisition would give and noise-free canonical; `unit` is the value of 1.
    unit : ndarray
        ``(3,)`` float32 per contrast: ``source * unit`` is in units of the in-brain mean.
    atlas : ndarray
        ``(3, V)`` float16, mean of the target over many more people.
    """

    mask: np.ndarray
    source: np.ndarray
    target: np.ndarray
    unit: np.ndarray
    atlas: np.ndarray

    @classmethod
    def from_images(
        cls, mask: np.ndarray, source: np.ndarray, target: np.ndarray, atlas: np.ndarray
    ) -> "Bank":
        """Compress images.

        Parameters
        ----------
        mask : ndarray
            ``(X, Y, Z)`` bool.
        source, target : ndarray
            ``(n, 3, X, Y, Z)``, units of the in-brain mean.
        atlas : ndarray
            ``(3, X, Y, Z)``.

        Returns
        -------
        Bank
            What lies above the 99.95th percentile of a contrast is cut.
        """
        values = [images[..., mask] for images in (source, target)]
        unit = np.percentile(np.concatenate(values), 99.95, axis=(0, 2)) / LEVELS
        packed = [np.clip(np.rint(v / unit[:, None]), 0, LEVELS).astype(np.uint8) for v in values]
        return cls(mask, packed[0], packed[1], unit.astype(np.float32), atlas[:, mask].astype(np.float16))

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
            bank = cls(mask, *(tensors[name] for name in ("source", "target", "unit", "atlas")))
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"bank of baselines is incomplete: {error}; install the package again"
            ) from error
        tail = (len(CONTRASTS), int(mask.sum()))
        if (
            bank.source.shape != bank.target.shape
            or bank.source.shape[1:] != tail
            or bank.atlas.shape != tail
        ):
            raise WeightsError(f"bank of baselines: arrays do not fit the mask of {tail[1]} voxels")
        return bank

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return arrays that fit a safetensors file."""
        return {
            "shape": np.array(self.mask.shape, np.int64),
            "mask": np.packbits(self.mask),
            "source": self.source,
            "target": self.target,
            "unit": self.unit,
            "atlas": self.atlas,
        }

    def volume(self, values: np.ndarray) -> np.ndarray:
        """Put ``(..., V)`` values back into ``(..., X, Y, Z)`` float32, zeros outside the mask."""
        full = np.zeros((*values.shape[:-1], *self.mask.shape), np.float32)
        full[..., self.mask] = values
        return full
