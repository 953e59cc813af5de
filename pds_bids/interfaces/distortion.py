"""Estimate a susceptibility field, judge it, and hand it to everything that resamples the series."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch

from pds_bids.bids.fieldmaps import Fieldmap, FieldmapKind
from pds_bids.bids.write import write_json
from pds_bids.exceptions import DataError, PDSError
from pds_bids.imaging.blips import agreement, join_groups
from pds_bids.imaging.distortion import Distortion, PhaseEncoding, phase_encoding
from pds_bids.imaging.fieldmaps import FieldImage, field_from_hz, field_from_phases
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.intensity import n4_bias
from pds_bids.imaging.masks import rough_brain_mask
from pds_bids.imaging.pepolar import Blip, field_from_blips
from pds_bids.imaging.series import volume_blocks
from pds_bids.imaging.undistort import (
    Likeness,
    bring_field,
    compare_signs,
    displacement_mm,
    implausible,
    undistorted,
)
from pds_bids.interfaces.images import load, save, save_distortion, stored_affine

__all__ = ["EstimateField", "FieldFromBlipGroups", "fieldmap_spec"]

LOGGER = logging.getLogger("pds_bids.interfaces")

# An image, its grid, and its brain.
Target = tuple[np.ndarray, Grid, np.ndarray]

# Volumes averaged of a 4D image in fmap/.
MOST_VOLUMES = 5


def fieldmap_spec(fieldmap: Fieldmap) -> dict[str, Any]:
    """Return a fieldmap as plain numbers and text, for the input ``spec`` of `EstimateField`."""
    return {
        "kind": fieldmap.kind.name,
        "how": fieldmap.how,
        "series": {"path": str(fieldmap.series.path), **fieldmap.series.metadata},
        "phases": [str(path) for path in fieldmap.phases],
        "echo_times_s": list(fieldmap.echo_times_s),
        "units": fieldmap.units,
        "magnitude": str(fieldmap.magnitude or ""),
        "field": str(fieldmap.field or ""),
        "epis": [{"path": str(epi.path), **epi.metadata} for epi in fieldmap.epis],
        "notes": list(fieldmap.notes),
    }


class _FieldOutputSpec(TraitedSpec):
    distortion = File(desc="field and readout of every volume, .npz; undefined when it must not be used")
    hz = File(desc="field in Hz on the grid of the series, undistorted reference space")
    corrected = File(desc="the distorted mean, undone")
    qc = File(desc="JSON: what was used, and what it changed")


class _EstimateFieldInputSpec(BaseInterfaceInputSpec):
    distorted_mean = File(exists=True, mandatory=True, desc="mean of the realigned series (DWI: b0), RAS+")
    spec = traits.Dict(mandatory=True, desc="from fieldmap_spec")
    files = traits.List(File(exists=True), desc="what the fieldmap consists of, so that changes are noticed")
    n_volumes = traits.Int(mandatory=True, desc="volumes of the series")
    t1w = File(exists=True, desc="T1w image without its bias field, RAS+; may be absent")
    t1w_mask = File(exists=True, desc="its brain mask")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class EstimateField(SimpleInterface):
    """Estimate the field of a series from a fieldmap in ``fmap/``, and judge it.

    A field that fails its checks is not an error: `distortion` stays undefined, the series goes on
    uncorrected, and `qc` says why.
    """

    input_spec = _EstimateFieldInputSpec
    output_spec = _FieldOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        spec = self.inputs.spec
        mean, grid = load(self.inputs.distorted_mean)
        mean = np.asarray(mean, np.float32)
        qc: dict[str, Any] = _qc_head(spec["kind"], spec["how"], _paths(spec), spec["notes"])
        try:
            encoding = _encoding(spec["series"])
            hz, target, more = self._field(mean, grid, encoding)
            qc |= more
            reason = qc.pop("failed", "")
            if not reason:
                is_sure = spec["kind"] == FieldmapKind.EPI_AND_SERIES.name
                measured, reason = _judged(self.inputs, (hz, mean, grid, encoding), target, is_sure=is_sure)
                qc |= measured
        except PDSError as error:
            qc |= {"used": False, "reason": str(error)}
            return self._finish(runtime, qc)
        qc |= {"used": not reason, "reason": reason}
        self._results["hz"] = save("field.nii", hz, grid.vox2ras)
        self._results["corrected"] = save(
            "corrected.nii", undistorted(mean, grid, hz, encoding), grid.vox2ras
        )
        if not reason:
            n = self.inputs.n_volumes
            axes, readout_s = np.full(n, encoding.axis), np.full(n, encoding.readout_s)
            self._results["distortion"] = save_distortion(
                "distortion.npz", Distortion(hz, grid, axes, readout_s)
            )
        return self._finish(runtime, qc)

    def _finish(self, runtime: Bunch, qc: dict[str, Any]) -> Bunch:
        self._results["qc"] = _save_qc(qc)
        return runtime

    def _field(
        self, mean: np.ndarray, grid: Grid, encoding: PhaseEncoding
    ) -> tuple[np.ndarray, FieldImage, dict[str, Any]]:
        """Return the field at the series, what to compare it with when there is no T1w, and figures."""
        spec = self.inputs.spec
        kind = FieldmapKind[spec["kind"]]
        if kind is FieldmapKind.EPI_AND_SERIES:
            blips = [Blip(mean, grid, encoding), _blip(spec["epis"][0])]
            return self._from_blips(blips)
        if kind is FieldmapKind.EPI_PAIR:
            blips = [_blip(epi) for epi in spec["epis"]]
            hz, image, more = self._from_blips(blips)
        else:
            image, more = _gradient_echo(spec), {}
        hz, gate = bring_field(image, mean, grid, encoding, nthreads=self.inputs.num_threads)
        more["registration"] = {"mask_dice": gate.mask_dice, "nmi": gate.nmi, "nmi_null": gate.nmi_null}
        if not gate.passed:
            more["failed"] = f"the series and the fieldmap's magnitude do not register: {gate.reason}"
        return hz, image, more

    def _from_blips(self, blips: Sequence[Blip]) -> tuple[np.ndarray, FieldImage, dict[str, Any]]:
        found = field_from_blips(blips)
        together = found.corrected.mean(0)
        brain = rough_brain_mask(together, blips[0].grid)
        agreed = agreement(blips, found, brain)
        more: dict[str, Any] = {"blips": agreed}
        if agreed["correlation_after"] < agreed["correlation_before"]:
            more["failed"] = "the two directions agree less with the field than without it"
        return found.hz, FieldImage(found.hz, together, brain, blips[0].grid), more


class _FieldFromBlipGroupsInputSpec(BaseInterfaceInputSpec):
    b0_files = traits.List(
        File(exists=True), mandatory=True, desc="mean b0 of each group in its own reference, one grid, RAS+"
    )
    stored = traits.List(
        File(exists=True), mandatory=True, desc="acquired series of each group: its storage order"
    )
    metadata = traits.List(
        traits.Dict, mandatory=True, desc="PhaseEncodingDirection and TotalReadoutTime of each group"
    )
    groups = traits.List(traits.Int, mandatory=True, desc="group of every volume, 0-based")
    motion = File(
        exists=True, mandatory=True, desc="(N, 4, 4) maps from the reference of its group to each volume"
    )
    how = traits.Str("same session", usedefault=True, desc="what ties the groups together")
    notes = traits.List(traits.Str, usedefault=True, desc="from find_fieldmap")
    t1w = File(exists=True, desc="T1w image without its bias field, RAS+; may be absent")
    t1w_mask = File(exists=True, desc="its brain mask")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _FieldFromBlipGroupsOutputSpec(_FieldOutputSpec):
    motion = File(desc="(N, 4, 4) maps from the undistorted reference of group 0 to each volume")
    volumes = traits.List(traits.Int, desc="volumes that may be averaged: all, or group 0 without a field")


class FieldFromBlipGroups(SimpleInterface):
    """Estimate the field between groups of volumes with different phase encoding, and join their motion.

    When the field fails its checks, `distortion` stays undefined, `motion` is as it came, and `volumes` are
    those of group 0: without the field, the groups do not lie on one another.
    """

    input_spec = _FieldFromBlipGroupsInputSpec
    output_spec = _FieldFromBlipGroupsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        motion, groups = np.load(self.inputs.motion), np.asarray(self.inputs.groups)
        qc = _qc_head("DWI_PAIR", self.inputs.how, self.inputs.stored, self.inputs.notes)
        reason = ""
        try:
            blips = self._blips()
            found = field_from_blips(blips)
            brain = rough_brain_mask(found.corrected.mean(0), blips[0].grid)
            qc["blips"] = agreement(blips, found, brain)
            if qc["blips"]["correlation_after"] < qc["blips"]["correlation_before"]:
                reason = "the groups agree less with the field than without it"
            first = (found.hz, np.asarray(blips[0].image), blips[0].grid, blips[0].phase_encoding)
            measured, worse = _judged(self.inputs, first, None, is_sure=True)
            qc |= measured
            reason = reason or worse
        except PDSError as error:
            qc |= {"used": False, "reason": str(error)}
            return self._uncorrected(runtime, qc, groups)
        grid = blips[0].grid
        self._results["hz"] = save("field.nii", found.hz, grid.vox2ras)
        self._results["corrected"] = save("corrected.nii", found.corrected.mean(0), grid.vox2ras)
        qc |= {"used": not reason, "reason": reason}
        if reason:
            return self._uncorrected(runtime, qc, groups)
        joined, distortion = join_groups(found, blips, groups, motion)
        path = Path.cwd() / "motion.npy"
        np.save(path, joined)
        self._results["motion"] = str(path)
        self._results["volumes"] = list(range(len(groups)))
        self._results["distortion"] = save_distortion("distortion.npz", distortion)
        self._results["qc"] = _save_qc(qc)
        return runtime

    def _uncorrected(self, runtime: Bunch, qc: dict[str, Any], groups: np.ndarray) -> Bunch:
        self._results["motion"] = self.inputs.motion
        self._results["volumes"] = np.flatnonzero(groups == 0).tolist()
        self._results["qc"] = _save_qc(qc)
        return runtime

    def _blips(self) -> list[Blip]:
        blips = []
        for b0, stored, metadata in zip(
            self.inputs.b0_files, self.inputs.stored, self.inputs.metadata, strict=True
        ):
            image, grid = load(b0)
            encoding = phase_encoding(metadata, stored_affine(stored)[0])
            blips.append(Blip(np.asarray(image, np.float32), grid, encoding))
        return blips


def _judged(
    inputs: Any,
    series: tuple[np.ndarray, np.ndarray, Grid, PhaseEncoding],
    image: FieldImage | None,
    *,
    is_sure: bool,
) -> tuple[dict[str, Any], str]:
    """Measure a field, and return the figures and why it must not be used.

    A field is sure without a comparison when the series itself was one of the images it was made from: they
    agree better with it than without.
    """
    hz, mean, grid, encoding = series
    brain = rough_brain_mask(undistorted(mean, grid, hz, encoding, order=1), grid)
    far = np.abs(displacement_mm(hz, grid, encoding))[brain]
    figures: dict[str, Any] = {
        "displacement_median_mm": float(np.median(far)),
        "displacement_p99_mm": float(np.percentile(far, 99)),
        "displacement_max_mm": float(far.max()),
        "readout_s": encoding.readout_s,
        "phase_encoding_axis": "RAS"[encoding.axis],
    }
    reason = implausible(hz, grid, encoding, brain)
    doubts = []
    for name, target in _targets(inputs, image):
        if reason:
            break
        found = compare_signs(*series, *target, nthreads=inputs.num_threads)
        if not found.doubt:
            return figures | {"compared_with": name} | _likeness(found), found.reason
        doubts.append(f"{name}: {found.doubt}")
    figures["compared_with"] = None
    figures["not_compared_because"] = "; ".join(doubts) or ("" if reason else "there is no undistorted image")
    if not is_sure and not reason:
        reason = f"its sign could not be checked: {figures['not_compared_because']}"
    return figures, reason


def _targets(inputs: Any, image: FieldImage | None) -> list[tuple[str, Target]]:
    """Return the undistorted images to compare a series with, the best first."""
    targets: list[tuple[str, Target]] = []
    if inputs.t1w and inputs.t1w_mask:
        t1w, t1w_grid = load(inputs.t1w)
        targets.append(("T1w", (np.asarray(t1w, np.float32), t1w_grid, load(inputs.t1w_mask)[0] > 0)))
    if image is not None:
        bias = n4_bias(image.magnitude, image.grid, image.brain, nthreads=inputs.num_threads)
        targets.append(("fieldmap", (image.magnitude / bias, image.grid, image.brain)))
    return targets


def _likeness(found: Likeness) -> dict[str, float]:
    return {
        "nmi_before": found.whole_uncorrected,
        "nmi_after": found.whole_corrected,
        "nmi_before_where_distorted": found.uncorrected,
        "nmi_after_where_distorted": found.corrected,
        "nmi_sign_turned_where_distorted": found.negated,
    }


def _gradient_echo(spec: Mapping[str, Any]) -> FieldImage:
    """Load the images of a gradient-echo fieldmap and make the field."""
    magnitude, grid = load(spec["magnitude"])
    magnitude = np.asarray(magnitude, np.float32)
    others = [load(path) for path in (spec["phases"] or [spec["field"]])]
    for path, (_, other_grid) in zip(spec["phases"] or [spec["field"]], others, strict=True):
        if other_grid != grid:
            raise DataError(
                f"{Path(path).name} lies on another grid than {Path(spec['magnitude']).name}; "
                "convert them again"
            )
    images = [np.asarray(image) for image, _ in others]
    if spec["field"]:
        return field_from_hz(images[0], magnitude, grid, spec["units"])
    first_s, second_s = spec["echo_times_s"]
    return field_from_phases(images, magnitude, grid, (first_s, second_s), spec["units"] or None)


def _blip(epi: Mapping[str, Any]) -> Blip:
    """Load an echo-planar image of ``fmap/``; of a 4D one, the mean of its first volumes."""
    data, grid = load(epi["path"])
    if data.ndim == 4:
        blocks = volume_blocks(data, range(min(MOST_VOLUMES, data.shape[3])))
        data = np.concatenate([block for _, block in blocks], axis=-1).mean(-1)
    return Blip(np.asarray(data, np.float32), grid, _encoding(epi))


def _encoding(epi: Mapping[str, Any]) -> PhaseEncoding:
    return phase_encoding(epi, stored_affine(epi["path"])[0])


def _paths(spec: Mapping[str, Any]) -> list[str]:
    return [p for p in (*spec["phases"], spec["magnitude"], spec["field"]) if p] + [
        epi["path"] for epi in spec["epis"]
    ]


def _qc_head(kind: str, how: str, files: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": str(FieldmapKind[kind]),
        "belongs_by": how,
        "files": [Path(file).name for file in files],
        "notes": list(notes),
    }


def _save_qc(qc: dict[str, Any]) -> str:
    if not qc["used"]:
        LOGGER.warning("susceptibility distortion is NOT corrected: %s", qc["reason"])
    path = Path.cwd() / "distortion_qc.json"
    write_json(path, qc)
    return str(path)
