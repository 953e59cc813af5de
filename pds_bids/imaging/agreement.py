"""Two independent ways to the template must meet."""

import numpy as np

from pds_bids.exceptions import QualityError
from pds_bids.imaging.grid import PointMap
from pds_bids.imaging.registration import two_path_disagreement

__all__ = ["LARGEST_DISAGREEMENT_MM", "require_agreement"]

# Right registrations of eight echo-planar images of four people are 1.6 to 4.6 mm apart (distortion that is
# not undone, which a rigid path cannot follow); shifted or turned ones 10 mm and more, and a deformation that
# started 20 degrees off ends 3.6 to 8.0 mm away, of which this sees the worst (docs/registration.md).
LARGEST_DISAGREEMENT_MM = 7.0


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
