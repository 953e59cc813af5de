"""Diffusion: noise and ringing before anything else, tensor maps and shell means after head motion."""

import json
import logging
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch

from pds_bids.imaging.coverage import brain_coverage, seen_planes
from pds_bids.imaging.dwi import GradientTable, distinct_directions, rotate_bvecs, tensor_problem
from pds_bids.imaging.dwi_denoise import (
    denoise,
    denoise_caution,
    remove_gibbs_ringing,
    slice_axis_ras,
)
from pds_bids.imaging.dwi_maps import ShellMeans, TensorMaps, in_view, maps_at
from pds_bids.imaging.dwi_orientation import judge_table
from pds_bids.imaging.grid import Grid, PointMap, resample
from pds_bids.imaging.realign import segment_means
from pds_bids.interfaces.images import (
    load,
    load_distortion,
    load_map,
    open_series,
    save,
    series_writer,
    stored_affine,
)
from pds_bids.interfaces.series import read_gradients
from pds_bids.interfaces.template import read_template
from pds_bids.options import DenoiseMethod
from pds_bids.template import MODEL_GRID, load_template

__all__ = ["DenoiseDWI", "FieldOfView", "TensorFit"]

_LOG = logging.getLogger("pds_bids.interfaces")


class _DenoiseDWIInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series, as acquired, never interpolated")
    gradients = File(exists=True, mandatory=True, desc="from ConformGradients")
    starts = traits.List(traits.Int, [0], usedefault=True, desc="first volume of each run")
    method = traits.Enum(*[str(m) for m in DenoiseMethod], usedefault=True, desc="how noise is removed")
    degibbs = traits.Bool(False, usedefault=True, desc="remove Gibbs ringing after the noise")
    dwi_file = File(exists=True, desc="acquired series, whose storage order tells the slice axis")
    slice_axis = traits.Range(0, 2, value=2, usedefault=True, desc="slice axis as stored in `dwi_file`")
    partial_fourier = traits.Either(
        None, traits.Float, usedefault=True, desc="PartialFourier of the sidecar; below 1 ringing stays"
    )
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _DenoiseDWIOutputSpec(TraitedSpec):
    out_file = File(desc="series on the same grid; `in_file` itself when nothing was asked for")
    noise_map = File(desc="standard deviation of the noise; only when noise was removed")
    notes = traits.List(traits.Str, desc="what a reader of the report should know")


class DenoiseDWI(SimpleInterface):
    """Remove noise, then Gibbs ringing, from an acquired diffusion series.

    Before head motion and everything else that interpolates. An unsuitable series is refused by an error.
    """

    input_spec = _DenoiseDWIInputSpec
    output_spec = _DenoiseDWIOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        from threadpoolctl import threadpool_limits

        method = DenoiseMethod(self.inputs.method)
        self._results["notes"] = []
        if method is DenoiseMethod.NONE and not self.inputs.degibbs:
            self._results["out_file"] = self.inputs.in_file
            return runtime
        series, vox2ras = open_series(self.inputs.in_file)
        table = read_gradients(self.inputs.gradients)
        name = Path(self.inputs.dwi_file or self.inputs.in_file).name
        edges = [*self.inputs.starts, series.shape[3]]
        noise_sd = []
        # Sums over threads differ in their last bits, and the matrices are small.
        with (
            threadpool_limits(self.inputs.num_threads),
            series_writer("denoised.nii", series.shape, vox2ras) as write,
        ):
            # Runs differ in distortion, position or gain: the noise of one says nothing about another's.
            for first, last in pairwise(edges):
                clean = denoise(
                    series[..., first:last],
                    vox2ras,
                    method,
                    table.bvals[first:last],
                    b0_threshold=table.b0_threshold,
                    name=name,
                )
                noise_sd.append(clean.noise_sd)
                data = clean.data
                if self.inputs.degibbs:
                    data = remove_gibbs_ringing(data, self._slice_axis())
                for k in range(data.shape[3]):
                    write(data[..., k])
        self._results["notes"] = self._notes(method, table, name)
        self._results["out_file"] = str(Path("denoised.nii").absolute())
        if method is not DenoiseMethod.NONE:
            self._results["noise_map"] = save("noise.nii", np.mean(noise_sd, axis=0), vox2ras)
        return runtime

    def _slice_axis(self) -> int:
        if not self.inputs.dwi_file:
            return int(self.inputs.slice_axis)
        return slice_axis_ras(stored_affine(self.inputs.dwi_file)[0], self.inputs.slice_axis)

    def _notes(self, method: DenoiseMethod, table: GradientTable, name: str) -> list[str]:
        """Say, and log, what may be wrong with the result."""
        notes = [denoise_caution(method, table.bvals, table.b0_threshold)]
        share = self.inputs.partial_fourier
        if self.inputs.degibbs and share is not None and share < 1:
            notes.append(f"partial Fourier {share:g}: along phase encoding Gibbs ringing stays in part")
        notes = [f"{name}: {note}" for note in notes if note]
        for note in notes:
            _LOG.warning("%s", note)
        return notes


class _TensorFitInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    motion = File(exists=True, mandatory=True, desc="point maps from the reference to each volume")
    gradients = File(exists=True, mandatory=True, desc="from ConformGradients")
    mask = File(exists=True, mandatory=True, desc="brain mask of the reference")
    distortion = File(exists=True, desc="off-resonance in the reference, .npz")
    bias = File(exists=True, desc="bias field; FA and MD hardly depend on it, shell means do")
    template2native = File(exists=True, desc="point map, for maps on the model grid")
    template_mask = File(exists=True, desc="brain on the model grid; the warped mask when omitted")


class _TensorFitOutputSpec(TraitedSpec):
    fa = File(desc="fractional anisotropy; absent, like all tensor maps, when no tensor can be fitted")
    md = File(desc="mean diffusivity, mm2/s")
    s0 = File(desc="fitted signal without weighting")
    residual = File(desc="misfit of the tensor, share of the mean weighted signal")
    template_fa = File(desc="fractional anisotropy on the model grid")
    template_md = File(desc="mean diffusivity on the model grid, mm2/s")
    shells = File(desc="4D: mean b0, then the mean of each shell")
    shells_json = File(desc="JSON: b-value and number of volumes of each of them")
    quality = File(desc="JSON: counts, misfit, and whether the gradient directions fit the image")


class TensorFit(SimpleInterface):
    """Fit the tensor, and average shells, with one interpolation per volume.

    The maps on the model grid are fitted there, to signals resampled straight to it, rather than resampled
    from the native maps: FA is not linear in the signals, and a second interpolation would blur it.
    """

    input_spec = _TensorFitInputSpec
    output_spec = _TensorFitOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        mask, grid = load(self.inputs.mask)
        inside = mask > 0
        table = read_gradients(self.inputs.gradients)
        table = replace(table, bvecs=rotate_bvecs(table.bvecs, np.load(self.inputs.motion)))
        problem = tensor_problem(table.bvecs)
        tensor, shells = maps_at(grid.points()[inside], self._signals, table)
        quality: dict[str, object] = {"tensor_problem": problem}
        self._save_shells(shells, inside, grid)
        if tensor is None:
            _LOG.warning("no FA and MD: %s", problem)
        else:
            for name in ("fa", "md", "s0", "residual"):
                self._results[name] = _save_inside(f"{name}.nii", getattr(tensor, name), inside, grid)
            quality |= _quality(tensor, table, inside, grid)
            if self.inputs.template2native:
                self._fit_on_model_grid(inside, grid, table)
        path = Path.cwd() / "quality.json"
        path.write_text(json.dumps(quality, indent=2))
        self._results["quality"] = str(path)
        return runtime

    def _fit_on_model_grid(self, inside: np.ndarray, grid: Grid, table: GradientTable) -> None:
        template2native = load_map(self.inputs.template2native)
        points = PointMap.from_affine(MODEL_GRID, np.eye(4)).then(template2native).points
        if self.inputs.template_mask:
            brain = load(self.inputs.template_mask)[0] > 0
        else:
            brain = resample(inside.astype(np.float32), grid.vox2ras, points, order=1) > 0.5
        tensor, _ = maps_at(points[brain], self._signals, table)
        for name in ("fa", "md"):
            values = getattr(tensor, name)
            self._results[f"template_{name}"] = _save_inside(
                f"template_{name}.nii", values, brain, MODEL_GRID
            )

    def _signals(self, points: np.ndarray) -> np.ndarray:
        """Return every volume at the points, ``(V, N)``; NaN outside of a volume's field of view."""
        series, vox2ras = open_series(self.inputs.in_file)
        motion = np.load(self.inputs.motion)
        bias = load(self.inputs.bias)[0] if self.inputs.bias else None
        each = [[k] for k in range(series.shape[3])]
        distortion = load_distortion(self.inputs.distortion)
        signals = segment_means(series, vox2ras, motion, each, points, bias=bias, distortion=distortion).T
        # The averager gives zero there, and a zero in view is a signal.
        signals[~in_view(points, Grid(series.shape[:3], vox2ras), motion, distortion)] = np.nan
        return signals

    def _save_shells(self, shells: ShellMeans, inside: np.ndarray, grid: Grid) -> None:
        self._results["shells"] = _save_inside("shells.nii", shells.means.T, inside, grid)
        path = Path.cwd() / "shells.json"
        path.write_text(json.dumps({"bvals": shells.bvals, "n_volumes": shells.n_volumes}))
        self._results["shells_json"] = str(path)


class _FieldOfViewInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series, as acquired")
    mask = File(exists=True, mandatory=True, desc="brain mask of the reference")
    template2native = File(exists=True, mandatory=True, desc="point map")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")


class _FieldOfViewOutputSpec(TraitedSpec):
    coverage = File(desc="JSON: shares of the brain that were acquired, and a sentence")


class FieldOfView(SimpleInterface):
    """Measure how much of the brain a BOLD or diffusion series covers."""

    input_spec = _FieldOfViewInputSpec
    output_spec = _FieldOfViewOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, _ = open_series(self.inputs.in_file)
        mask, grid = load(self.inputs.mask)
        registration = load_map(self.inputs.template2native)
        template = load_template(read_template(self.inputs.template), registration.grid)
        found = brain_coverage(template, registration, grid, seen=seen_planes(series), mask=mask > 0)
        if not found.is_complete:
            _LOG.warning("%s", found.note)
        path = Path.cwd() / "coverage.json"
        path.write_text(json.dumps(asdict(found) | {"is_complete": found.is_complete}, indent=2))
        self._results["coverage"] = str(path)
        return runtime


def _quality(tensor: TensorMaps, table: GradientTable, inside: np.ndarray, grid: Grid) -> dict[str, object]:
    fitted = table.bvecs[list(tensor.volumes)]
    verdict = judge_table(tensor.direction, tensor.fa, inside, grid, len(distinct_directions(fitted)))
    if not verdict.is_consistent:
        _LOG.warning("%s", verdict.note)
    orientation = asdict(verdict)
    for name in ("coherence", "best_coherence"):
        orientation[name] = None if np.isnan(orientation[name]) else orientation[name]
    return {
        "tensor_volumes": len(tensor.volumes),
        "tensor_max_bval": float(table.bvals[list(tensor.volumes)].max()),
        "n_voxels": int(inside.sum()),
        "n_implausible": tensor.n_implausible,
        "n_unfitted": tensor.n_unfitted,
        "median_residual": float(np.median(tensor.residual)),
        "orientation": orientation,
    }


def _save_inside(name: str, values: np.ndarray, inside: np.ndarray, grid: Grid) -> str:
    volume = np.zeros((*grid.shape, *values.shape[1:]), np.float32)
    volume[inside] = values
    return save(name, volume, grid.vox2ras)
