"""Endless pairs of degraded source and canonical target images on the model grid, for training.

Control points of smooth fields, protocols and tissues are drawn on the CPU by generators with names of their
own; everything of the size of an image is made on the stream's device.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.tissues import Template
from pds_bids.phantom import contrast, degrade
from pds_bids.phantom.anatomy import Anatomy
from pds_bids.phantom.canonical import canonical_signals, target_of, within_physics
from pds_bids.phantom.demographics import Traits
from pds_bids.phantom.fields import random_field_on
from pds_bids.phantom.pair import (
    ACQUIRED,
    PROTOCOL_NUMBERS,
    SOURCE_CHANNELS,
    TARGET_CHANNELS,
    Pair,
    template_channels,
)
from pds_bids.phantom.patients import Patient, Patients, draw_patient_traits, thin_cortex
from pds_bids.phantom.sampling import AnatomySampler
from pds_bids.phantom.tissue import LATENTS, Latent, Tissue, TissueProperties, draw_tissue
from pds_bids.seeds import derive_seed

__all__ = [
    "PROTOCOL_NUMBERS",
    "SOURCE_CHANNELS",
    "TARGET_CHANNELS",
    "Pair",
    "PairStream",
    "template_channels",
]

# Point spread of the canonical target (sigma, mm), about that of a 3 mm EPI.
_TARGET_BLUR_MM = 1.4
# Canonical strength of the susceptibility field relative to solid pockets of air, and slice thickness.
_TARGET_DROPOUT, _TARGET_SLICE_MM = 0.55, 3.0
# Registered scans end within the template's brain: their outermost 3 mm hold more fluid and dura than the
# label maps do, whose edge lies on that of the template. Points of the template are looked up this much
# farther out in the head.
_SHRINK = 1.01
# What the removal of a bias field takes for one (sigma, mm).
_BROAD_MM = 25.0
_N_ACQUIRED = len(ACQUIRED)
# An ellipsoid of the size of a brain.
_MIDDLE_MM, _HEAD_MM = np.array([0.0, -18.0, 8.0]), np.array([68.0, 87.0, 70.0])


class PairStream:
    """Random access to simulated pairs: the same index gives the same person on every device.

    On one device the bits are the same, too. Another device rounds otherwise, and draws other noise.

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
    patients : float
        Share of people with the effects of age and disease in the parcels of the template's atlas; all others
        differ in atrophy only.
    device : torch.device or str
        Where pairs are made and lie.

    Raises
    ------
    DataError
        If there is no anatomy.
    GeometryError
        If the template's grid is not isotropic and axis-aligned.
    """

    def __init__(
        self,
        anatomies: Sequence[Anatomy],
        seed: int,
        *,
        template: Template,
        random_contrast: float = 0.08,
        patients: float = 0.3,
        device: torch.device | str = "cpu",
    ) -> None:
        if not anatomies:
            raise DataError("no anatomies to draw from")
        grid = template.grid
        if not np.allclose(grid.vox2ras[:3, :3], np.eye(3) * grid.zooms[0], atol=1e-4):
            raise GeometryError(f"template grid of voxels {grid.zooms}: expected isotropic, RAS-aligned")
        self.grid = grid
        self.seed = seed
        self.random_contrast = random_contrast
        self.patients = patients
        self.device = torch.device(device)
        self.template = self._on_device(template_channels(template))
        self._clinic = Patients(template, self.device)
        # All work is done in the voxels near the brain, on a grid cropped to them.
        near = ndimage.binary_dilation(template.mask, iterations=max(1, round(6 / grid.zooms[0])))
        low = np.maximum(np.argwhere(near).min(0) - 2, 0)
        high = np.minimum(np.argwhere(near).max(0) + 3, grid.shape)
        self._box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        near = near[self._box]
        x, y, z = (int(n) for n in low)
        self._crop = grid.crop((x, y, z), near.shape)
        self._voxels = torch.from_numpy(np.argwhere(near)).to(self.device)
        self._rows = torch.from_numpy(np.flatnonzero(near)).to(self.device)
        points = self._crop.points()[near].astype(np.float32)
        self._points = self._on_device(points)
        # 1/2 in the middle of the head, -1/2 at its surface.
        self._depth = self._on_device(0.5 - (((points - _MIDDLE_MM) / _HEAD_MM) ** 2).sum(1))
        soft = ndimage.gaussian_filter(template.mask.astype(np.float32), 0.6)[self._box][near]
        self._template_mask = self._on_device(soft)
        low_mm, high_mm = points.min(0) - 14, points.max(0) + 14
        # Mirrored people must fit, too.
        low_mm[0], high_mm[0] = min(low_mm[0], -high_mm[0]), max(high_mm[0], -low_mm[0])
        self._samplers = [AnatomySampler(anatomy, low_mm, high_mm, self.device) for anatomy in anatomies]

    def __len__(self) -> int:
        """Return the number of anatomies."""
        return len(self._samplers)

    def pairs(self, indices: Sequence[int]) -> Pair:
        """Simulate several pairs, each as `pair` would.

        Parameters
        ----------
        indices : sequence of int
            Which ones.

        Returns
        -------
        Pair
            Stacked along a new first dimension, the shared template excepted.
        """
        people = [self.pair(index) for index in indices]
        return Pair(
            torch.stack([person.source for person in people]),
            torch.stack([person.target for person in people]),
            torch.stack([person.mask for person in people]),
            torch.stack([person.protocol for person in people]),
            self.template,
            ",".join(person.name for person in people),
        )

    def anatomy_of(self, index: int) -> str:
        """Return the name of the head that a person is made of."""
        return self._sampler(index).name

    def pair(self, index: int) -> Pair:
        """Simulate one pair.

        Parameters
        ----------
        index : int
            Which one; any non-negative number.

        Returns
        -------
        Pair
            New tensors, except for the shared template.
        """
        sampler = self._sampler(index)
        fractions, maps, patient = self._person(index, sampler)
        tissue = draw_tissue(self._rng(index, "tissue"), spread=1.35)
        latents = self._latents(index, maps, fractions[:, Tissue.CORTEX])
        plan = degrade.draw_acquisition(self._rng(index, "protocol"), self.random_contrast)
        if patient:
            latents[1:] += patient.latents
        images = self._images(tissue, plan, fractions, latents)
        source, target = images.tensor_split([len(SOURCE_CHANNELS)])
        if patient:
            level = patient.bold_level(fractions)
            source[0] *= level
            target[0] *= level
        gradient = maps["gradient_hz_mm"]
        target[0] *= _left(gradient * _TARGET_DROPOUT, contrast.CANONICAL_BOLD.te_ms, _TARGET_SLICE_MM)
        source[0] *= _left(gradient * plan.field_strength, plan.bold.te_ms, plan.slice_mm)
        mask = self._mask(index, maps["brain"])
        target = self._canonical(target)
        source = self._acquire(index, plan, source, maps["field_hz"], mask)
        if not plan.arbitrary:
            mask &= self._bright(index, source, mask)
        return Pair(
            self._full(_scaled(source, mask)),
            self._full(torch.cat([_scaled(target[:_N_ACQUIRED], mask), target[_N_ACQUIRED:] * mask])),
            self._full(mask[None])[0],
            self._on_device(np.array(_protocol(plan))),
            self.template,
            sampler.name,
        )

    def patient_traits(self, index: int) -> Traits:
        """Return diagnosis and age of a pair, if it is one of a patient (`patients`)."""
        return draw_patient_traits(self._patient_seed(index))

    def _patient_seed(self, index: int) -> int:
        return derive_seed(self.seed, "pair", index, "effects")

    def _rng(self, index: int, name: str) -> np.random.Generator:
        """Return the generator of one thing of one pair."""
        return np.random.default_rng(derive_seed(self.seed, "pair", index, name))

    def _on_device(self, array: np.ndarray) -> Tensor:
        """Return a float32 tensor on the stream's device."""
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device, non_blocking=True)

    def _field(self, rng: np.random.Generator, spacing_mm: float, count: int) -> Tensor:
        """Draw smooth fields at the points near the brain, ``(count, N)``."""
        shape, zooms = self._crop.shape, self._crop.zooms
        field = random_field_on(self.device, rng, shape, zooms, spacing_mm, count)
        return field.flatten(1)[:, self._rows]

    def _sampler(self, index: int) -> AnatomySampler:
        return self._samplers[int(self._rng(index, "anatomy").integers(len(self._samplers)))]

    def _person(
        self, index: int, sampler: AnatomySampler
    ) -> tuple[Tensor, dict[str, Tensor], Patient | None]:
        """Deform, mirror and age one head; return fractions, maps and illness near the brain."""
        rng = self._rng(index, "shape")
        mirror = np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1, 1])
        linear = _SHRINK * np.eye(3) + np.diag(rng.normal(0, 0.025, 3)) + rng.normal(0, 0.012, (3, 3))
        shift = _MIDDLE_MM - linear @ _MIDDLE_MM + rng.normal(0, 0.8, 3)
        points = self._points @ self._on_device((linear @ mirror).T) + self._on_device(shift)
        for sd_mm, spacing_mm in ((rng.uniform(0.5, 2.2), 40.0), (rng.uniform(0.2, 0.9), 16.0)):
            points += sd_mm * self._field(rng, spacing_mm, 3).T
        atrophy, registered, thinning = rng.beta(1.2, 2.0), rng.uniform(0.3, 1.0), rng.uniform(-0.2, 0.3)
        patient = None
        if self._rng(index, "patient").random() < self.patients:
            seed = self._patient_seed(index)
            in_template = points * self._on_device(np.diag(mirror))
            patient = self._clinic.draw(seed, in_template)
            atrophy = 0.25
        growth_mm = 3.0 * atrophy - 0.8 + (patient.ventricle_mm if patient else 0.0)
        fractions, maps = sampler.at_on(sampler.follow_on(points, registered, growth_mm))
        fractions = _sharpened(fractions, rng.uniform(0.3, 1.0))
        thin_cortex(fractions, thinning + 0.25 * atrophy)
        if patient:
            patient.shrink(fractions)
        return fractions, maps, patient

    def _latents(self, index: int, maps: dict[str, Tensor], cortex: Tensor) -> Tensor:
        """Draw the latent fields at the points near the brain, ``(6, N)`` float32; the first row is 1."""
        rng = self._rng(index, "latents")
        fields = torch.ones((1 + len(LATENTS), len(self._points)), device=self.device)
        broad, fine = self._field(rng, 45.0, 3), self._field(rng, 12.0, 4)
        # Small vessels and the layers of the cortex.
        finest = rng.uniform(0.0, 2.0) * self._field(rng, 5.0, 3)
        for latent in (Latent.IRON, Latent.MYELIN, Latent.WATER):
            fields[1 + latent] = (
                rng.normal(0, 0.5) + 0.6 * broad[latent] + 0.7 * fine[latent] + finest[latent]
            )
        # Cortex beside veins is dephased as by iron: grain as fine as the voxels, that BOLD shows.
        veins = self._rng(index, "veins")
        grain = veins.uniform(0, 2.5) * self._field(veins, self.grid.zooms[0], 1)[0]
        fields[1 + Latent.IRON] += grain * cortex
        fields[1 + Latent.TRACT] = rng.uniform(0.8, 1.3) * maps["tract"] + 0.25 * fine[3]
        fields[1 + Latent.NUCLEUS] = rng.uniform(0.6, 1.4) * maps["nuclei"]
        return fields

    def _images(
        self, tissue: TissueProperties, plan: degrade.Acquisition, fractions: Tensor, latents: Tensor
    ) -> Tensor:
        """Return undistorted images at the points near the brain, ``(9, N)``.

        Source, then `canonical_signals`.
        """
        bold, *dwi = contrast.signals(plan.bold, plan.dwi)
        flowing = contrast.inflow_factors(plan.inflow)
        signals: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
            lambda p: bold(p * flowing),
            *dwi,
            partial(contrast.t1w_signal, protocol=plan.t1w),
            *canonical_signals(),
        )
        tables = [contrast.linearise(signal, tissue) for signal in signals]
        for channel, levels in plan.arbitrary.items():
            tables[channel] = np.zeros_like(tables[channel])
            tables[channel][:, 0] = levels
        weights = self._on_device(np.stack(tables).transpose(2, 0, 1))  # terms, images, tissues
        images = weights[0] @ fractions.T
        for term, latent in zip(weights[1:], latents[1:], strict=True):
            images.addcmul_(term @ fractions.T, latent)
        return images.clamp_(min=0)

    def _canonical(self, images: Tensor) -> Tensor:
        """Blur the canonical signals; return the target, ``(5, N)``."""
        blurred = self._blur(within_physics(images), (_TARGET_BLUR_MM,) * 3)
        return target_of(blurred.flatten(1)[:, self._rows])

    def _mask(self, index: int, brain: Tensor) -> Tensor:
        """Return a brain mask at the points near the brain, with small errors and a limited field of view.

        The app's mask is that of the template where the image has signal; here the person's own brain counts,
        too, for registration is not perfect.
        """
        rng = self._rng(index, "mask")
        share, wobble = rng.uniform(0.85, 1.0), self._field(rng, 15.0, 1)[0]
        level, depth_mm, slope = rng.uniform(0.35, 0.55), rng.uniform(0, 40), np.tan(rng.normal(0, 0.15))
        mask = share * self._template_mask + (1 - share) * brain + 0.05 * wobble > level
        if rng.random() < 0.6:
            _, y, z = self._points.unbind(1)
            mask &= z > z[mask].min() + depth_mm + slope * (y + 18)
        return mask

    def _bright(self, index: int, source: Tensor, mask: Tensor) -> Tensor:
        """Return what a mask of the BOLD or b = 0 image keeps: all but dark places at the surface."""
        rng = self._rng(index, "brightness")
        channel, level = (0, 2)[int(rng.integers(2))], rng.uniform(0.0, 0.25)
        smooth = self._blur(torch.stack([source[channel], mask.float()]), (4.0, 4.0, 4.0))
        image, depth = smooth.flatten(1)[:, self._rows]
        bright = source[channel] > level * source[channel][mask].median()
        return bright | (depth > 0.85) | (image > 0.9 * source[channel][mask].median())

    def _acquire(
        self, index: int, plan: degrade.Acquisition, images: Tensor, field_hz: Tensor, mask: Tensor
    ) -> Tensor:
        """Blur, add noise, displace and shade, ``(4, N)``."""
        field = self._scatter(field_hz[None])[0]
        generator = torch.Generator(self.device).manual_seed(derive_seed(self.seed, "pair", index, "noise"))
        acquired = torch.empty_like(images)
        for name, members in degrade.GROUPS.items():
            settings, channels = plan.degradations[name], list(members)
            rng = self._rng(index, name)
            clean = images[channels]
            noise = settings.noise * clean[:, mask].mean(1).max()
            noise = noise * (settings.deep_noise * self._depth).exp()
            # Mean magnitude of a signal in complex noise, to a few percent.
            mean = (clean**2 + torch.pi / 2 * noise**2).sqrt()
            blurred = degrade.blur(self._scatter(mean), settings.sigma_mm, self.grid.zooms[0])
            white = torch.randn(blurred.shape, generator=generator, device=self.device)
            white *= self._scatter(noise[None])
            blurred += white / self._on_device(np.sqrt(settings.volumes))[:, None, None, None]
            moved = degrade.displace(rng, blurred, field, self._crop, self._voxels, settings)
            moved *= degrade.shading(rng, self._voxels, self._crop, settings.bias_sd, len(channels))
            # The bias field of a series is that of its last image: BOLD, or b = 0.
            acquired[channels] = moved.abs() / self._broad(moved[-1], mask) ** settings.flattened
        return acquired

    def _broad(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return what is broad in an image ``(N,)``, relative to its mean."""
        moments = self._blur(torch.stack([image * mask, mask.float()]), (_BROAD_MM,) * 3)
        image, weight = moments.flatten(1)[:, self._rows]
        broad = image / weight.clamp(min=1e-3)
        return (broad / broad[mask].mean()).clamp(0.5, 2)

    def _scatter(self, values: Tensor) -> Tensor:
        """Put ``(C, N)`` values near the brain onto the cropped grid, ``(C, X, Y, Z)``."""
        volume = values.new_zeros((len(values), *self._crop.shape))
        volume.flatten(1)[:, self._rows] = values
        return volume

    def _blur(self, values: Tensor, sigma_mm: tuple[float, float, float]) -> Tensor:
        """Smooth ``(C, N)`` values near the brain; returns ``(C, X, Y, Z)``."""
        volume = self._scatter(values)
        return degrade.blur(volume, np.tile(sigma_mm, (len(volume), 1)), self.grid.zooms[0])

    def _full(self, values: Tensor) -> Tensor:
        """Put ``(C, N)`` values near the brain onto the whole grid."""
        volume = values.new_zeros((len(values), *self.grid.shape))
        volume[(slice(None), *self._box)] = self._scatter(values)
        return volume


def _scaled(values: Tensor, mask: Tensor) -> Tensor:
    """Divide ``(C, N)`` by the in-brain mean and mask."""
    return values / values[:, mask].mean(1, dtype=torch.float64).float()[:, None] * mask


def _sharpened(fractions: Tensor, share: float) -> Tensor:
    """Undo some of the averaging over the anatomy's 2 mm voxels: what is much of a voxel grows."""
    squares = fractions**2
    total = fractions.sum(1, keepdim=True)
    return fractions + share * (squares * (total / squares.sum(1, keepdim=True).clamp(min=1e-6)) - fractions)


def _left(gradient_hz_mm: Tensor, te_ms: float, thickness_mm: float) -> Tensor:
    """Return what `pds_bids.phantom.susceptibility.dropout` does, of a tensor."""
    return (-((torch.pi * thickness_mm * te_ms / 1000 * gradient_hz_mm) ** 2) / 6).exp()


def _protocol(plan: degrade.Acquisition) -> tuple[float, ...]:
    """Return `PROTOCOL_NUMBERS` of an acquisition."""
    if plan.arbitrary:
        return (0.0,) * len(PROTOCOL_NUMBERS)
    bold, dwi = plan.bold, plan.dwi
    return (bold.tr_s, bold.te_ms, bold.flip_deg, dwi.tr_s, dwi.te_ms, dwi.bval_s_mm2, bold.field_t)
