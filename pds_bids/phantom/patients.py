"""Age and disease in the people of the training stream, on its device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pds_bids.imaging.grid import Grid
from pds_bids.imaging.tissues import Template
from pds_bids.phantom.demographics import Diagnosis, Sex, Traits
from pds_bids.phantom.disease import draw_effects
from pds_bids.phantom.parcels import parcellate
from pds_bids.phantom.sampling import look_up
from pds_bids.phantom.tissue import GREY, Tissue
from pds_bids.seeds import derive_seed

__all__ = ["Patient", "Patients", "draw_patient_traits", "thin_cortex"]

_AGES_YEARS = (50.0, 92.0)
# All cortex relative to the cortex that borders on fluid, about; and what may be lost of the latter.
_EXPOSED, _MOST_LOST = 2.5, 0.9


@dataclass(frozen=True, eq=False)
class Patient:
    """What age and disease have done to one person of the stream.

    Parameters
    ----------
    latents : Tensor
        ``(5, N)``, added to the latent fields.
    level : Tensor
        ``(N,)``, multiplies the mean BOLD signal of grey matter.
    ventricle_mm, hippocampus, cortex : float
        As in :class:`~pds_bids.phantom.disease.Effects`.
    """

    latents: Tensor
    level: Tensor
    ventricle_mm: float
    hippocampus: float
    cortex: float

    def shrink(self, fractions: Tensor) -> None:
        """Turn the lost shares of hippocampus and cortex into fluid; in place."""
        lost = self.hippocampus * fractions[:, Tissue.LIMBIC]
        fractions[:, Tissue.LIMBIC] -= lost
        fractions[:, Tissue.CSF] += lost
        thin_cortex(fractions, min(_EXPOSED * self.cortex, _MOST_LOST))

    def bold_level(self, fractions: Tensor) -> Tensor:
        """Return what multiplies the BOLD signal of voxels with these fractions, ``(N,)``."""
        grey = fractions[:, list(GREY)].sum(1) / fractions.sum(1).clamp(min=1e-3)
        return 1 + grey * (self.level - 1)


class Patients:
    """Draws patients of any diagnosis and age between 50 and 92.

    Parameters
    ----------
    template : Template
        With the atlas that says where a disease is.
    device : torch.device
        Where the results lie.
    """

    def __init__(self, template: Template, device: torch.device) -> None:
        self.device = device
        self.atlas = parcellate(template)
        self._parcels = torch.from_numpy(self.atlas.parcels.astype(np.int64).ravel()).to(device)

    def draw(self, seed: int, points: Tensor) -> Patient:
        """Draw one patient.

        Parameters
        ----------
        seed : int
            Of the person.
        points : Tensor
            ``(N, 3)`` float32, mm in template space: where the result is wanted.
        """
        effects = draw_effects(seed, draw_patient_traits(seed), self.atlas)
        table = torch.from_numpy(effects.latents.reshape(-1, effects.latents.shape[-1])).to(self.device)
        latents = look_up(table, effects.grid.shape, self._index(effects.grid, points)).T
        nx, ny, nz = self.atlas.grid.shape
        x, y, z = self._index(self.atlas.grid, points).round().long().unbind(1)
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny) & (z >= 0) & (z < nz)
        row = ((x * ny + y) * nz + z).where(inside, 0)
        parcel = self._parcels[row].where(inside, 0)
        level = torch.from_numpy(effects.level).to(self.device)[parcel]
        return Patient(latents, level, effects.ventricle_mm, effects.hippocampus, effects.cortex)

    def _index(self, grid: Grid, points: Tensor) -> Tensor:
        """Return the voxel coordinates of points."""
        ras2vox = torch.from_numpy(grid.ras2vox.astype(np.float32)).to(self.device)
        return points @ ras2vox[:3, :3].T + ras2vox[:3, 3]


def draw_patient_traits(seed: int) -> Traits:
    """Return who the patient of a seed is."""
    rng = np.random.default_rng(derive_seed(seed, "traits"))
    diagnosis = list(Diagnosis)[int(rng.integers(len(Diagnosis)))]
    return Traits(diagnosis, float(rng.uniform(*_AGES_YEARS)), Sex.FEMALE)


def thin_cortex(fractions: Tensor, share: float) -> None:
    """Turn a share of the cortex that borders on fluid into fluid, or the reverse if negative; in place."""
    cortex, fluid = fractions[:, Tissue.CORTEX], fractions[:, Tissue.CSF]
    full, near = (cortex, fluid) if share > 0 else (fluid, cortex)
    lost = share * full * (3 * near).clamp(max=1)
    fractions[:, Tissue.CORTEX] -= lost
    fractions[:, Tissue.CSF] += lost
