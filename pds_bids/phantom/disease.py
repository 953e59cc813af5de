"""What age and disease change in a person: function, microstructure and volume, coupled by one severity."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import Grid, resample
from pds_bids.phantom.demographics import Diagnosis, Traits, aging
from pds_bids.phantom.parcels import NETWORKS, Parcellation, region
from pds_bids.phantom.tissue import LATENTS, Latent
from pds_bids.seeds import derive_seed

__all__ = ["EFFECT_SIZES", "SEVERITY", "SITES", "Effects", "draw_effects", "healthy_effects", "no_effects"]

#: How much of the full effect each region takes, both sides alike. The rest of the brain takes none.
SITES: dict[str, float] = {
    "Precuneus": 1.0,
    "Cingulate_Post": 1.0,
    "Hippocampus": 1.0,
    "ParaHippocampal": 0.9,
    "Amygdala": 0.7,
    "Angular": 0.7,
    "Temporal_Mid": 0.6,
    "Temporal_Inf": 0.6,
    "Temporal_Pole_Mid": 0.5,
    "Temporal_Pole_Sup": 0.4,
    "Parietal_Inf": 0.4,
    "Fusiform": 0.4,
}

#: Mean and standard deviation between people of the severity of each group, and its limits.
SEVERITY: dict[Diagnosis, tuple[float, float, float, float]] = {
    Diagnosis.NC: (0.0, 0.0, 0.0, 0.0),
    Diagnosis.MCI: (0.5, 0.2, 0.1, 0.9),
    Diagnosis.AD: (1.0, 0.2, 0.6, 1.5),
}

#: What a severity of 1 does where a site takes all of it. Latent fields are in their own units, the others
#: are relative changes, but `ventricle_mm`.
EFFECT_SIZES: dict[str, float] = {
    "iron": 0.5,
    "myelin": -0.5,
    "water": 1.1,
    "level": -0.05,
    "amplitude": -0.3,
    "coupling default": -0.4,
    "coupling limbic": -0.3,
    "hippocampus": 0.2,
    "cortex": 0.06,
    "ventricle_mm": 1.0,
}
# Correlation of the fluctuations of two parcels of a network in health, in the order of NETWORKS.
_COUPLING = (0.0, 0.55, 0.6, 0.6, 0.45, 0.45, 0.45, 0.5, 0.4, 0.45)

# Differences between people who are equally ill, or healthy: standard deviations.
_SITE_SD, _LEVEL_SD, _AMPLITUDE_SD, _COUPLING_SD = 0.2, 0.015, 0.12, 0.05
_HIPPOCAMPUS_SD, _CORTEX_SD, _VENTRICLE_SD_MM = 0.06, 0.02, 0.25
# Limits that keep an anatomy possible.
_MAX_VENTRICLE_MM, _MAX_HIPPOCAMPUS, _MAX_CORTEX = 2.6, 0.5, 0.25
# White matter is affected up to about so far below an affected parcel.
_REACH_MM, _BLUR_MM = 8.0, 4.0
_STEP_MM = 4.0


@dataclass(frozen=True, eq=False)
class Effects:
    """What differs from a young, healthy person; see `no_effects`.

    Parameters
    ----------
    grid : Grid
        Lattice of `latents` in template space; they are continued from its border.
    latents : ndarray
        ``(X, Y, Z, 5)`` float32, added to the latent fields; the order of
        :class:`~pds_bids.phantom.tissue.Latent`.
    ventricle_mm : float
        Outward shift of the walls of the ventricles.
    hippocampus, cortex : float
        Share of limbic and cortical tissue turned into fluid.
    parcels : ndarray
        ``(X, Y, Z)`` int32 on `parcel_grid`, parcels 1 to P, 0 none.
    parcel_grid : Grid
        Lattice in template space.
    level, amplitude : ndarray
        ``(P + 1,)`` float32, multiply the mean BOLD signal and the amplitude of the fluctuations of a
        parcel's grey matter; 1 is normal.
    network : ndarray
        ``(P + 1,)`` int, network of each parcel, 0 none.
    coupling : ndarray
        ``(n_networks + 1,)`` float32, correlation of the fluctuations of two parcels of a network: the
        share of their variance that the network shares.
    severity : float
        0 healthy, 1 the mean of AD.
    names : tuple of str
        ``P + 1`` names of the parcels.
    """

    grid: Grid
    latents: np.ndarray
    ventricle_mm: float
    hippocampus: float
    cortex: float
    parcels: np.ndarray
    parcel_grid: Grid
    level: np.ndarray
    amplitude: np.ndarray
    network: np.ndarray
    coupling: np.ndarray
    severity: float = 0.0
    names: tuple[str, ...] = ("none",)


def no_effects() -> Effects:
    """Return effects that change nothing, without parcels."""
    grid = Grid((2, 2, 2), np.diag([100.0, 100.0, 100.0, 1.0]))
    ones = np.ones(1, np.float32)
    return Effects(
        grid=grid,
        latents=np.zeros((2, 2, 2, len(LATENTS)), np.float32),
        ventricle_mm=0.0,
        hippocampus=0.0,
        cortex=0.0,
        parcels=np.zeros((2, 2, 2), np.int32),
        parcel_grid=grid,
        level=ones,
        amplitude=ones,
        network=np.zeros(1, int),
        coupling=np.zeros(1, np.float32),
    )


def healthy_effects(atlas: Parcellation) -> Effects:
    """Return effects that change nothing, with the parcels and networks of an atlas."""
    ones = np.ones(len(atlas.names), np.float32)
    return replace(
        no_effects(),
        parcels=atlas.parcels,
        parcel_grid=atlas.grid,
        level=ones,
        amplitude=ones,
        network=atlas.network,
        coupling=np.array(_COUPLING, np.float32),
        names=atlas.names,
    )


def draw_effects(seed: int, traits: Traits, atlas: Parcellation) -> Effects:
    """Draw what age and disease have done to one person.

    One severity per person and one deviation from it per parcel drive function and structure alike.

    Parameters
    ----------
    seed : int
        Of the person.
    traits : Traits
        Diagnosis and age.
    atlas : Parcellation
        Where things are.

    Returns
    -------
    Effects
    """
    severity = _severity(seed, traits.diagnosis)
    load = severity * np.array([SITES.get(region(name), 0.0) for name in atlas.names])
    load *= np.exp(_SITE_SD * _normal(seed, "sites", len(load)))
    aged = aging(traits.age_years)
    size = EFFECT_SIZES
    grid, latents = _spread(atlas, load)
    latents += aged.latents
    level = 1 + size["level"] * load + _LEVEL_SD * _normal(seed, "level", len(load))
    amplitude = (1 + size["amplitude"] * load) * np.exp(_AMPLITUDE_SD * _normal(seed, "amplitude", len(load)))
    own = _normal(seed, "atrophy", 3)
    return Effects(
        grid=grid,
        latents=latents,
        ventricle_mm=float(
            np.clip(
                aged.ventricle_mm + size["ventricle_mm"] * severity + _VENTRICLE_SD_MM * own[0],
                -0.5,
                _MAX_VENTRICLE_MM,
            )
        ),
        hippocampus=_lost(
            aged.hippocampus, size["hippocampus"] * severity, _HIPPOCAMPUS_SD * own[1], _MAX_HIPPOCAMPUS
        ),
        cortex=_lost(aged.cortex, size["cortex"] * severity, _CORTEX_SD * own[2], _MAX_CORTEX),
        parcels=atlas.parcels,
        parcel_grid=atlas.grid,
        level=np.maximum(level, 0.5).astype(np.float32),
        amplitude=np.maximum(amplitude, 0.05).astype(np.float32),
        network=atlas.network,
        coupling=_coupling(seed, severity),
        severity=severity,
        names=atlas.names,
    )


def _normal(seed: int, what: str, count: int) -> np.ndarray:
    """Draw standard normal numbers by name."""
    return np.random.default_rng(derive_seed(seed, "effects", what)).standard_normal(count)


def _severity(seed: int, diagnosis: Diagnosis) -> float:
    """Draw how ill somebody is."""
    mean, sd, low, high = SEVERITY[diagnosis]
    return float(np.clip(mean + sd * _normal(seed, "severity", 1)[0], low, high))


def _lost(age: float, disease: float, own: float, most: float) -> float:
    """Combine the shares of a tissue that age and disease leave; what a person has by nature adds to both."""
    return float(np.clip(1 - (1 - age) * (1 - disease) + own, 0, most))


def _coupling(seed: int, severity: float) -> np.ndarray:
    """Return the correlation within each network."""
    coupling = np.array(_COUPLING)
    for network in ("default", "limbic"):
        coupling[NETWORKS.index(network)] *= 1 + EFFECT_SIZES[f"coupling {network}"] * severity
    coupling[1:] += _COUPLING_SD * _normal(seed, "coupling", len(coupling) - 1)
    return np.clip(coupling, 0, 0.95).astype(np.float32)


def _spread(atlas: Parcellation, load: np.ndarray) -> tuple[Grid, np.ndarray]:
    """Paint the load of the parcels into and below them, as shifts of the latent fields."""
    extent = np.array(atlas.grid.shape) * atlas.grid.zooms
    shape = np.ceil(extent / _STEP_MM).astype(int)
    vox2ras = np.diag([_STEP_MM, _STEP_MM, _STEP_MM, 1.0])
    vox2ras[:3, 3] = atlas.grid.vox2ras[:3, 3]
    grid = Grid((int(shape[0]), int(shape[1]), int(shape[2])), vox2ras)
    painted = load[atlas.nearest] * np.exp(-0.5 * (atlas.distance_mm / _REACH_MM) ** 2)
    smooth = ndimage.gaussian_filter(painted.astype(np.float32), _BLUR_MM / np.array(atlas.grid.zooms))
    coarse = resample(smooth, atlas.grid.vox2ras, grid.points(), order=1)
    latents = np.zeros((*grid.shape, len(LATENTS)), np.float32)
    for latent in (Latent.IRON, Latent.MYELIN, Latent.WATER):
        latents[..., latent] = EFFECT_SIZES[latent.name.lower()] * coarse
    return grid, latents
