"""Head motion and eddy currents of a diffusion series."""

import json
from pathlib import Path

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch

from pds_bids.imaging.distortion import phase_encoding_axis, with_eddy_currents
from pds_bids.imaging.dwi import GradientTable, check_gradients
from pds_bids.imaging.dwi_motion import estimate_dwi_motion, motion_quality
from pds_bids.imaging.grid import Grid
from pds_bids.interfaces.images import load_distortion, open_series, save_distortion, stored_affine
from pds_bids.interfaces.series import read_gradients

__all__ = ["DWIMotion", "JoinEddy"]


class _DWIMotionInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    gradients = File(exists=True, mandatory=True, desc="from ConformGradients")
    groups = traits.List(
        traits.Int, mandatory=True, desc="number of the phase-encoding direction of each volume, from 0"
    )
    group_files = traits.List(File(exists=True), desc="an acquired run of each group")
    phase_axes = traits.List(
        traits.Enum("", "i", "j", "k"),
        desc="stored axis of phase encoding of each of them; without it no eddy currents are estimated",
    )
    sloppy = traits.Bool(False, usedefault=True, desc="coarser and faster")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _DWIMotionOutputSpec(TraitedSpec):
    motion = File(desc="(N, 4, 4) point maps from the reference to each volume, RAS mm, .npy")
    eddy = File(desc="eddy currents of each volume, .npz; absent where no axis of phase encoding was given")
    quality = File(desc="JSON: what eddy currents did, and where shells lie against the b0s")


class DWIMotion(SimpleInterface):
    """Estimate rigid head motion and eddy currents of a diffusion series, volume by volume.

    Volumes of another phase-encoding direction are distorted otherwise: each direction has its own reference,
    its first b0.
    """

    input_spec = _DWIMotionInputSpec
    output_spec = _DWIMotionOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, vox2ras = open_series(self.inputs.in_file)
        table, groups = read_gradients(self.inputs.gradients), np.array(self.inputs.groups)
        motion = np.tile(np.eye(4), (series.shape[3], 1, 1))
        axes = self._axes(int(groups.max()) + 1)
        affines, coefficients, found = motion.copy(), np.zeros((len(motion), 4)), []
        for group in np.unique(groups):
            own = np.flatnonzero(groups == group)
            # Runs of one direction follow each other.
            part = series[..., own[0] : own[-1] + 1]
            own_table = check_gradients(own.size, table.bvals[own], table.bvecs[own])
            moved = estimate_dwi_motion(
                part, vox2ras, own_table, phase_axis=axes[group], is_sloppy=self.inputs.sloppy
            )
            found.append(moved)
            motion[own] = moved.ref2volume
            if moved.eddy is not None:
                affines[own], coefficients[own] = moved.eddy.affines, moved.eddy.coefficients
        self._results["motion"] = str(Path("motion.npy").absolute())
        np.save(self._results["motion"], motion)
        if any(axis is not None for axis in axes):
            self._results["eddy"] = str(Path("eddy.npz").absolute())
            np.savez(self._results["eddy"], affines=affines, coefficients=coefficients)
        points = Grid(series.shape[:3], vox2ras).points().reshape(-1, 3)[_bright(series, table)]
        self._results["quality"] = str(Path("quality.json").absolute())
        Path(self._results["quality"]).write_text(json.dumps(motion_quality(found, points), indent=2))
        return runtime

    def _axes(self, n_groups: int) -> list[int | None]:
        """Return the RAS+ axis of phase encoding of each group, None where unknown."""
        if not self.inputs.phase_axes:
            return [None] * n_groups
        pairs = zip(self.inputs.group_files, self.inputs.phase_axes, strict=True)
        return [
            phase_encoding_axis({"PhaseEncodingAxis": axis}, stored_affine(path)[0]) for path, axis in pairs
        ]


def _bright(series: np.ndarray, table: GradientTable) -> np.ndarray:
    """Return which voxels of the first b0 are head, flat."""
    b0 = np.asarray(series[..., table.b0_volumes[0]])
    return np.asarray(b0 > 0.2 * np.percentile(b0, 98)).reshape(-1)


class _JoinEddyInputSpec(BaseInterfaceInputSpec):
    eddy = File(exists=True, mandatory=True, desc="from DWIMotion")
    distortion = File(exists=True, desc="of susceptibility, .npz; absent when it is not corrected")


class _JoinEddyOutputSpec(TraitedSpec):
    distortion = File(desc="both together, .npz")


class JoinEddy(SimpleInterface):
    """Put eddy currents and susceptibility into one distortion, for one interpolation."""

    input_spec = _JoinEddyInputSpec
    output_spec = _JoinEddyOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        with np.load(self.inputs.eddy, allow_pickle=False) as stored:
            affines = stored["affines"]
        joined = with_eddy_currents(load_distortion(self.inputs.distortion), affines)
        self._results["distortion"] = save_distortion("distortion.npz", joined)
        return runtime
