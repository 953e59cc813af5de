"""Segments of a series: the table, and their averages on the model grid."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch

from pds_bids.imaging.carpet import carpet_rows
from pds_bids.imaging.confounds import (
    bold_confounds,
    confounds_metadata,
    dwi_confounds,
    framewise_displacement,
)
from pds_bids.imaging.dwi import rotate_bvecs
from pds_bids.imaging.grid import Grid, PointMap, resample
from pds_bids.imaging.motion import matrices_to_parameters, realigned_timeseries, segment_means
from pds_bids.imaging.rigid import grid_centre
from pds_bids.imaging.segments import Segment, bold_segments, dwi_segments, segment_rows
from pds_bids.interfaces.images import load, load_distortion, load_map, open_series, save
from pds_bids.interfaces.series import read_gradients
from pds_bids.interfaces.template import read_template
from pds_bids.template import MODEL_GRID, load_template

__all__ = ["Confounds", "CutBold", "CutDWI", "ResampleSegments", "read_segments"]


class _CutBoldInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    motion = File(exists=True, mandatory=True, desc="point maps from the reference to each volume")
    dummies = traits.List(traits.Int, mandatory=True, desc="non-steady-state volumes")
    starts = traits.List(traits.Int, [0], usedefault=True, desc="first volume of each run")
    tr_s = traits.Either(None, traits.Float, usedefault=True, desc="repetition time")
    n_segments = traits.Int(mandatory=True, desc="segments wanted")
    fd_threshold_mm = traits.Float(mandatory=True, desc="volumes above it are left out")


class _CutBoldOutputSpec(TraitedSpec):
    segments = File(desc="JSON: volumes and table rows of every segment")
    censored = traits.List(traits.Int, desc="volumes left out of the averages")


class CutBold(SimpleInterface):
    """Cut the time axis into contiguous segments of the volumes that are left after censoring."""

    input_spec = _CutBoldInputSpec
    output_spec = _CutBoldOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, grid_affine = open_series(self.inputs.in_file)
        motion = np.load(self.inputs.motion)
        displacement = _displacement(motion, series, grid_affine)
        displacement[self.inputs.starts] = np.nan
        dummies = set(self.inputs.dummies)
        spikes = set(np.flatnonzero(np.nan_to_num(displacement) > self.inputs.fd_threshold_mm).tolist())
        # A restless participant still has a mean: censoring never takes more than half of the volumes.
        kept_enough = len(dummies | spikes) <= series.shape[3] // 2
        censored = sorted(dummies | spikes if kept_enough else dummies)
        segments = bold_segments(series.shape[3], self.inputs.n_segments, censored=censored)
        rows = [asdict(row) for row in segment_rows(segments, tr_s=self.inputs.tr_s)]
        self._results["segments"] = _save_segments(segments, rows)
        self._results["censored"] = censored
        return runtime


class _CutDWIInputSpec(BaseInterfaceInputSpec):
    gradients = File(exists=True, mandatory=True, desc="from ConformGradients")
    motion = File(exists=True, mandatory=True, desc="point maps from the reference to each volume")
    n_segments = traits.Int(mandatory=True, desc="segments wanted")
    scheme = traits.Str(mandatory=True, desc="balanced or contiguous")


class CutDWI(SimpleInterface):
    """Deal the gradient directions out to segments, after rotating them with the head."""

    input_spec = _CutDWIInputSpec
    output_spec = _CutBoldOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        table = read_gradients(self.inputs.gradients)
        rotated = rotate_bvecs(table.bvecs, np.load(self.inputs.motion))
        used = np.setdiff1d(np.arange(len(table.bvals)), table.left_out)
        found = dwi_segments(
            table.bvals[used],
            rotated[used],
            self.inputs.n_segments,
            self.inputs.scheme,
            b0_threshold=table.b0_threshold,
        )
        segments = [
            Segment(s.index, *(tuple(used[list(part)].tolist()) for part in (s.volumes, s.b0_volumes)))
            for s in found
        ]
        rows = [asdict(row) for row in segment_rows(segments, bvals=table.bvals)]
        self._results["segments"] = _save_segments(segments, rows)
        self._results["censored"] = list(table.left_out)
        return runtime


class _ConfoundsInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    motion = File(exists=True, mandatory=True, desc="point maps from the reference to each volume")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    distortion = File(exists=True, desc="off-resonance in the reference, .npz")
    dummies = traits.List(traits.Int, usedefault=True, desc="BOLD: non-steady-state volumes")
    starts = traits.List(traits.Int, [0], usedefault=True, desc="first volume of each run")
    gradients = File(exists=True, desc="DWI: from ConformGradients")
    eddy = File(exists=True, desc="DWI: eddy currents from DWIMotion, when they were estimated")
    native2template = File(exists=True, desc="BOLD: point map, to find CSF and white matter")
    template = File(exists=True, desc="BOLD: from FetchTemplate")


class _ConfoundsOutputSpec(TraitedSpec):
    table = File(desc="TSV, one row per volume")
    description = File(desc="JSON that describes the columns")
    carpet = File(desc="BOLD: signals of voxels by tissue, .npz, for the figure")


class Confounds(SimpleInterface):
    """Write the confound table of a series."""

    input_spec = _ConfoundsInputSpec
    output_spec = _ConfoundsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, vox2ras = open_series(self.inputs.in_file)
        motion = np.load(self.inputs.motion)
        mask, grid = load(self.inputs.mask)
        centre = grid_centre(grid)
        parameters = matrices_to_parameters(motion, centre)
        if self.inputs.gradients:
            gradients = read_gradients(self.inputs.gradients)
            rotated = rotate_bvecs(gradients.bvecs, motion)
            table = dwi_confounds(
                parameters,
                motion,
                centre,
                gradients.bvals,
                rotated,
                starts=self.inputs.starts,
                eddy=np.load(self.inputs.eddy)["coefficients"] if self.inputs.eddy else None,
            )
        else:
            inside = mask > 0
            points = grid.points()[inside]
            distortion = load_distortion(self.inputs.distortion)
            timeseries = realigned_timeseries(series, vox2ras, motion, points, order=1, distortion=distortion)
            tissues, carpet = self._tissues(inside)
            self._results["carpet"] = str(Path.cwd() / "carpet.npz")
            rows = carpet_rows(timeseries, carpet)
            np.savez_compressed(self._results["carpet"], allow_pickle=False, **rows)
            table = bold_confounds(
                parameters,
                motion,
                centre,
                timeseries=timeseries,
                tissues=tissues,
                dummies=self.inputs.dummies,
                starts=self.inputs.starts,
            )
        self._results["table"] = str(Path.cwd() / "confounds.tsv")
        table.to_csv(self._results["table"], sep="\t", index=False, na_rep="n/a", float_format="%.8g")
        self._results["description"] = str(Path.cwd() / "confounds.json")
        Path(self._results["description"]).write_text(json.dumps(confounds_metadata(table), indent=2))
        return runtime

    def _tissues(self, inside: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the tissues of the regressors, and the wider ones of the carpet plot."""
        points = load_map(self.inputs.native2template).points[inside]
        template = load_template(read_template(self.inputs.template), MODEL_GRID)
        maps = {"grey matter": template.gm, "white_matter": template.wm, "csf": template.csf}
        shares = {name: resample(p, MODEL_GRID.vox2ras, points, order=1) for name, p in maps.items()}
        shown = {"grey matter": "grey matter", "white_matter": "white matter", "csf": "CSF"}
        wide = {shown[name]: share > 0.5 for name, share in shares.items()}
        # High thresholds keep partial volume with grey matter, which carries signal, out of the regressors.
        return {name: shares[name] > 0.9 for name in ("csf", "white_matter")}, wide


class _ResampleSegmentsInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    motion = File(exists=True, mandatory=True, desc="point maps from the reference to each volume")
    distortion = File(exists=True, desc="off-resonance in the reference, .npz")
    bias = File(exists=True, mandatory=True, desc="bias field")
    mask = File(exists=True, mandatory=True, desc="brain mask of the reference")
    template2native = File(exists=True, mandatory=True, desc="point map")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")
    segments = File(exists=True, mandatory=True, desc="from CutBold or CutDWI")
    gradients = File(exists=True, desc="DWI: from ConformGradients")


class _ResampleSegmentsOutputSpec(TraitedSpec):
    out_file = File(desc="4D on the model grid: overall mean, then segments; in-brain mean 1")
    b0_file = File(desc="DWI: the mean b0, repeated to the same length")
    mask = File(desc="brain mask on the model grid")


class ResampleSegments(SimpleInterface):
    """Average every segment on the model grid, each volume interpolated once from the acquired grid."""

    input_spec = _ResampleSegmentsInputSpec
    output_spec = _ResampleSegmentsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, vox2ras = open_series(self.inputs.in_file)
        motion, bias = np.load(self.inputs.motion), load(self.inputs.bias)[0]
        distortion = load_distortion(self.inputs.distortion)
        registration = load_map(self.inputs.template2native)
        points = PointMap.from_affine(MODEL_GRID, np.eye(4)).then(registration).points
        mask = self._mask(points)
        segments = read_segments(self.inputs.segments)
        groups = [list(segment.volumes) for segment in segments]
        inside = points[mask]
        means = segment_means(series, vox2ras, motion, groups, inside, bias=bias, distortion=distortion)
        counts = np.array([len(group) for group in groups], float)
        overall = np.average(means, axis=0, weights=counts)
        # One scale for all: differences between segments are part of the signal.
        stack = np.concatenate([overall[None], means]) / overall.mean()
        self._results["mask"] = save("mask.nii", mask, MODEL_GRID.vox2ras)
        self._results["out_file"] = _save_inside("segments.nii", stack, mask)
        if self.inputs.gradients:
            b0s = [read_gradients(self.inputs.gradients).b0_volumes]
            b0 = segment_means(series, vox2ras, motion, b0s, inside, bias=bias, distortion=distortion)
            b0 = np.repeat(b0 / b0.mean(), len(stack), axis=0)
            self._results["b0_file"] = _save_inside("b0.nii", b0, mask)
        return runtime

    def _mask(self, points: np.ndarray) -> np.ndarray:
        native, grid = load(self.inputs.mask)
        warped = resample(native.astype(np.float32), grid.vox2ras, points, order=1) > 0.5
        template = load_template(read_template(self.inputs.template), MODEL_GRID)
        # What lies outside of the template's brain lies outside of what the networks have seen.
        return warped & template.mask


def read_segments(path: str) -> list[Segment]:
    """Read the segments that `CutBold` or `CutDWI` wrote."""
    content = json.loads(Path(path).read_text())
    return [Segment(s["index"], tuple(s["volumes"]), tuple(s["b0_volumes"])) for s in content["segments"]]


def _save_segments(segments: list[Segment], rows: list[dict[str, object]]) -> str:
    path = Path.cwd() / "segments.json"
    path.write_text(json.dumps({"segments": [asdict(s) for s in segments], "rows": rows}, indent=2))
    return str(path)


def _save_inside(name: str, values: np.ndarray, mask: np.ndarray) -> str:
    volume = np.zeros((*mask.shape, len(values)), np.float32)
    volume[mask] = values.T
    return save(name, volume, MODEL_GRID.vox2ras)


def _displacement(motion: np.ndarray, series: np.ndarray, vox2ras: np.ndarray) -> np.ndarray:
    centre = grid_centre(Grid(series.shape[:3], vox2ras))
    return framewise_displacement(matrices_to_parameters(motion, centre))
