"""Series of volumes: conforming, head motion, means, brain, confounds."""

import json
import zlib
from pathlib import Path

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch

from pds_bids.exceptions import DataError
from pds_bids.imaging.bold import checked_blocks, detect_non_steady_state, reference_volume
from pds_bids.imaging.dwi import GradientTable, check_gradients, fsl_to_ras_bvecs
from pds_bids.imaging.echoes import combined_volumes, mean_weights, t2star_weights
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.intensity import brain_mean, n4_bias
from pds_bids.imaging.masks import rough_brain_mask
from pds_bids.imaging.motion import estimate_motion, realigned_mean
from pds_bids.interfaces.images import (
    load,
    load_distortion,
    open_series,
    save,
    series_writer,
    stored_affine,
    stored_series,
)

__all__ = [
    "BoldMotion",
    "BoldReference",
    "BrainExtract",
    "CombineEchoes",
    "ConformGradients",
    "ConformSeries",
    "GroupB0s",
    "LeaveOut",
    "MeanVolumes",
    "read_gradients",
]


class _ConformSeriesInputSpec(BaseInterfaceInputSpec):
    in_files = traits.List(
        File(exists=True), mandatory=True, minlen=1, desc="runs of one series, in any storage order"
    )


class _ConformSeriesOutputSpec(TraitedSpec):
    out_file = File(
        desc="uncompressed float32 RAS+ series, to be memory-mapped; the runs one after the other"
    )
    starts = traits.List(traits.Int, desc="first volume of each run")


class ConformSeries(SimpleInterface):
    """Check a series and write it so that single volumes can be read quickly; it is streamed."""

    input_spec = _ConformSeriesInputSpec
    output_spec = _ConformSeriesOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        runs = [stored_series(path) for path in self.inputs.in_files]
        grid = runs[0].grid
        lengths = [run.shape[3] for run in runs]
        with series_writer("series.nii", (*grid.shape, sum(lengths)), grid.vox2ras) as write:
            for path, run in zip(self.inputs.in_files, runs, strict=True):
                try:
                    for _, block in checked_blocks(run, name=Path(path).name):
                        for k in range(block.shape[3]):
                            write(block[..., k])
                except (OSError, EOFError, zlib.error) as error:
                    raise DataError(
                        f"{path}: cannot be read to its end ({error}); copy or download it again"
                    ) from error
        self._results["out_file"] = str(Path("series.nii").absolute())
        self._results["starts"] = [sum(lengths[:k]) for k in range(len(lengths))]
        return runtime


class _BoldReferenceInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    starts = traits.List(traits.Int, [0], usedefault=True, desc="first volume of each run")
    dummy_scans = traits.Either(
        None, traits.Int, usedefault=True, desc="volumes to drop; None to detect them"
    )


class _BoldReferenceOutputSpec(TraitedSpec):
    out_file = File(desc="reference volume")
    dummies = traits.List(traits.Int, desc="non-steady-state volumes at the start of each run")


class BoldReference(SimpleInterface):
    """Find the non-steady-state volumes of each run, and a robust reference volume in the first."""

    input_spec = _BoldReferenceInputSpec
    output_spec = _BoldReferenceOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, vox2ras = open_series(self.inputs.in_file)
        asked, starts = self.inputs.dummy_scans, self.inputs.starts
        runs = [series[..., a:b] for a, b in zip(starts, [*starts[1:], series.shape[3]], strict=True)]
        counts = [
            detect_non_steady_state(run) if asked is None else min(asked, run.shape[3] - 2) for run in runs
        ]
        reference = reference_volume(runs[0], counts[0], vox2ras)
        self._results["out_file"] = save("reference.nii", reference, vox2ras)
        self._results["dummies"] = [a + k for a, n in zip(starts, counts, strict=True) for k in range(n)]
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
    dwi_files = traits.List(
        File(exists=True), mandatory=True, desc="acquired runs, whose axes the b-vectors refer to"
    )
    bvals = traits.List(File(exists=True), mandatory=True, desc="FSL b-values of each run, s/mm2")
    bvecs = traits.List(File(exists=True), mandatory=True, desc="FSL b-vectors of each run")


class _ConformGradientsOutputSpec(TraitedSpec):
    gradients = File(desc="JSON: bvals (s/mm2) and bvecs_ras (scanner RAS+)")


class ConformGradients(SimpleInterface):
    """Check the gradient tables and express them in scanner RAS+, the runs one after the other."""

    input_spec = _ConformGradientsInputSpec
    output_spec = _ConformGradientsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        bvals, bvecs_ras = [], []
        runs = zip(self.inputs.dwi_files, self.inputs.bvals, self.inputs.bvecs, strict=True)
        for dwi_file, bval, bvec in runs:
            vox2ras, shape = stored_affine(dwi_file)
            tables = np.loadtxt(bval, ndmin=1), np.loadtxt(bvec, ndmin=2)
            table = check_gradients(shape[3], *tables, name=Path(dwi_file).name)
            bvals += table.bvals.tolist()
            bvecs_ras += fsl_to_ras_bvecs(table.bvecs, vox2ras).tolist()
        path = Path.cwd() / "gradients.json"
        path.write_text(json.dumps({"bvals": bvals, "bvecs_ras": bvecs_ras}))
        self._results["gradients"] = str(path)
        return runtime


class _GroupB0sInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    gradients = File(exists=True, mandatory=True, desc="from ConformGradients")
    motion = File(exists=True, mandatory=True, desc="from DWIMotion: within groups")
    groups = traits.List(traits.Int, mandatory=True, desc="phase-encoding direction of each volume, from 0")


class _GroupB0sOutputSpec(TraitedSpec):
    out_files = traits.List(File(), desc="mean b0 of each group in its own reference")
    first = File(desc="that of group 0")


class GroupB0s(SimpleInterface):
    """Average the b0s of each phase-encoding direction on its own."""

    input_spec = _GroupB0sInputSpec
    output_spec = _GroupB0sOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, vox2ras = open_series(self.inputs.in_file)
        table, motion = read_gradients(self.inputs.gradients), np.load(self.inputs.motion)
        groups = np.array(self.inputs.groups)
        self._results["out_files"] = [
            save(
                f"b0_{group}.nii",
                realigned_mean(series, vox2ras, motion, [k for k in table.b0_volumes if groups[k] == group]),
                vox2ras,
            )
            for group in np.unique(groups)
        ]
        self._results["first"] = self._results["out_files"][0]
        return runtime


class _LeaveOutInputSpec(BaseInterfaceInputSpec):
    gradients = File(exists=True, mandatory=True, desc="from ConformGradients")
    volumes = traits.List(traits.Int, mandatory=True, desc="volumes that may be used")


class LeaveOut(SimpleInterface):
    """Mark the volumes of a gradient table that must not be used."""

    input_spec = _LeaveOutInputSpec
    output_spec = _ConformGradientsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        content = json.loads(Path(self.inputs.gradients).read_text())
        content["left_out"] = sorted(set(range(len(content["bvals"]))) - set(self.inputs.volumes))
        path = Path.cwd() / "gradients.json"
        path.write_text(json.dumps(content))
        self._results["gradients"] = str(path)
        return runtime


class _CombineEchoesInputSpec(BaseInterfaceInputSpec):
    in_files = traits.List(
        File(exists=True), mandatory=True, desc="conformed series of each echo, by echo time"
    )
    echo_times_s = traits.List(traits.Float, mandatory=True, desc="their echo times, s")
    motion = File(exists=True, mandatory=True, desc="point maps from the reference to each volume")
    dummies = traits.List(traits.Int, usedefault=True, desc="volumes that do not count for T2*")
    combination = traits.Enum("t2star", "mean", mandatory=True, desc="weights")


class _CombineEchoesOutputSpec(TraitedSpec):
    out_file = File(desc="combined series, where the volumes were acquired")
    t2star = File(desc="T2* of the reference, s")


class CombineEchoes(SimpleInterface):
    """Combine the echoes of a series with weights that move with the head; it is streamed."""

    input_spec = _CombineEchoesInputSpec
    output_spec = _CombineEchoesOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        echoes = [open_series(path)[0] for path in self.inputs.in_files]
        _, vox2ras = open_series(self.inputs.in_files[0])
        motion = np.load(self.inputs.motion)
        steady = np.setdiff1d(np.arange(echoes[0].shape[3]), self.inputs.dummies).tolist()
        means = np.stack([realigned_mean(e, vox2ras, motion, steady, order=1) for e in echoes], -1)
        weights, t2star_s = t2star_weights(means, self.inputs.echo_times_s)
        if self.inputs.combination == "mean":
            weights = mean_weights(means.shape)
        with series_writer("combined.nii", echoes[0].shape, vox2ras) as write:
            for volume in combined_volumes(echoes, vox2ras, motion, weights):
                write(volume)
        self._results["out_file"] = str(Path("combined.nii").absolute())
        self._results["t2star"] = save("t2star.nii", t2star_s, vox2ras)
        return runtime


class _MeanVolumesInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    motion = File(exists=True, mandatory=True, desc="point maps from the reference to each volume")
    distortion = File(exists=True, desc="off-resonance in the reference, .npz")
    dummies = traits.List(traits.Int, usedefault=True, desc="BOLD: volumes left out")
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
        motion, distortion = np.load(self.inputs.motion), load_distortion(self.inputs.distortion)
        volumes = np.setdiff1d(np.arange(series.shape[3]), self.inputs.dummies).tolist()
        if self.inputs.gradients:
            table = read_gradients(self.inputs.gradients)
            volumes = list(table.weighted_volumes)
            b0 = realigned_mean(series, vox2ras, motion, table.b0_volumes, distortion=distortion)
            self._results["b0_file"] = save("b0.nii", b0, vox2ras)
        mean = realigned_mean(series, vox2ras, motion, volumes, distortion=distortion)
        self._results["out_file"] = save("mean.nii", mean, vox2ras)
        return runtime


class BrainExtractInputSpec(BaseInterfaceInputSpec):
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

    input_spec = BrainExtractInputSpec
    output_spec = _BrainExtractOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image, grid = load(self.inputs.in_file)
        mask = self._brain(image, grid)
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

    def _brain(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        return rough_brain_mask(image, grid)


def read_gradients(path: str) -> GradientTable:
    """Read what `ConformGradients` wrote; the vectors are along the scanner's RAS+ axes."""
    content = json.loads(Path(path).read_text())
    table = check_gradients(len(content["bvals"]), content["bvals"], np.array(content["bvecs_ras"]))
    return table.without(content["left_out"]) if content.get("left_out") else table


def _save_array(name: str, array: np.ndarray) -> str:
    path = Path.cwd() / name
    np.save(path, array)
    return str(path)
