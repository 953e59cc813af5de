"""T1-weighted image of one virtual person."""

import numpy as np
from scipy import ndimage

from pds_bids.phantom import contrast
from pds_bids.phantom.coil import coil_field
from pds_bids.phantom.epi import named_draws, rician
from pds_bids.phantom.person import Person, Scan
from pds_bids.phantom.tissue import Tissue

__all__ = ["faceless", "t1w_image"]

# Behind and above these (template space, mm) there is no face.
_FACE_FRONT_MM, _FACE_TOP_MM, _FACE_EDGE_MM = 30.0, -5.0, 8.0
_FACE_BLUR_MM = 8.0
_OUTSIDE = (Tissue.BONE, Tissue.SOFT, Tissue.EYE)
# Fat is bright here, and a third or so of what lies outside of the skull.
_FAT_T1_MS, _FAT_SHARE = 370.0, (0.2, 0.5)


def faceless(seen: Scan) -> np.ndarray:
    """Return the fractions of tissue with the face blurred beyond recognition.

    Parameters
    ----------
    seen : Scan
        A person on a grid.

    Returns
    -------
    ndarray
        ``(N, 16)`` float32. Bone, soft tissue and eyes in front of and below the frontal lobes are blurred
        by 8 mm; the brain and its fluid are as they were.
    """
    y, z = seen.template_points[:, 1], seen.template_points[:, 2]
    front = 1 / (1 + np.exp(-np.clip((y - _FACE_FRONT_MM) / _FACE_EDGE_MM, -30, 30)))
    below = 1 / (1 + np.exp(-np.clip((_FACE_TOP_MM - z) / _FACE_EDGE_MM, -30, 30)))
    weight = (front * below).astype(np.float32)
    outside = list(_OUTSIDE)
    fractions = seen.fractions.copy()
    room = 1 - np.delete(fractions, outside, axis=1).sum(1)
    sd = [_FACE_BLUR_MM / zoom for zoom in seen.grid.zooms]
    shape = seen.grid.shape
    soft = np.stack([ndimage.gaussian_filter(fractions[:, t].reshape(shape), sd).ravel() for t in outside], 1)
    soft *= np.clip(room / np.maximum(soft.sum(1), 1e-6), 0, 1)[:, None]
    fractions[:, outside] += weight[:, None] * (soft - fractions[:, outside])
    return fractions


def t1w_image(
    rng: np.random.Generator,
    person: Person,
    seen: Scan,
    protocol: contrast.MprageProtocol | None = None,
    *,
    noise: float = 0.02,
    coil: float = 0.4,
) -> np.ndarray:
    """Simulate an MPRAGE image.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    person : Person
        Who is scanned.
    seen : Scan
        The person on the grid of the image.
    protocol : MprageProtocol, optional
        The acquisition.
    noise : float
        Standard deviation of the noise, relative to bright white matter; 0: none.
    coil : float
        Strength of the receive field; 0: even.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, white matter near 1 before the receive field; the face is blurred.
    """
    protocol = protocol or contrast.MprageProtocol()
    draw = named_draws(rng)
    table = contrast.linearise(lambda p: contrast.t1w_signal(p, protocol), person.tissue)
    fat = contrast.mprage(np.array(1.0), np.array(_FAT_T1_MS), protocol)
    share = np.float32(draw("fat").uniform(*_FAT_SHARE))
    table[Tissue.SOFT] *= 1 - share
    table[Tissue.SOFT, 0] += share * np.float32(fat)
    white = table[Tissue.WHITE, 0]
    values = np.einsum("nk,nk->n", faceless(seen) @ table, seen.latents) / white
    image = np.maximum(values, 0).reshape(seen.grid.shape).astype(np.float32)
    return rician(draw("noise"), coil_field(draw("coil"), seen.grid, coil) * image, noise)
