"""Two independent ways to the template must meet."""

import numpy as np

from pds_bids.exceptions import QualityError
from pds_bids.imaging.grid import PointMap
from pds_bids.imaging.registration import two_path_disagreement

__all__ = ["LARGEST_DISAGREEMENT_MM", "require_agreement"]

# Uncorrected distortion moves parts of an echo-planar image by a few millimetres, so that a rigid and a
# deformable path differ by that much in good registrations; a failed one is off by centimetres.
LARGEST_DISAGREEMENT_MM = 8.0


def require_agreement(direct: PointMap, bridge: PointMap, mask: np.ndarray) -> float:
    """Compare the direct path to the template with the one through the T1w image.

    Parameters
    ----------
    direct, bridge : PointMap
        From the same template grid to the native image.
    mask : ndarray
        ``(X, Y, Z)`` bool, brain on that grid.

    Returns
    -------
    float
        Median distance in the brain, mm.

    Raises
    ------
    QualityError
        If the median exceeds `LARGEST_DISAGREEMENT_MM`: one of the two is wrong, and nobody knows which.
    """
    median_mm, high_mm = two_path_disagreement(direct, bridge, mask)
    if median_mm > LARGEST_DISAGREEMENT_MM:
        raise QualityError(
            f"registration: straight to the template and through the T1w image differ by {median_mm:.1f} mm "
            f"(95% within {high_mm:.1f}), expected at most {LARGEST_DISAGREEMENT_MM:g}; look at the figures, "
            "and check the orientation in the headers of both images"
        )
    return median_mm
