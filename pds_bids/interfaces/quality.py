"""Quality files and parcel tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from nipype.interfaces.base.support import Bunch

from pds_bids.bids.write import write_json, write_tsv
from pds_bids.imaging.parcels import parcel_means
from pds_bids.interfaces.images import load
from pds_bids.interfaces.template import read_template
from pds_bids.modalities import ANATOMY, MODALITIES, Contrast, Direction
from pds_bids.template import MODEL_GRID, load_template

__all__ = ["Fidelity", "ParcelTable", "SegmentTable", "SourceQuality"]


class _QualityOutputSpec(TraitedSpec):
    out_file = File(desc="JSON")


class _SourceQualityInputSpec(BaseInterfaceInputSpec):
    confounds = File(exists=True, mandatory=True, desc="TSV")
    mask = File(exists=True, mandatory=True, desc="brain mask, native")
    gate = File(exists=True, mandatory=True, desc="verdict of the registration")
    t1w_gate = File(exists=True, desc="verdict of the T1w registration")
    segments = File(exists=True, mandatory=True, desc="from CutBold or CutDWI")
    censored = traits.List(traits.Int, usedefault=True, desc="volumes left out")
    dummies = traits.List(traits.Int, usedefault=True, desc="non-steady-state volumes")
    starts = traits.List(traits.Int, [0], usedefault=True, desc="first volume of each run")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")
    scale = traits.Float(mandatory=True, desc="in-brain mean that the mean was divided by")
    coverage = File(exists=True, desc="JSON: how much of the brain was acquired")
    plausibility = File(exists=True, desc="JSON: whether the volumes have the signal that they should")
    tensor_quality = File(exists=True, desc="DWI, JSON: the tensor fit and the orientation of the table")
    distortion_quality = File(exists=True, desc="JSON: what distortion correction did")
    motion_quality = File(exists=True, desc="DWI, JSON: eddy currents, and shells against the b0s")
    denoise_notes = traits.List(traits.Str, usedefault=True, desc="DWI: remarks on denoising")
    notes = traits.List(traits.Str, usedefault=True, desc="warnings known beforehand")


class SourceQuality(SimpleInterface):
    """Gather the quality of one acquired series."""

    input_spec = _SourceQualityInputSpec
    output_spec = _QualityOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        table = pd.read_csv(self.inputs.confounds, sep="\t", na_values="n/a")
        displacement = table["framewise_displacement"]
        mask, grid = load(self.inputs.mask)
        gate = json.loads(Path(self.inputs.gate).read_text())
        segments = json.loads(Path(self.inputs.segments).read_text())["segments"]
        warnings = [*self.inputs.notes, *(self.inputs.denoise_notes or [])]
        t1w_gate = _read(self.inputs.t1w_gate) if self.inputs.t1w_gate else None
        warnings += _doubts_of_registration(gate, t1w_gate)
        content = {
            "registration": {"status": _status(gate), **gate},
            "n_volumes": len(table),
            "n_runs": len(self.inputs.starts),
            "n_dummy_scans": len(self.inputs.dummies),
            "n_censored": len(self.inputs.censored),
            "n_segments": len(segments),
            "fd_mean_mm": float(displacement.mean()),
            "fd_max_mm": float(displacement.max()),
            "brain_volume_ml": float((mask > 0).sum() * np.prod(grid.zooms) / 1000),
            "intensity_scale": self.inputs.scale,
            "template_origin": read_template(self.inputs.template).origin,
        }
        content |= self._more(warnings)
        content["warnings"] = warnings
        self._results["out_file"] = _write("qc.json", content)
        return runtime

    def _more(self, warnings: list[str]) -> dict[str, Any]:
        """Return what the other steps measured, and add their warnings."""
        content: dict[str, Any] = {"distortion_corrected": False}
        if self.inputs.plausibility:
            plausibility = _read(self.inputs.plausibility)
            if plausibility["weighted_to_b0"] is not None:
                content["weighted_to_b0"] = plausibility["weighted_to_b0"]
            # The plan has told of the sidecar already.
            warnings.extend(doubt for doubt in plausibility["doubts"] if doubt not in warnings)
        if self.inputs.distortion_quality:
            distortion = _read(self.inputs.distortion_quality)
            content["distortion_corrected"] = distortion["used"]
            content["distortion"] = distortion
            if not distortion["used"]:
                warnings.append(f"susceptibility distortion was not corrected: {distortion['reason']}")
        if self.inputs.motion_quality:
            motion = _read(self.inputs.motion_quality)
            content |= {name: motion[name] for name in ("eddy", "b0_to_shell")}
            warnings.extend(motion["warnings"])
        if self.inputs.coverage:
            coverage = _read(self.inputs.coverage)
            content["coverage"] = coverage
            if not coverage["is_complete"]:
                warnings.append(coverage["note"])
        if self.inputs.tensor_quality:
            tensor = _read(self.inputs.tensor_quality)
            content["tensor"] = tensor
            if tensor["tensor_problem"]:
                warnings.append(f"no FA and MD: {tensor['tensor_problem']}")
            elif not tensor["orientation"]["is_consistent"]:
                warnings.append(tensor["orientation"]["note"])
        return content


def _doubts_of_registration(gate: dict[str, Any], t1w_gate: dict[str, Any] | None) -> list[str]:
    """Return what a reader should know of the ways to the template that were, and were not, taken."""
    doubts = []
    if t1w_gate and not t1w_gate["passed"]:
        doubts.append(f"the T1w image did not register and was not used: {t1w_gate['reason']}")
    if problem := gate.get("two_path_problem"):
        doubts.append(
            f"the T1w image does not fit this one ({problem}) and was not used: one of the two may lie "
            "wrongly on the template, look at both"
        )
    if gate["stage"] == "affine":
        doubts.append("the deformable registration failed its gate; the affine one was used")
    return doubts


class _FidelityInputSpec(BaseInterfaceInputSpec):
    direction = traits.Enum(*[str(d) for d in Direction], mandatory=True, desc="what was synthesised")
    mean = File(exists=True, mandatory=True, desc="4D synthetic main contrast")
    std = File(exists=True, mandatory=True, desc="4D standard deviation")
    b0_mean = File(exists=True, desc="4D synthetic b0")
    fa_mean = File(exists=True, desc="4D synthetic FA")
    md_mean = File(exists=True, desc="4D synthetic MD")
    source = File(exists=True, mandatory=True, desc="4D acquired source")
    source_b0 = File(exists=True, desc="4D acquired source b0")
    t1w = File(exists=True, desc="3D T1w of the person")
    mask = File(exists=True, mandatory=True, desc="brain mask of the source, model grid")
    acquired = File(exists=True, desc="4D acquired target")
    acquired_b0 = File(exists=True, desc="4D acquired target b0")
    acquired_fa = File(exists=True, desc="3D acquired FA")
    acquired_md = File(exists=True, desc="3D acquired MD")
    acquired_mask = File(exists=True, desc="brain mask of the target, model grid")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")
    channels = File(exists=True, mandatory=True, desc="4D template channels")
    model_dir = Directory(exists=True, mandatory=True, desc="model bundle")
    metadata = File(exists=True, desc="JSON from `Synthesize`: what it has to say of the source")


class Fidelity(SimpleInterface):
    """Describe a synthetic volume, and compare it with the acquired one where there is one."""

    input_spec = _FidelityInputSpec
    output_spec = _QualityOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        mask = load(self.inputs.mask)[0] > 0
        mean, std = (np.asarray(load(p)[0][..., 0]) for p in (self.inputs.mean, self.inputs.std))
        direction = Direction(self.inputs.direction)
        content: dict[str, Any] = {
            "direction": str(direction),
            "synthetic_mean": float(mean[mask].mean()),
            "synthetic_std": float(mean[mask].std()),
            "uncertainty_median": float(np.median(std[mask])),
            "acquired_target": bool(self.inputs.acquired),
            "warnings": _read(self.inputs.metadata)["SourceWarnings"] if self.inputs.metadata else [],
            "template_origin": read_template(self.inputs.template).origin,
        }
        if self.inputs.acquired:
            content["fidelity"] = self._compare(direction, mask)
        self._results["out_file"] = _write("qc.json", content)
        return runtime

    def _compare(self, direction: Direction, mask: np.ndarray) -> list[dict[str, Any]]:
        from pds_bids.evaluation.fidelity import compare  # late: torch and scikit-learn
        from pds_bids.inference.bundle import load_bundle

        both = mask & (load(self.inputs.acquired_mask)[0] > 0)
        targets = direction.targets
        anatomy = self._first_volumes((ANATOMY,), ("t1w",))
        compared = compare(
            self._first_volumes(targets, ("mean", "b0_mean", "fa_mean", "md_mean")),
            self._first_volumes(targets, ("acquired", "acquired_b0", "acquired_fa", "acquired_md")),
            self._first_volumes(MODALITIES[direction.source].sources, ("source", "source_b0")) | anatomy,
            both,
            direction,
            load_bundle(Path(self.inputs.model_dir)),
            template=np.asarray(load(self.inputs.channels)[0]),
        )
        return [
            {"target": contrast, "predictor": row, "is_model": row == "model", **metrics}
            for row, contrasts in compared["scores"].items()
            for contrast, metrics in contrasts.items()
        ]

    def _first_volumes(
        self, contrasts: tuple[Contrast, ...], inputs: tuple[str, ...]
    ) -> dict[Contrast, np.ndarray]:
        """Return the overall mean of each contrast whose input is there."""
        paths = {c: getattr(self.inputs, name) for c, name in zip(contrasts, inputs, strict=False)}
        loaded = {contrast: np.asarray(load(path)[0]) for contrast, path in paths.items() if path}
        return {contrast: data if data.ndim == 3 else data[..., 0] for contrast, data in loaded.items()}


class _SegmentTableInputSpec(BaseInterfaceInputSpec):
    segments = File(exists=True, mandatory=True, desc="from CutBold or CutDWI")


class _TableOutputSpec(TraitedSpec):
    out_file = File(desc="TSV")


class SegmentTable(SimpleInterface):
    """Write the segment table."""

    input_spec = _SegmentTableInputSpec
    output_spec = _TableOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        rows = json.loads(Path(self.inputs.segments).read_text())["rows"]
        columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        path = Path.cwd() / "segments.tsv"
        write_tsv(path, columns, ([row[name] for name in columns] for row in rows))
        self._results["out_file"] = str(path)
        return runtime


class _ParcelTableInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="4D on the model grid: the mean, then the segments")
    mask = File(exists=True, mandatory=True, desc="brain mask, model grid")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")


class ParcelTable(SimpleInterface):
    """Average the segments over the parcels of the atlas: one row per segment, one column per parcel."""

    input_spec = _ParcelTableInputSpec
    output_spec = _TableOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        volumes, _ = load(self.inputs.in_file)
        mask = load(self.inputs.mask)[0] > 0
        template = load_template(read_template(self.inputs.template), MODEL_GRID)
        labels = sorted(template.atlas_labels)
        means = parcel_means(volumes[..., 1:], template.atlas, mask, labels)
        path = Path.cwd() / "parcels.tsv"
        write_tsv(path, [template.atlas_labels[label] for label in labels], means.tolist())
        self._results["out_file"] = str(path)
        return runtime


def _read(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_text())
    return content


def _status(gate: dict[str, Any]) -> str:
    if not gate["passed"]:
        return "failed"
    return "fallback" if gate["stage"] == "affine" else "passed"


def _write(name: str, content: dict[str, Any]) -> str:
    path = Path.cwd() / name
    write_json(path, content)
    return str(path)
