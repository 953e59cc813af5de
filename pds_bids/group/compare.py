"""Synthetic against acquired, one person and contrast at a time: regions, parcels, claimed uncertainty."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pds_bids.evaluation.fidelity import score
from pds_bids.evaluation.individual import cover
from pds_bids.evaluation.metrics import mae, nrmse, psnr
from pds_bids.exceptions import DataError
from pds_bids.group.atlas import Atlas
from pds_bids.group.images import Scan, load
from pds_bids.modalities import CONTRASTS, MAP_UNITS
from pds_bids.template import MODEL_GRID, Template

__all__ = ["Comparison", "compare_scans"]

# FA and MD (mm^2/s) have a scale of their own; other contrasts that a model card does not know have none.
KNOWN_RANGES = {"fa": 1.0, "md": 3e-3}
TISSUE_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Comparison:
    """How close one synthetic contrast comes to the acquired one.

    Parameters
    ----------
    scan : Scan
        The synthetic one.
    scores : dict of str to float
        ``<metric>.<region>``: metrics psnr (dB), ssim, mae, nrmse, coverage50, coverage80, coverage95;
        regions brain, whole, grey, white, fluid.
    means : tuple of ndarray
        ``(P,)`` acquired and synthetic parcel means, inside both masks.
    absolute_error, squared_error, n_voxels : ndarray
        ``(P,)``, inside both masks; nan, nan and 0 for a parcel that neither mask holds.
    """

    scan: Scan
    scores: dict[str, float]
    means: tuple[np.ndarray, np.ndarray]
    absolute_error: np.ndarray
    squared_error: np.ndarray
    n_voxels: np.ndarray


def compare_scans(
    acquired: Scan,
    synthetic: Scan,
    atlas: Atlas,
    template: Template,
    data_range: Mapping[str, float],
) -> Comparison:
    """Compare two scans of one contrast inside both brain masks.

    Parameters
    ----------
    acquired, synthetic : Scan
        Of one session.
    atlas : Atlas
        Parcels.
    template : Template
        Tissues.
    data_range : mapping of str to float
        By contrast, fixed by the people that the model was trained on.

    Returns
    -------
    Comparison
        Images of intensity are divided by their own mean inside both masks first; FA and MD are not. PSNR and
        SSIM are nan for a contrast without a known range.

    Raises
    ------
    DataError
        If an image cannot be read or the masks do not meet.
    """
    mask = (load(acquired.mask) > 0) & (load(synthetic.mask) > 0)
    if not mask.any():
        raise DataError(f"{synthetic.image.name}: its mask does not meet that of {acquired.image.name}")
    is_scaled = synthetic.contrast not in set(MAP_UNITS)
    truth, image = (_masked(load(scan.image), mask, is_scaled) for scan in (acquired, synthetic))
    x, y = truth[0], image[0]
    limits = data_range.get(synthetic.contrast, KNOWN_RANGES.get(synthetic.contrast, np.nan))
    scores = _scores(x, y, mask, template, limits, synthetic.contrast)
    if synthetic.std is not None:
        # The claimed deviation is in the unit of the image before it was divided by its mean.
        std = np.abs(load(synthetic.std)) / (image[1] if is_scaled else 1.0)
        for level, share in cover(x, y, std, mask, _claimed_widths(synthetic)).items():
            scores[f"coverage{level}.brain"] = share
    size = max(atlas.labels) + 1
    index, labels = atlas.image[mask], sorted(atlas.labels)
    n = np.bincount(index, minlength=size)[labels]
    error = y[mask] - x[mask]

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(index, values, minlength=size)[labels]
        return np.divide(sums, n, out=np.full(len(labels), np.nan), where=n > 0)

    return Comparison(
        synthetic, scores, (mean(x[mask]), mean(y[mask])), mean(np.abs(error)), mean(error**2), n
    )


def _claimed_widths(scan: Scan) -> dict[int, float]:
    """Return half widths of intervals in standard deviations where the card of the model gives them."""
    try:
        text = scan.image.with_name(scan.image.name.split(".")[0] + ".json").read_text(encoding="utf-8")
        widths = json.loads(text)["GenerativeModel"]["IntervalHalfWidthsInStd"][scan.contrast]
        return {int(level): float(width) for level, width in widths.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _masked(image: np.ndarray, mask: np.ndarray, is_scaled: bool) -> tuple[np.ndarray, float]:
    """Return the image in float64, zero outside the mask, and what it was divided by."""
    inside = image[mask].astype(np.float64)
    if not np.isfinite(inside).all():
        raise DataError(f"{int((~np.isfinite(inside)).sum())} voxels in the brain are not finite")
    divisor = float(inside.mean()) if is_scaled else 1.0
    if not divisor > 0:
        raise DataError(f"the mean inside the brain is {divisor}; expected a number above 0")
    return np.where(mask, image.astype(np.float64) / divisor, 0), divisor


def _scores(
    truth: np.ndarray,
    image: np.ndarray,
    mask: np.ndarray,
    template: Template,
    data_range: float,
    contrast: str,
) -> dict[str, float]:
    scores = {}
    # SSIM of the contrasts of a model card stands in the participant's quality file already.
    if np.isfinite(data_range) and contrast not in set(CONTRASTS):
        zoom_mm = MODEL_GRID.zooms[0]
        for name, value in score(image, truth, mask, data_range=data_range, zoom_mm=zoom_mm).items():
            metric, _, region = name.rpartition("_")
            scores[f"{metric}.{region}"] = value
    tissues = {"grey": template.gm, "white": template.wm, "fluid": template.csf}
    regions = {name: mask & (share > TISSUE_SHARE) for name, share in tissues.items()}
    for name, where in ({"brain": mask} | regions).items():
        if not where.any():
            continue
        scores[f"mae.{name}"] = mae(image, truth, mask=where)
        scores[f"nrmse.{name}"] = nrmse(image, truth, mask=where)
        if np.isfinite(data_range):
            scores[f"psnr.{name}"] = psnr(image, truth, data_range=data_range, mask=where)
    # Zero outside the mask in both: the whole volume has the error of the brain, spread over more voxels.
    if np.isfinite(data_range):
        scores["psnr.whole"] = psnr(image, truth, data_range=data_range)
    scores["mae.whole"] = mae(image, truth)
    scores["nrmse.whole"] = nrmse(image, truth)
    return scores
