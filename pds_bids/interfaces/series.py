"""Series of volumes: conforming, head motion, means, brain, confounds."""

import json
from pathlib import Path

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch

from pds_bids.imaging.bold import check_series, detect_non_steady_state, reference_volume
from pds_bids.imaging.dwi import GradientTable, check_gradients, fsl_to_ras_bvecs
from pds_bids.imaging.intensity import brain_mean, n4_bias
from pds_bids.imaging.masks import rough_brain_mask
from pds_bids.imaging.motion import estimate_dwi_motion, estimate_motion, realigned_mean
from pds_bids.interfaces.images import load, open_series, save, stored_affine

__all__ = [
    "BoldMotion",
    "BoldReference",
    "BrainExtract",
    "ConformGradients",
    "ConformSeries",
    "DWIMotion",
    "MeanVolumes",
    "read_gradients",
]


class _ConformSeriesInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="acquired series, in any storage order")


class _ConformSeriesOutputSpec(TraitedSpec):
    out_file = File(desc="uncompressed float32 RAS+ series, to be memory-mapped")


class ConformSeries(SimpleInterface):
    """Check a series and write it so that single volumes can be read quickly."""

    input_spec = _ConformSeriesInputSpec
    output_spec = _ConformSeriesOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        data, grid = load(self.inputs.in_file)
        check_series(data, name=Path(self.inputs.in_file).name)
        self._results["out_file"] = save("series.nii", data.astype(np.float32, copy=False), grid.vox2ras)
        return runtime


class _BoldReferenceInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    dummy_scans = traits.Either(
        None, traits.Int, usedefault=True, desc="volumes to drop; None to detect them"
    )


class _BoldReferenceOutputSpec(TraitedSpec):
    out_file = File(desc="reference volume")
    n_dummy = traits.Int(desc="non-steady-state volumes at the start")


class BoldReference(SimpleInterface):
    """Find the non-steady-state volumes and a robust reference volume."""

    input_spec = _BoldReferenceInputSpec
    output_spec = _BoldReferenceOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, vox2ras = open_series(self.inputs.in_file)
        asked = self.inputs.dummy_scans
        n_dummy = detect_non_steady_state(series) if asked is None else min(asked, series.shape[3] - 2)
        reference = reference_volume(series, n_dummy, vox2ras)
        self._results["out_file"] = save("reference.nii", reference, vox2ras)
        self._results["n_dummy"] = int(n_dummy)
        return runtime


class _BoldMotionInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    reference = File(exists=True, mandatory=True, desc="reference volume")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _MotionOutputSpec(TraitedSpec):
    motion = File(desc="(N, 4, 4) point maps from the reference to each volume, RAS mm, .npy")


class BoldMotion(SimpleInterface):
    """Estimate rigid head motion of a BOLD series."""

    input_spec = _BoldMotionInputSpec
    output_spec = _MotionOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, vox2ras = open_series(self.inputs.in_file)
        reference, _ = open_series(self.inputs.reference)
        motion = estimate_motion(series, vox2ras, reference)
        self._results["motion"] = _save_array("motion.npy", motion.ref2volume)
        return runtime


class _ConformGradientsInputSpec(BaseInterfaceInputSpec):
    dwi_file = File(exists=True, mandatory=True, desc="acquired series, whose axes the b-vectors refer to")
    bval = File(exists=True, mandatory=True, desc="FSL b-values, s/mm2")
    bvec = File(exists=True, mandatory=True, desc="FSL b-vectors")


class _ConformGradientsOutputSpec(TraitedSpec):
    gradients = File(desc="JSON: bvals (s/mm2) and bvecs_ras (scanner RAS+)")


class ConformGradients(SimpleInterface):
    """Check the gradient table and express it in scanner RAS+."""

    input_spec = _ConformGradientsInputSpec
    output_spec = _ConformGradientsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        vox2ras, shape = stored_affine(self.inputs.dwi_file)
        bvals, bvecs = np.loadtxt(self.inputs.bval, ndmin=1), np.loadtxt(self.inputs.bvec, ndmin=2)
        table = check_gradients(shape[3], bvals, bvecs, name=Path(self.inputs.dwi_file).name)
        path = Path.cwd() / "gradients.json"
        bvecs_ras = fsl_to_ras_bvecs(table.bvecs, vox2ras)
        content = {"bvals": table.bvals.tolist(), "bvecs_ras": bvecs_ras.tolist()}
        path.write_text(json.dumps(content))
        self._results["gradients"] = str(path)
        return runtime


class _DWIMotionInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    gradients = File(exists=True, mandatory=True, desc="from ConformGradients")
    sloppy = traits.Bool(False, usedefault=True, desc="coarser and faster")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class DWIMotion(SimpleInterface):
    """Estimate rigid head motion of a diffusion series, volume by volume."""

    input_spec = _DWIMotionInputSpec
    output_spec = _MotionOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, vox2ras = open_series(self.inputs.in_file)
        table = read_gradients(self.inputs.gradients)
        motion = estimate_dwi_motion(series, vox2ras, table, is_sloppy=self.inputs.sloppy)
        self._results["motion"] = _save_array("motion.npy", motion.ref2volume)
        return runtime


class _MeanVolumesInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    motion = File(exists=True, mandatory=True, desc="point maps from the reference to each volume")
    n_dummy = traits.Int(0, usedefault=True, desc="BOLD: volumes left out at the start")
    gradients = File(exists=True, desc="DWI: gives a mean of b0 volumes and one of weighted volumes")


class _MeanVolumesOutputSpec(TraitedSpec):
    out_file = File(desc="mean of the volumes (DWI: of the weighted ones) in the reference position")
    b0_file = File(desc="DWI: mean of the b0 volumes")


class MeanVolumes(SimpleInterface):
    """Average the realigned volumes, each interpolated once."""

    input_spec = _MeanVolumesInputSpec
    output_spec = _MeanVolumesOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, vox2ras = open_series(self.inputs.in_file)
        motion = np.load(self.inputs.motion)
        volumes = list(range(self.inputs.n_dummy, series.shape[3]))
        if self.inputs.gradients:
            table = read_gradients(self.inputs.gradients)
            volumes = list(table.weighted_volumes)
            b0 = realigned_mean(series, vox2ras, motion, table.b0_volumes)
            self._results["b0_file"] = save("b0.nii", b0, vox2ras)
        mean = realigned_mean(series, vox2ras, motion, volumes)
        self._results["out_file"] = save("mean.nii", mean, vox2ras)
        return runtime


class _BrainExtractInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="mean BOLD or mean b0")
    other_file = File(exists=True, desc="another mean on the same grid, corrected by the same field")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _BrainExtractOutputSpec(TraitedSpec):
    out_file = File(desc="the mean in units of the in-brain mean, whole head")
    other_file = File(desc="the other mean, likewise")
    mask = File(desc="brain mask")
    bias = File(desc="bias field; image / bias is corrected")
    scale = traits.Float(desc="in-brain mean that `out_file` was divided by")
    other_scale = traits.Float(desc="in-brain mean that `other_file` was divided by")


class BrainExtract(SimpleInterface):
    """Mask the brain of a mean image, remove its bias field, and divide it by its mean in the brain."""

    input_spec = _BrainExtractInputSpec
    output_spec = _BrainExtractOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image, grid = load(self.inputs.in_file)
        mask = rough_brain_mask(image, grid)
        bias = n4_bias(image, grid, mask, nthreads=self.inputs.num_threads)
        self._results["scale"] = brain_mean(image / bias, mask)
        self._results["out_file"] = save("corrected.nii", image / bias / self._results["scale"], grid.vox2ras)
        self._results["mask"] = save("mask.nii", mask, grid.vox2ras)
        self._results["bias"] = save("bias.nii", bias, grid.vox2ras)
        if self.inputs.other_file:
            other, _ = load(self.inputs.other_file)
            self._results["other_scale"] = brain_mean(other / bias, mask)
            other = other / bias / self._results["other_scale"]
            self._results["other_file"] = save("other.nii", other, grid.vox2ras)
        return runtime


def read_gradients(path: str) -> GradientTable:
    """Read what `ConformGradients` wrote; the vectors are along the scanner's RAS+ axes."""
    content = json.loads(Path(path).read_text())
    return check_gradients(len(content["bvals"]), content["bvals"], np.array(content["bvecs_ras"]))


def _save_array(name: str, array: np.ndarray) -> str:
    path = Path.cwd() / name
    np.save(path, array)
    return str(path)
