"""One subject: arrays on the model grid, weights and seeds in; synthetic arrays and their uncertainty out."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pds_bids.exceptions import DataError, DeviceError, GeometryError
from pds_bids.imaging.grid import Grid
from pds_bids.inference.bundle import Bundle
from pds_bids.inference.deviation import largest_deviation, norm_of
from pds_bids.inference.familiarity import describe_places, describe_source, find_oddities, widened_by
from pds_bids.inference.prepare import scale_template, scale_to_mean
from pds_bids.methods import Condition
from pds_bids.modalities import ANATOMY, CONTRASTS, MAP_UNITS, Contrast, Direction
from pds_bids.models.unet import TEMPLATE_CHANNELS

__all__ = ["Synthesis", "choose_device", "synthesize"]

LOGGER = logging.getLogger("pds_bids.inference")
# Fewer people do not say what is usual where.
FEWEST_PEOPLE = 8
# More volumes at once are not faster on a CPU and need more memory.
BATCH_SIZE = 2


@dataclass(frozen=True, eq=False)
class Synthesis:
    """Synthetic images of one subject in one direction.

    Parameters
    ----------
    mean, std : dict of Contrast to ndarray
        ``(X, Y, Z, N)`` float32 on the model grid, zero outside the mask; units of the in-brain mean, FA
        without unit, MD in mm^2/s. The mean is not negative.
    source_scale : dict of Contrast to list of float
        In-brain mean of each source volume, which was divided out.
    source_figures : dict of Contrast to dict
        What `describe_source`, `describe_places` and `largest_deviation` say of the first volume.
    warnings : tuple of str
        How the source differs from what the model has seen.
    std_factor : float
        What the standard deviations were multiplied by for that.
    """

    mean: dict[Contrast, np.ndarray]
    std: dict[Contrast, np.ndarray]
    source_scale: dict[Contrast, list[float]]
    source_figures: dict[Contrast, dict[str, float]]
    warnings: tuple[str, ...]
    std_factor: float


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device.

    Raises
    ------
    DeviceError
        If a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise DeviceError("device cuda was asked for, but PyTorch sees no GPU; use auto or cpu")
    return torch.device("cuda" if has_gpu and name in ("auto", "cuda") else "cpu")


def synthesize(
    source: Mapping[Contrast, np.ndarray],
    mask: np.ndarray,
    template: np.ndarray,
    grid: Grid,
    bundle: Bundle,
    *,
    direction: Direction,
    seeds: Sequence[int],
) -> Synthesis:
    """Synthesise every volume of a source.

    Parameters
    ----------
    source : mapping of Contrast to ndarray
        ``(X, Y, Z, N)``: overall mean, then segments; N4-corrected, any unit. One or more contrasts of the
        direction's source, and where there is one the anatomy, the same for all volumes.
    mask : ndarray
        ``(X, Y, Z)`` bool, brain of the subject on the model grid.
    template : ndarray
        ``(X, Y, Z, 4)``: grey matter, white matter, cerebrospinal fluid, T1w of the template.
    grid : Grid
        Of all arrays; must be the grid of the bundle.
    bundle : Bundle
        Trained method; its device decides where to run.
    direction : Direction
        What is synthesised.
    seeds : sequence of int
        One per volume; an image depends on its own seed only.

    Returns
    -------
    Synthesis
        The contrasts of the direction's target.

    Raises
    ------
    GeometryError
        If a grid or shape differs.
    DataError
        If a source is missing, empty or not finite, or the mask leaves the window of the network empty.
    """
    n_volumes = len(seeds)
    check_inputs(source, mask, template, grid, bundle, direction, n_volumes)
    inside = bundle.window.crop(mask.astype(bool))
    n_cut = int(mask.astype(bool).sum() - inside.sum())
    if n_cut:
        LOGGER.warning("%d brain voxels lie outside the network's window and stay empty", n_cut)
    images, scales = _prepare(source, inside, bundle, n_volumes)
    channels = bundle.window.crop(np.moveaxis(template, -1, 0))
    common = {"template": scale_template(channels, inside), "mask": inside[None]}
    figures = _describe(source, images[0], inside, np.nan_to_num(channels), bundle)
    ranges = bundle.card.get("source_ranges", {})
    oddities, factor = find_oddities(figures, ranges), widened_by(figures, ranges)
    for oddity in oddities:
        LOGGER.warning("%s", oddity)
    present = np.array([contrast in source for contrast in CONTRASTS])
    mean, std = (
        {c: np.zeros((*grid.shape, n_volumes), np.float32) for c in direction.targets} for _ in range(2)
    )
    for start in range(0, n_volumes, BATCH_SIZE):
        chunk = slice(start, min(start + BATCH_SIZE, n_volumes))
        condition = _condition(images[chunk], present, common, direction)
        generators = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds[chunk]]
        device = next(bundle.method.parameters()).device
        result = bundle.method.sample(condition.to(device), generators)
        for contrast in direction.targets:
            channel, unit = CONTRASTS.index(contrast), MAP_UNITS.get(contrast, 1.0)
            for volumes, tensor in ((mean, result.mean), (std, factor * result.std)):
                values = tensor[:, channel].float().clamp_min(0).cpu().numpy()
                pasted = bundle.window.paste(unit * values * inside, grid)
                volumes[contrast][..., chunk] = np.moveaxis(pasted, 0, -1)
    return Synthesis(mean, std, scales, figures, tuple(oddities), factor)


def check_inputs(
    source: Mapping[Contrast, np.ndarray],
    mask: np.ndarray,
    template: np.ndarray,
    grid: Grid,
    bundle: Bundle,
    direction: Direction,
    n_volumes: int,
) -> None:
    """Raise `DataError` or `GeometryError` for inputs of `synthesize` that do not fit together."""
    if grid != bundle.grid:
        raise GeometryError(f"inputs lie on a grid of {grid.shape}, the model works on {bundle.grid.shape}")
    if not set(source) - {ANATOMY} or not set(source) <= set(direction.sources):
        acquired = [str(contrast) for contrast in direction.sources if contrast != ANATOMY]
        raise DataError(
            f"{direction}: got sources {sorted(source)}, expected some of {acquired}, {ANATOMY} optional"
        )
    if not n_volumes:
        raise DataError(f"{direction}: no volume to synthesise from")
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        f"source {name}": (image.shape, (*grid.shape, n_volumes)) for name, image in source.items()
    }
    shapes["mask"] = (mask.shape, grid.shape)
    shapes["template"] = (template.shape, (*grid.shape, TEMPLATE_CHANNELS))
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise GeometryError(f"{name}: shape {found}, expected {expected}")
    if not bundle.window.crop(mask).any():
        raise DataError("the brain mask is empty on the model grid; check the registration")


def _prepare(
    source: Mapping[Contrast, np.ndarray], inside: np.ndarray, bundle: Bundle, n_volumes: int
) -> tuple[np.ndarray, dict[Contrast, list[float]]]:
    """Return ``(N, C, D, H, W)`` scaled sources in the window, and the scales."""
    images = np.zeros((n_volumes, len(CONTRASTS), *bundle.window.shape), np.float32)
    scales: dict[Contrast, list[float]] = {}
    for contrast, volumes in source.items():
        scales[contrast] = []
        for index in range(n_volumes):
            cropped = bundle.window.crop(volumes[..., index])
            image, scale = scale_to_mean(cropped, inside, f"source {contrast}, volume {index}")
            images[index, CONTRASTS.index(contrast)] = image
            scales[contrast].append(scale)
    return images, scales


def _describe(
    source: Iterable[Contrast], images: np.ndarray, inside: np.ndarray, channels: np.ndarray, bundle: Bundle
) -> dict[Contrast, dict[str, float]]:
    """Measure the sources of one volume, ``(C, X, Y, Z)`` in the window, given the template's channels."""
    template = scale_template(channels, inside)
    grid = bundle.grid.crop(bundle.window.start, bundle.window.shape)
    figures = {}
    for contrast in source:
        image = images[CONTRASTS.index(contrast)]
        figures[contrast] = describe_source(image, inside, template)
        figures[contrast] |= describe_places(image, inside, template, grid)
        people = bundle.people(contrast)
        if len(people) >= FEWEST_PEOPLE:
            norm = norm_of(people, channels)
            figures[contrast]["deviation"] = largest_deviation(image, inside, channels, norm)
    return figures


def _condition(
    images: np.ndarray, present: np.ndarray, common: dict[str, np.ndarray], direction: Direction
) -> Condition:
    """Stack the sources of some volumes with what they share."""
    n = len(images)
    shared = {
        name: torch.from_numpy(np.ascontiguousarray(array, np.float32)).expand(n, *array.shape)
        for name, array in common.items()
    }
    return Condition(
        source=torch.from_numpy(images),
        present=torch.from_numpy(present.astype(np.float32)).expand(n, -1),
        direction=torch.full((n,), direction.code),
        **shared,
    )
