"""Endless pairs of degraded source and canonical target images on the model grid, for training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.tissues import Template
from pds_bids.modalities import CONTRASTS, Contrast
from pds_bids.phantom import contrast, degrade
from pds_bids.phantom.anatomy import Anatomy
from pds_bids.phantom.fields import random_displacement, random_field
from pds_bids.phantom.sampling import AnatomySampler
from pds_bids.phantom.susceptibility import dropout
from pds_bids.phantom.tissue import LATENTS, Latent, Tissue, TissueProperties, draw_tissue
from pds_bids.seeds import derive_seed

__all__ = ["Pair", "PairStream", "template_channels"]

# Point spread of the canonical target (sigma, mm), about that of a 3 mm EPI.
_TARGET_BLUR_MM = 1.4
# Canonical strength of the susceptibility field relative to solid pockets of air, and slice thickness.
_TARGET_DROPOUT, _TARGET_SLICE_MM = 0.55, 3.0


@dataclass(frozen=True, eq=False)
class Pair:
    """One simulated person: what a scanner would have given, and what is to be predicted.

    Parameters
    ----------
    source, target : ndarray
        ``(3, X, Y, Z)`` float32 in the order of :class:`~pds_bids.modalities.Contrast`, in-brain mean 1, zero
        outside the mask.
    mask : ndarray
        ``(X, Y, Z)`` bool, a brain mask with small errors.
    template : ndarray
        ``(4, X, Y, Z)`` float32, see `template_channels`; the same array for every pair.
    name : str
        The anatomy.
    """

    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    template: np.ndarray
    name: str


def template_channels(template: Template) -> np.ndarray:
    """Return the template as network input.

    Parameters
    ----------
    template : Template
        On any grid.

    Returns
    -------
    ndarray
        ``(4, X, Y, Z)`` float32: grey matter, white matter, fluid, T1w divided by its in-brain mean; zero
        outside the template's brain mask.
    """
    t1w = template.t1w / template.t1w[template.mask].mean()
    maps = np.stack([template.gm, template.wm, template.csf, t1w]).astype(np.float32)
    return maps * template.mask


class PairStream:
    """Random access to simulated pairs: the same index gives the same bits.

    Parameters
    ----------
    anatomies : sequence of Anatomy
        Heads to draw from.
    seed : int
        Master seed.
    template : Template
        On the grid of the pairs.
    random_contrast : float
        Share of pairs whose source has arbitrary intensities.

    Raises
    ------
    DataError
        If there is no anatomy.
    GeometryError
        If the template's grid is not isotropic and axis-aligned.
    """

    def __init__(
        self, anatomies: Sequence[Anatomy], seed: int, *, template: Template, random_contrast: float = 0.08
    ) -> None:
        if not anatomies:
            raise DataError("no anatomies to draw from")
        grid = template.grid
        if not np.allclose(grid.vox2ras[:3, :3], np.eye(3) * grid.zooms[0], atol=1e-4):
            raise GeometryError(f"template grid of voxels {grid.zooms}: expected isotropic, RAS-aligned")
        self.grid = grid
        self.seed = seed
        self.random_contrast = random_contrast
        self.template = template_channels(template)
        # All work is done in the voxels near the brain, on a grid cropped to them.
        near = ndimage.binary_dilation(template.mask, iterations=max(1, round(6 / grid.zooms[0])))
        margin = 2
        self._box = tuple(
            slice(max(0, int(i.min()) - margin), int(i.max()) + margin + 1) for i in np.nonzero(near)
        )
        self._near = near[self._box]
        start = tuple(int(s.start) for s in self._box)
        shape = tuple(int(n) for n in self._near.shape)
        self._crop = grid.crop((start[0], start[1], start[2]), (shape[0], shape[1], shape[2]))
        self._points = self._crop.points()[self._near].astype(np.float32)
        self._template_mask = ndimage.gaussian_filter(template.mask.astype(np.float32), 0.6)[self._box][
            self._near
        ]
        low, high = self._points.min(0) - 14, self._points.max(0) + 14
        # Mirrored people must fit, too.
        low[0], high[0] = min(low[0], -high[0]), max(high[0], -low[0])
        self._samplers = [AnatomySampler(anatomy, low, high) for anatomy in anatomies]

    def __len__(self) -> int:
        """Return the number of anatomies."""
        return len(self._samplers)

    def pair(self, index: int) -> Pair:
        """Simulate one pair.

        Parameters
        ----------
        index : int
            Which one; any non-negative number.

        Returns
        -------
        Pair
            New arrays, except for the shared template.
        """
        rng = np.random.default_rng(derive_seed(self.seed, "pair", index))
        sampler = self._samplers[int(rng.integers(len(self._samplers)))]
        fractions, maps = self._person(rng, sampler)
        tissue = draw_tissue(rng, spread=1.2)
        latents = self._latents(rng, maps)
        plan = degrade.draw_acquisition(rng, self.random_contrast)
        source, target = self._images(tissue, plan, fractions, latents)
        gradient = maps["gradient_hz_mm"]
        target[:, 0] *= dropout(gradient * _TARGET_DROPOUT, contrast.CANONICAL_BOLD.te_ms, _TARGET_SLICE_MM)
        source[:, 0] *= dropout(gradient * plan.field_strength, plan.bold.te_ms, plan.slice_mm)
        mask = self._mask(rng, maps["brain"])
        target = self._blur(target, _TARGET_BLUR_MM)[self._near]
        source = self._acquire(rng, plan, source, maps["field_hz"], mask)
        return Pair(
            self._finish(source, mask),
            self._finish(target, mask),
            self._full(mask),
            self.template,
            sampler.name,
        )

    def _person(
        self, rng: np.random.Generator, sampler: AnatomySampler
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Deform, mirror and age one head; return fractions and maps at the points near the brain."""
        points = self._points.copy()
        if rng.random() < 0.5:
            points[:, 0] *= -1
        centre = np.array([0, -18, 8], np.float32)
        linear = np.eye(3) + np.diag(rng.normal(0, 0.025, 3)) + rng.normal(0, 0.012, (3, 3))
        points = (
            (points - centre) @ linear.T.astype(np.float32)
            + centre
            + rng.normal(0, 0.8, 3).astype(np.float32)
        )
        shape, zooms = self._crop.shape, self._crop.zooms
        for sd_mm, spacing_mm in ((rng.uniform(0.5, 2.2), 40.0), (rng.uniform(0.2, 0.9), 16.0)):
            shift = random_displacement(rng, shape, zooms, sd_mm=sd_mm, spacing_mm=spacing_mm)
            points += shift[self._near]
        atrophy = rng.beta(1.2, 2.0)
        points = sampler.follow(points, rng.uniform(0.3, 1.0), 3.0 * atrophy - 0.8)
        fractions, maps = sampler.at(points)
        _thin_cortex(fractions, rng.uniform(-0.35, 0.1) + 0.25 * atrophy)
        return fractions, maps

    def _latents(self, rng: np.random.Generator, maps: dict[str, np.ndarray]) -> np.ndarray:
        """Draw the latent fields at the points near the brain, ``(N, 6)`` float32; the first column is 1."""
        fields = np.ones((len(self._points), 1 + len(LATENTS)), np.float32)
        shape, zooms = self._crop.shape, self._crop.zooms
        broad = random_field(rng, shape, zooms, 45.0, 3)
        fine = random_field(rng, shape, zooms, 12.0, 4)
        for latent in (Latent.IRON, Latent.MYELIN, Latent.WATER):
            mean = rng.normal(0, 0.5)
            fields[:, 1 + latent] = mean + (0.6 * broad[latent] + 0.7 * fine[latent])[self._near]
        coherence = rng.uniform(0.8, 1.3)
        fields[:, 1 + Latent.TRACT] = coherence * maps["tract"] + 0.25 * fine[3][self._near]
        fields[:, 1 + Latent.NUCLEUS] = rng.uniform(0.6, 1.4) * maps["nuclei"]
        return fields

    def _images(
        self, tissue: TissueProperties, plan: degrade.Acquisition, fractions: np.ndarray, latents: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the undistorted source and target at the points near the brain, ``(N, 3)`` each."""
        tables = [
            contrast.linearise(signal, tissue)
            for bold, dwi in ((plan.bold, plan.dwi), (contrast.CANONICAL_BOLD, contrast.CANONICAL_DWI))
            for signal in contrast.signals(bold, dwi)
        ]
        for contrast_index, levels in plan.arbitrary.items():
            tables[contrast_index] = np.zeros_like(tables[contrast_index])
            tables[contrast_index][:, 0] = levels
        weights = np.concatenate(tables, 1)  # (16, 6 images * 6 terms)
        terms = (fractions @ weights).reshape(len(fractions), 2 * len(CONTRASTS), -1)
        images = np.maximum(np.einsum("nit,nt->ni", terms, latents), 0)
        return images[:, : len(CONTRASTS)], images[:, len(CONTRASTS) :]

    def _mask(self, rng: np.random.Generator, brain: np.ndarray) -> np.ndarray:
        """Return a brain mask with small errors at the points near the brain."""
        share = rng.uniform(0.2, 0.8)
        wobble = random_field(rng, self._crop.shape, self._crop.zooms, 15.0)[0][self._near]
        return share * self._template_mask + (1 - share) * brain + 0.05 * wobble > rng.uniform(0.4, 0.6)

    def _acquire(
        self,
        rng: np.random.Generator,
        plan: degrade.Acquisition,
        images: np.ndarray,
        field_hz: np.ndarray,
        mask: np.ndarray,
    ) -> np.ndarray:
        """Blur, displace, shade and add noise, ``(N, 3)``."""
        field = self._scatter(field_hz[:, None])[..., 0]
        acquired = np.empty_like(images)
        groups = {"bold": (Contrast.BOLD,), "dwi": (Contrast.DWI, Contrast.B0)}
        for name, members in groups.items():
            channels = [CONTRASTS.index(member) for member in members]
            settings = plan.degradations[name]
            blurred = self._blur(images[:, channels], settings.blur_mm)
            moved = degrade.displace(rng, blurred, field, self._crop, self._near, settings)
            shading = degrade.shading(rng, self._crop, settings.bias_sd, len(channels))[self._near]
            moved *= shading
            scale = moved[mask].mean(0)
            moved += rng.standard_normal(moved.shape, dtype=np.float32) * (settings.noise * scale)
            acquired[:, channels] = np.abs(moved)
        return acquired

    def _scatter(self, values: np.ndarray) -> np.ndarray:
        """Put ``(N, C)`` values near the brain onto the cropped grid, ``(X, Y, Z, C)``."""
        volume = np.zeros((*self._near.shape, values.shape[1]), np.float32)
        volume[self._near] = values
        return volume

    def _blur(self, values: np.ndarray, sigma_mm: float) -> np.ndarray:
        """Smooth ``(N, C)`` values near the brain; returns ``(X, Y, Z, C)``."""
        sigma = sigma_mm / self.grid.zooms[0]
        return ndimage.gaussian_filter(self._scatter(values), (sigma, sigma, sigma, 0), truncate=3.0)

    def _full(self, values: np.ndarray) -> np.ndarray:
        """Put ``(N,)`` values near the brain onto the whole grid."""
        volume = np.zeros(self.grid.shape, values.dtype)
        volume[self._box][self._near] = values
        return volume

    def _finish(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Divide by the in-brain mean, mask, and put onto the whole grid, ``(3, X, Y, Z)`` float32."""
        scaled = np.where(mask[:, None], values / values[mask].mean(0, dtype=np.float64), 0)
        return np.stack([self._full(column.astype(np.float32)) for column in scaled.T])


def _thin_cortex(fractions: np.ndarray, share: float) -> None:
    """Turn a share of the cortex that borders on fluid into fluid, or the reverse if negative; in place."""
    cortex, fluid = fractions[:, Tissue.CORTEX], fractions[:, Tissue.CSF]
    lost = share * (cortex * np.minimum(3 * fluid, 1) if share > 0 else fluid * np.minimum(3 * cortex, 1))
    fractions[:, Tissue.CORTEX] -= lost
    fractions[:, Tissue.CSF] += lost
