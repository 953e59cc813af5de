"""Fast look-up of anatomies at scattered points."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import apply_affine
from pds_bids.phantom.anatomy import Anatomy
from pds_bids.phantom.susceptibility import field_gradient
from pds_bids.phantom.tissue import N_TISSUES, Tissue

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["MAPS", "AnatomySampler", "gather", "look_up"]

_VENTRICLE_BLUR_MM = 4.0
#: What an anatomy says about a point beside its tissues.
MAPS = ("field_hz", "gradient_hz_mm", "tract", "nuclei", "brain")


def look_up(table: "Tensor", shape: tuple[int, int, int], index: "Tensor") -> "Tensor":
    """Interpolate many channels linearly at scattered voxel positions, on any device.

    Parameters
    ----------
    table : Tensor
        ``(X * Y * Z, C)`` float32, contiguous, in C order of the voxels.
    shape : tuple of int
        ``(X, Y, Z)``.
    index : Tensor
        ``(N, 3)`` float32 voxel coordinates; those outside are moved to the border.

    Returns
    -------
    Tensor
        ``(N, C)`` float32.
    """
    import torch
    from torch.nn.functional import embedding_bag

    _, ny, nz = shape
    limit = index.new_tensor([n - 1.0 for n in shape])
    clipped = torch.minimum(index.clamp(min=0), limit)
    low = torch.minimum(clipped.floor(), limit - 1).clamp(min=0)
    part = clipped - low
    # A direction with one voxel has no upper neighbour; its weight is zero there.
    steps = [stride if n > 1 else 0 for stride, n in zip((ny * nz, nz, 1), shape, strict=True)]
    corners = [sum(s * bit for s, bit in zip(steps, corner, strict=True)) for corner in np.ndindex(2, 2, 2)]
    # int64: with int32 torch 2.13 takes half as long again on the CPU.
    x, y, z = low.long().unbind(1)
    columns = ((x * ny + y) * nz + z)[:, None] + torch.tensor(corners, device=index.device)
    pair = torch.stack([1 - part, part], 2)
    weights = pair[:, 0, :, None, None] * pair[:, 1, None, :, None] * pair[:, 2, None, None, :]
    return embedding_bag(columns, table, mode="sum", per_sample_weights=weights.reshape(-1, 8))


def gather(volume: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Interpolate many channels linearly at scattered voxel positions.

    Parameters
    ----------
    volume : ndarray
        ``(X, Y, Z, C)``, any real dtype.
    index : ndarray
        ``(N, 3)`` voxel coordinates; those outside are moved to the border.

    Returns
    -------
    ndarray
        ``(N, C)`` float32.

    Examples
    --------
    >>> gather(np.arange(8.0).reshape(2, 2, 2, 1), np.array([[0.5, 0, 0]]))
    array([[2.]], dtype=float32)
    """
    import torch

    x, y, z, n_channels = volume.shape
    table = np.ascontiguousarray(volume, np.float32).reshape(-1, n_channels)
    found = look_up(
        torch.from_numpy(table), (x, y, z), torch.from_numpy(np.ascontiguousarray(index, np.float32))
    )
    values: np.ndarray = found.numpy()
    return values


class AnatomySampler:
    """One anatomy, cropped to where a brain can be and laid out for `look_up`.

    Parameters
    ----------
    anatomy : Anatomy
        The head.
    low_mm, high_mm : ndarray
        ``(3,)`` corners of the region that is kept.
    device : torch.device or str
        Where it lies; `follow` and `at` need ``cpu``.
    """

    def __init__(
        self, anatomy: Anatomy, low_mm: np.ndarray, high_mm: np.ndarray, device: "torch.device | str" = "cpu"
    ) -> None:
        import torch

        grid = anatomy.grid
        start = np.clip(np.floor(apply_affine(grid.ras2vox, low_mm)), 0, None).astype(int)
        stop = np.minimum(np.ceil(apply_affine(grid.ras2vox, high_mm)).astype(int) + 1, grid.shape)
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        x, y, z = (int(n) for n in stop - start)
        self.name = anatomy.name
        self.low_mm, self.high_mm = np.asarray(low_mm, np.float32), np.asarray(high_mm, np.float32)
        self.grid = grid.crop((int(start[0]), int(start[1]), int(start[2])), (x, y, z))
        sigma = _VENTRICLE_BLUR_MM / grid.zooms[0]
        ventricle = ndimage.gaussian_filter(anatomy.fraction(Tissue.VENTRICLE), sigma)
        growth = np.stack(np.gradient(ventricle), -1)
        growth /= max(float(np.sqrt((growth**2).sum(-1)).max()), 1e-6)
        shifts = np.concatenate([anatomy.residual_mm, growth], -1)[box].astype(np.float16)
        gradient = field_gradient(anatomy.field_hz, grid.zooms[0])
        maps = (anatomy.field_hz, gradient, anatomy.tract, anatomy.nuclei, anatomy.brain)
        # float32, although the fractions are bytes: converting them in every look-up costs a fifth of a pair.
        # One table for all, so that a look-up computes its weights once.
        table = np.empty((x, y, z, N_TISSUES + len(MAPS)), np.float32)
        np.divide(anatomy.fractions[box], np.float32(255), out=table[..., :N_TISSUES])
        for column, values in enumerate(maps, N_TISSUES):
            table[..., column] = values[box]
        self._table = torch.from_numpy(table.reshape(-1, table.shape[-1])).to(device)
        self._shifts = torch.from_numpy(np.ascontiguousarray(shifts).reshape(-1, 6)).to(device)
        self._ras2vox = torch.from_numpy(self.grid.ras2vox.astype(np.float32)).to(device)

    def follow_on(self, points: "Tensor", registered: float, growth_mm: float) -> "Tensor":
        """Do what `follow` does on the sampler's device."""
        index = (points @ self._ras2vox[:3, :3].T + self._ras2vox[:3, 3]).round().long()
        nx, ny, nz = self.grid.shape
        x, y, z = index.unbind(1)
        row = (x.clamp(0, nx - 1) * ny + y.clamp(0, ny - 1)) * nz + z.clamp(0, nz - 1)
        shifts = self._shifts[row].float()
        return points + registered * shifts[:, :3] + growth_mm * shifts[:, 3:]

    def at_on(self, points: "Tensor") -> "tuple[Tensor, dict[str, Tensor]]":
        """Do what `at` does on the sampler's device."""
        index = points @ self._ras2vox[:3, :3].T + self._ras2vox[:3, 3]
        values = look_up(self._table, self.grid.shape, index)
        return values[:, :N_TISSUES], dict(zip(MAPS, values[:, N_TISSUES:].unbind(1), strict=True))

    def follow(self, points: np.ndarray, registered: float, growth_mm: float) -> np.ndarray:
        """Move template points to where the head has the same structure.

        Parameters
        ----------
        points : ndarray
            ``(N, 3)`` mm.
        registered : float
            Share of the deformable registration that is applied: 0 affine only, 1 all of it.
        growth_mm : float
            Outward shift of the walls of the ventricles.

        Returns
        -------
        ndarray
            ``(N, 3)`` float32 mm.
        """
        moved: np.ndarray = self.follow_on(_tensor(points), registered, growth_mm).numpy()
        return moved

    def at(self, points: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return fractions and maps at ``(N, 3)`` points in mm.

        Returns
        -------
        fractions : ndarray
            ``(N, 16)`` float32 in [0, 1].
        maps : dict
            `MAPS`: ``(N,)`` float32.
        """
        fractions, maps = self.at_on(_tensor(points))
        # Copies, so that neither keeps the other alive or is changed through it.
        return fractions.numpy().copy(), {name: values.numpy().copy() for name, values in maps.items()}


def _tensor(points: np.ndarray) -> "Tensor":
    """Return points as a float32 tensor that may share their memory."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(points, np.float32))
