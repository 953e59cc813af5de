"""Compare a synthetic image, and every baseline, with the acquired one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pds_bids.evaluation.baselines import Baselines, fit_baselines
from pds_bids.evaluation.metrics import SSIMKernel, fit_smooth_gain, mae, psnr, ssim
from pds_bids.exceptions import DataError
from pds_bids.inference.bundle import Bundle
from pds_bids.inference.prepare import scale_contrast, scale_to_mean
from pds_bids.modalities import CONTRASTS, MAP_UNITS, Contrast, Direction

__all__ = ["compare", "score"]

# Standard deviation of the bias field that the tolerant score forgives.
GAIN_SIGMA_MM = 20.0

Scores = dict[str, float]


def score(
    image: np.ndarray, truth: np.ndarray, mask: np.ndarray, *, data_range: float, zoom_mm: float
) -> Scores:
    """Return all figures of one image.

    Parameters
    ----------
    image, truth : ndarray
        ``(X, Y, Z)``, in-brain mean 1, zero outside the mask.
    mask : ndarray
        ``(X, Y, Z)`` bool.
    data_range : float
        Of the contrast, fixed by the training set.
    zoom_mm : float
        Voxel size.

    Returns
    -------
    dict of str to float
        ``psnr_*`` in dB, ``ssim_*`` (Gaussian 11/1.5 unless named ``uniform``), ``mae_brain``. ``*_brain``:
        voxels of the mask; ``*_whole``: whole volume with its zero background; ``*_gain``: in the brain after
        dividing out the smooth multiplicative field that fits the truth best.
    """
    tolerant = fit_smooth_gain(image, truth, mask, sigma_voxels=GAIN_SIGMA_MM / zoom_mm)
    uniform = SSIMKernel.UNIFORM
    return {
        "psnr_brain": psnr(image, truth, data_range=data_range, mask=mask),
        "psnr_whole": psnr(image, truth, data_range=data_range),
        "psnr_gain": psnr(tolerant, truth, data_range=data_range, mask=mask),
        "ssim_brain": ssim(image, truth, data_range=data_range, mask=mask),
        "ssim_whole": ssim(image, truth, data_range=data_range),
        "ssim_gain": ssim(tolerant, truth, data_range=data_range, mask=mask),
        "ssim_uniform_brain": ssim(image, truth, data_range=data_range, mask=mask, kernel=uniform),
        "ssim_uniform_whole": ssim(image, truth, data_range=data_range, kernel=uniform),
        "mae_brain": mae(image, truth, mask=mask),
    }


def compare(
    synthetic: Mapping[Contrast, np.ndarray],
    acquired: Mapping[Contrast, np.ndarray],
    source: Mapping[Contrast, np.ndarray],
    mask: np.ndarray,
    direction: Direction,
    bundle: Bundle,
    *,
    template: np.ndarray,
    baselines: Baselines | None = None,
) -> dict[str, Any]:
    """Score the model and every baseline against the acquired images of one person.

    Parameters
    ----------
    synthetic : mapping of Contrast to ndarray
        ``(X, Y, Z)`` on the model grid, prediction of the model, as `synthesize` gives it.
    acquired : mapping of Contrast to ndarray
        ``(X, Y, Z)``, N4-corrected, any unit, MD in mm^2/s; the target contrasts that are there.
    source : mapping of Contrast to ndarray
        ``(X, Y, Z)``, N4-corrected, any unit: what the model read.
    mask : ndarray
        ``(X, Y, Z)`` bool, brain of the person.
    direction : Direction
        What was synthesised.
    bundle : Bundle
        Data ranges and bank.
    template : ndarray
        ``(X, Y, Z, 4)``, as for synthesis.
    baselines : Baselines, optional
        From `fit_baselines`, to spare fitting when many people are compared.

    Returns
    -------
    dict
        JSON-compatible: ``scores`` is row -> contrast -> metric (see `score`), row ``model`` first. All
        images are divided by their own in-brain mean; all rows count the voxels that both masks hold.

    Raises
    ------
    DataError
        If an image is empty or not finite, or the masks do not meet.
    """
    both = mask.astype(bool) & bundle.bank.mask
    if not both.any():
        raise DataError("the brain mask does not meet the template's; check the registration")
    names = tuple(contrast for contrast in CONTRASTS if contrast in source)
    truth = {c: scale_contrast(image, both, c, f"acquired {c}")[0] for c, image in acquired.items()}
    scaled = {c: scale_contrast(source[c], both, c, f"source {c}")[0] for c in names}
    fitted = baselines or fit_baselines(bundle.bank, template, direction, names)
    model = {c: image / MAP_UNITS.get(c, 1.0) for c, image in synthetic.items()}
    rows = {"model": model} | fitted.predict(scaled, both)
    scores = {
        row: {
            str(contrast): score(
                _same_mean(images[contrast], both, contrast, row),
                truth[contrast],
                both,
                data_range=bundle.data_range[contrast],
                zoom_mm=bundle.grid.zooms[0],
            )
            for contrast in truth
            if contrast in images
        }
        for row, images in rows.items()
    }
    return {
        "direction": str(direction),
        "scores": scores,
        "data_range": {str(contrast): bundle.data_range[contrast] for contrast in truth},
        "n_voxels": int(both.sum()),
        "units": "every image divided by its own in-brain mean, FA by 0.25, MD by 1e-3 mm^2/s; *_gain scores "
        "have seen the target",
        "n_bank": len(bundle.bank.source),
    }


def _same_mean(image: np.ndarray, mask: np.ndarray, contrast: Contrast, row: str) -> np.ndarray:
    """Divide an image by its in-brain mean; a map, in units of a network, is left as it is."""
    if contrast in MAP_UNITS:
        return np.where(mask, image, 0).astype(np.float32)
    return scale_to_mean(image, mask, f"{row} {contrast}")[0]
