"""Off-resonance from echo-planar images of one head that were read out in different directions.

The field displaces the images of a pair to opposite sides and piles their signal up in different places. The
field sought is the one that, undone in both, gives the same picture: moved along the phase encoding and
rescaled by how much it squeezes each voxel. What the head did between the images is found in the same
equations. From coarse to fine, by Gauss-Newton steps with conjugate gradients inside.

References
----------
Holland et al. 2010, 10.1016/j.neuroimage.2009.11.044; Ruthotto et al. 2012, 10.1088/0031-9155/57/18/5715.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import DataError
from pds_bids.imaging.blip_equations import Blip, Level, Problem, moved_poses, newton_step, reach_mm
from pds_bids.imaging.masks import check_image, rough_brain_mask
from pds_bids.imaging.rigid import POSE_DECIMALS

__all__ = ["Blip", "BlipField", "field_from_blips"]

# Most Gauss-Newton steps of a level, and halvings of a step.
N_STEPS, N_HALVINGS = 15, 4
# A level ends when a step lowers the energy by less than this share.
LEAST_GAIN = 1e-3


LEVELS = (Level(12.0, 6.0), Level(6.0, 3.0), Level(3.0, 1.5), Level(2.9, 0.0))


@dataclass(frozen=True, eq=False)
class BlipField:
    """What `field_from_blips` finds.

    Parameters
    ----------
    hz : ndarray
        ``(X, Y, Z)`` float32 on the grid of the first image, where the head truly is. Its mean in the brain
        is 0: a constant cannot be told from a shift of the head along the phase encoding.
    ref2blip : ndarray
        ``(K, 4, 4)`` where a point of the first image, undistorted, lies in each image, undistorted; RAS+ mm.
        The first is the identity.
    corrected : ndarray
        ``(K, X, Y, Z)`` float32, the images on the grid of the first, undistorted and aligned.
    """

    hz: np.ndarray
    ref2blip: np.ndarray
    corrected: np.ndarray


def field_from_blips(blips: Sequence[Blip]) -> BlipField:
    """Estimate the field from two or more images with different phase encoding.

    Parameters
    ----------
    blips : sequence of Blip
        Of like contrast. Grids, axes and readout times may differ.

    Returns
    -------
    BlipField

    Raises
    ------
    DataError
        If they all have the same phase encoding, or an image shows no brain.
    """
    _require_two_directions(blips)
    brains = [rough_brain_mask(blip.image, blip.grid) for blip in blips]
    scales = [float(blip.image[brain].mean()) for blip, brain in zip(blips, brains, strict=True)]
    poses = np.tile(np.eye(4), (len(blips), 1, 1))
    problem, mm = None, np.zeros(1)
    for level in LEVELS:
        finer = Problem(blips, scales, brains[0], level)
        mm = finer.lattice_values(mm, None if problem is None else problem.lattice)
        problem = finer
        mm, poses = _descend(problem, mm, poses)
    first = blips[0].grid
    on_first = Problem(blips, scales, brains[0], Level(0.0, 0.0))
    mm = on_first.lattice_values(mm, problem.lattice if problem else first)
    corrected = [view.image * view.density for view in on_first.look(mm, poses)]
    scaled = np.stack([c * s for c, s in zip(corrected, scales, strict=True)])
    hz = (mm / on_first.mm_per_hz).astype(np.float32)
    return BlipField(hz, np.round(poses, POSE_DECIMALS), scaled.astype(np.float32))


def _require_two_directions(blips: Sequence[Blip]) -> None:
    for number, blip in enumerate(blips):
        check_image(blip.image, blip.grid, f"image {number + 1} of the fieldmap")
    steps = [reach_mm(blip) for blip in blips]
    if len(blips) < 2 or all(np.allclose(step, steps[0], rtol=0.05) for step in steps):
        raise DataError(
            f"{len(blips)} echo-planar image(s) with phase encoding {[b.phase_encoding for b in blips]}: "
            "a field needs at least two directions"
        )


def _descend(problem: Problem, mm: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take Gauss-Newton steps until they no longer pay."""
    energy = problem.energy(mm, poses)
    for _ in range(N_STEPS):
        step_mm, step_pose = newton_step(problem, mm, poses)
        share = 1.0
        for _ in range(N_HALVINGS):
            new_mm, new_poses = mm + share * step_mm, moved_poses(poses, share * step_pose, problem.centre)
            new_energy = problem.energy(new_mm, new_poses)
            if new_energy < energy:
                break
            share /= 2
        else:
            break
        gain = (energy - new_energy) / energy
        mm, poses, energy = new_mm, new_poses, new_energy
        if gain < LEAST_GAIN:
            break
    return mm, poses
