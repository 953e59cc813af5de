"""Tissues of a virtual head and their magnetic and diffusion properties.

One draw of :class:`TissueProperties` describes one person. All contrasts of that person are computed from the
same draw and the same latent fields, which is what makes BOLD informative about diffusion MRI and back.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

__all__ = ["LATENTS", "N_TISSUES", "PROPERTIES", "Latent", "Tissue", "TissueProperties", "draw_tissue"]


class Tissue(IntEnum):
    """Tissue classes; the value is the index in every array of fractions. Air is what is left."""

    CORTEX = 0
    LIMBIC = 1  # hippocampus and amygdala
    WHITE = 2
    CSF = 3
    VENTRICLE = 4
    THALAMUS = 5
    CAUDATE = 6
    PUTAMEN = 7  # with the accumbens
    PALLIDUM = 8
    VENTRAL_DC = 9
    BRAINSTEM = 10
    CEREBELLAR_GREY = 11
    CEREBELLAR_WHITE = 12
    BONE = 13
    SOFT = 14  # scalp, muscle, mucosa, large vessels
    EYE = 15


N_TISSUES = len(Tissue)
GREY = (
    Tissue.CORTEX,
    Tissue.LIMBIC,
    Tissue.THALAMUS,
    Tissue.CAUDATE,
    Tissue.PUTAMEN,
    Tissue.PALLIDUM,
    Tissue.VENTRAL_DC,
    Tissue.CEREBELLAR_GREY,
)
WHITE = (Tissue.WHITE, Tissue.BRAINSTEM, Tissue.CEREBELLAR_WHITE)
FLUID = (Tissue.CSF, Tissue.VENTRICLE)
BRAIN = (*GREY, *WHITE, *FLUID)


class Latent(IntEnum):
    """Smooth fields, about unit variance, that move several properties of a tissue at once."""

    IRON = 0
    MYELIN = 1
    WATER = 2
    TRACT = 3  # coherence of fibres: high in the callosum and the internal capsule
    NUCLEUS = 4  # iron-rich nuclei that have no label of their own: nigra, red and dentate nucleus


LATENTS: tuple[Latent, ...] = tuple(Latent)

PROPERTIES = ("pd", "t1_ms", "t2_ms", "t2s_ms", "md_um2_ms", "fa", "kurtosis")

# Ranges (low, high) at 3 T in the order of PROPERTIES. They start from the literature (relaxation: Wansapura
# 1999,
# Gelman 1999, Stanisz 2005; T2*: Peters 2007; MD and FA: Pierpaoli 1996, Lebel 2008; kurtosis: Jensen and
# Helpern 2010) and were narrowed until the ratios between regions bracket those of real mean images. T2*
# below the literature in pallidum, putamen and nigra is iron.
_RANGES: dict[Tissue, tuple[tuple[float, float], ...]] = {
    Tissue.CORTEX: (
        (0.79, 0.86), (1250, 1600), (80, 98), (44, 60), (0.68, 0.86), (0.08, 0.18), (0.5, 0.8),
    ),
    Tissue.LIMBIC: (
        (0.80, 0.87), (1300, 1650), (88, 108), (40, 58), (0.80, 0.96), (0.10, 0.20), (0.5, 0.8),
    ),
    Tissue.WHITE: (
        (0.68, 0.76), (800, 1050), (70, 86), (40, 52), (0.70, 0.84), (0.33, 0.46), (0.6, 1.0),
    ),
    # In sulci with vessels, pia and trabeculae: what an EPI voxel shows of the subarachnoid space. Pulsation
    # dephases it as diffusion does.
    Tissue.CSF: (
        (0.72, 0.92), (2600, 4300), (180, 700), (70, 250), (2.4, 3.2), (0.0, 0.06), (0.0, 0.1),
    ),
    Tissue.VENTRICLE: (
        (0.97, 1.0), (3600, 4500), (800, 2000), (250, 800), (2.8, 3.2), (0.0, 0.05), (0.0, 0.05),
    ),
    Tissue.THALAMUS: (
        (0.74, 0.81), (1050, 1350), (68, 82), (38, 50), (0.74, 0.88), (0.25, 0.35), (0.6, 0.9),
    ),
    Tissue.CAUDATE: (
        (0.77, 0.84), (1150, 1450), (68, 84), (38, 52), (0.70, 0.82), (0.12, 0.22), (0.6, 0.9),
    ),
    Tissue.PUTAMEN: (
        (0.76, 0.83), (1100, 1400), (62, 78), (32, 46), (0.70, 0.84), (0.12, 0.22), (0.6, 0.9),
    ),
    Tissue.PALLIDUM: (
        (0.70, 0.77), (850, 1100), (38, 58), (18, 30), (0.74, 0.94), (0.22, 0.34), (0.5, 0.8),
    ),
    Tissue.VENTRAL_DC: (
        (0.72, 0.79), (950, 1200), (58, 74), (30, 44), (0.72, 0.86), (0.30, 0.42), (0.7, 1.0),
    ),
    Tissue.BRAINSTEM: (
        (0.70, 0.78), (950, 1200), (66, 80), (34, 47), (0.74, 0.90), (0.36, 0.50), (0.7, 1.0),
    ),
    Tissue.CEREBELLAR_GREY: (
        (0.79, 0.86), (1200, 1550), (76, 92), (42, 56), (0.76, 0.92), (0.12, 0.22), (0.5, 0.8),
    ),
    Tissue.CEREBELLAR_WHITE: (
        (0.68, 0.76), (850, 1100), (66, 82), (38, 50), (0.70, 0.84), (0.28, 0.44), (0.6, 1.0),
    ),
    Tissue.BONE: ((0.05, 0.15), (300, 600), (8, 25), (1, 4), (0.5, 0.9), (0.0, 0.1), (0.3, 0.6)),
    # Fat is suppressed in EPI; what is seen of scalp and muscle is their water, in the scalp the lesser part.
    Tissue.SOFT: ((0.08, 0.35), (900, 1400), (30, 45), (10, 26), (1.0, 1.6), (0.05, 0.2), (0.3, 0.6)),
    Tissue.EYE: ((0.94, 1.0), (3200, 4200), (300, 900), (60, 200), (2.6, 3.1), (0.0, 0.05), (0.0, 0.1)),
}  # fmt: skip

# Change of the logarithm of each property per unit of a latent field, in the order of PROPERTIES.
_RESPONSE: dict[str, dict[Latent, tuple[float, ...]]] = {
    "grey": {
        Latent.IRON: (0.0, -0.01, -0.035, -0.09, 0.0, 0.0, 0.0),
        Latent.MYELIN: (-0.015, -0.05, -0.04, -0.04, -0.02, 0.10, 0.03),
        Latent.WATER: (0.015, 0.03, 0.045, 0.04, 0.05, -0.06, -0.03),
        Latent.TRACT: (0.0,) * 7,
        Latent.NUCLEUS: (0.0, -0.08, -0.15, -0.35, 0.0, 0.0, 0.0),
    },
    "white": {
        Latent.IRON: (0.0, -0.005, -0.02, -0.04, 0.0, 0.0, 0.0),
        Latent.MYELIN: (-0.02, -0.05, -0.05, -0.045, -0.03, 0.06, 0.04),
        Latent.WATER: (0.02, 0.04, 0.05, 0.035, 0.05, -0.07, -0.04),
        Latent.TRACT: (-0.01, -0.01, -0.01, -0.07, 0.0, 0.25, 0.03),
        Latent.NUCLEUS: (0.0, -0.05, -0.15, -0.35, 0.0, -0.1, 0.0),
    },
    "fluid": dict.fromkeys(Latent, (0.0,) * 7),
}


@dataclass(frozen=True, eq=False)
class TissueProperties:
    """Properties of every tissue of one person at 3 T.

    Parameters
    ----------
    base : ndarray
        ``(16, 7)`` float64, rows are :class:`Tissue`, columns `PROPERTIES`, for latent fields of zero.
    response : ndarray
        ``(5, 16, 7)`` float64, change of the logarithm per unit of each :class:`Latent`.
    """

    base: np.ndarray
    response: np.ndarray

    def at(self, latent: np.ndarray) -> np.ndarray:
        """Return the properties of all tissues at one set of latent values.

        Parameters
        ----------
        latent : ndarray
            ``(5,)``.

        Returns
        -------
        ndarray
            ``(16, 7)``; FA is kept below 0.95.
        """
        values = self.base * np.exp(np.tensordot(latent, self.response, 1))
        values[:, PROPERTIES.index("fa")] = np.minimum(values[:, PROPERTIES.index("fa")], 0.95)
        return values

    def column(self, name: str) -> np.ndarray:
        """Return one property of all tissues, ``(16,)``, for latent fields of zero."""
        return self.base[:, PROPERTIES.index(name)]


def _response() -> np.ndarray:
    """Return the responses of all tissues, ``(5, 16, 7)``."""
    table = np.zeros((len(LATENTS), N_TISSUES, len(PROPERTIES)))
    for tissue in Tissue:
        group = "white" if tissue in WHITE else "grey" if tissue in GREY else "fluid"
        for latent, change in _RESPONSE[group].items():
            table[latent, tissue] = change
    # Deep grey matter holds most of the iron, so its T2* varies most between people.
    for tissue in (Tissue.CAUDATE, Tissue.PUTAMEN, Tissue.PALLIDUM, Tissue.VENTRAL_DC):
        table[Latent.IRON, tissue] *= 1.6
    return table


def draw_tissue(rng: np.random.Generator | None = None, spread: float = 1.0) -> TissueProperties:
    """Draw the tissues of one person.

    Parameters
    ----------
    rng : Generator, optional
        None returns the middle of every range.
    spread : float
        Width of the draw relative to the range in the literature.

    Returns
    -------
    TissueProperties

    Examples
    --------
    >>> float(draw_tissue().base[Tissue.CORTEX, 1])
    1425.0
    """
    ranges = np.array([_RANGES[tissue] for tissue in Tissue])
    low, high = ranges[..., 0], ranges[..., 1]
    # What varies between people is mostly shared by all tissues of a kind (age, hydration, haematocrit).
    position = np.full(low.shape, 0.5)
    if rng is not None:
        shared = rng.uniform(0, 1, (1, len(PROPERTIES)))
        own = rng.uniform(0, 1, low.shape)
        position = 0.5 + spread * (0.5 * shared + 0.5 * own - 0.5)
    return TissueProperties(low + position * (high - low), _response())
