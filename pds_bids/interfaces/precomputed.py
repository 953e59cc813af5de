"""What another pipeline has computed, in the form in which our own nodes hand it on."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch

from pds_bids.exceptions import DataError, QualityError
from pds_bids.imaging.bold import detect_non_steady_state
from pds_bids.imaging.confounds import MOTION_NAMES
from pds_bids.imaging.gate import Gate, judge
from pds_bids.imaging.grid import Grid, PointMap, resample
from pds_bids.imaging.intensity import to_units
from pds_bids.imaging.itk import inverted, itk_point_map
from pds_bids.imaging.registration import PRECOMPUTED_LIMITS
from pds_bids.imaging.rigid import grid_centre, parameters_to_matrices
from pds_bids.imaging.tissues import paint_epi
from pds_bids.interfaces.images import load, open_series, save_map
from pds_bids.interfaces.series import BrainExtract, BrainExtractInputSpec
from pds_bids.interfaces.template import read_template
from pds_bids.modalities import Contrast
from pds_bids.template import RES02_GRID, load_template

__all__ = ["PrecomputedBrain", "PrecomputedConfounds", "PrecomputedMotion", "PrecomputedRegistration"]

DUMMY_PREFIX = "non_steady_state_outlier"
# Columns of our own tables, as beginnings of names; what else a pipeline writes is left in its own file.
KEPT_COLUMNS = (
    *MOTION_NAMES,
    "framewise_displacement",
    "rmsd",
    "dvars",
    "std_dvars",
    "global_signal",
    "csf",
    "white_matter",
    "bval",
    "grad_x",
    "grad_y",
    "grad_z",
)
KEPT_ENDINGS = ("", "_derivative1", "_power2", "_derivative1_power2")
UNITS = {"trans": "mm", "rot": "rad", "framewise": "mm", "rmsd": "mm", "bval": "s/mm^2"}


class _PrecomputedConfoundsInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series, realigned by the pipeline")
    table = File(exists=True, mandatory=True, desc="confounds that the pipeline wrote, TSV")
    made_by = traits.Str(mandatory=True, desc="name and version of the pipeline, for descriptions")
    dummy_scans = traits.Either(
        None, traits.Int, usedefault=True, desc="volumes to drop; None to take those of the table"
    )


class _PrecomputedConfoundsOutputSpec(TraitedSpec):
    motion = File(desc="(N, 4, 4) identities, .npy: nothing is left to realign")
    head_motion = File(desc="(N, 4, 4) maps whose six parameters are those of the table, .npy")
    dummies = traits.List(traits.Int, desc="non-steady-state volumes")
    table = File(desc="TSV, one row per volume")
    description = File(desc="JSON that describes the columns")


class PrecomputedConfounds(SimpleInterface):
    """Read the confounds of a realigned series.

    The series is resampled without motion, while censoring and figures see how the head had moved:
    `head_motion` has the table's parameters about the centre of the grid. The pipeline's axes and centre may
    differ from ours, so it measures displacement but does not map points.
    """

    input_spec = _PrecomputedConfoundsInputSpec
    output_spec = _PrecomputedConfoundsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, vox2ras = open_series(self.inputs.in_file)
        n_volumes = series.shape[3]
        name = Path(self.inputs.table).name
        table = pd.read_csv(self.inputs.table, sep="\t", na_values="n/a")
        _check_table(table, n_volumes, name)
        centre = grid_centre(Grid(series.shape[:3], vox2ras))
        moved = parameters_to_matrices(table[list(MOTION_NAMES)].to_numpy(float), centre)
        asked = self.inputs.dummy_scans
        n_dummy = _count_dummies(table) if asked is None else min(asked, n_volumes - 2)
        kept = table[[column for column in table.columns if _is_kept(column)]]
        self._results["motion"] = _save_array("motion.npy", np.tile(np.eye(4), (n_volumes, 1, 1)))
        self._results["head_motion"] = _save_array("head_motion.npy", moved)
        self._results["dummies"] = list(range(n_dummy))
        self._results["table"] = str(Path.cwd() / "confounds.tsv")
        kept.to_csv(self._results["table"], sep="\t", index=False, na_rep="n/a", float_format="%.8g")
        self._results["description"] = str(Path.cwd() / "confounds.json")
        described = {column: _describe(column, self.inputs.made_by) for column in kept.columns}
        Path(self._results["description"]).write_text(json.dumps(described, indent=2))
        return runtime


class _PrecomputedMotionInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed raw series")
    transforms = File(exists=True, mandatory=True, desc="one ITK transform per volume, text")
    dummy_scans = traits.Either(
        None, traits.Int, usedefault=True, desc="volumes to drop; None to detect them"
    )


class _PrecomputedMotionOutputSpec(TraitedSpec):
    motion = File(desc="(N, 4, 4) point maps from the reference to each volume, RAS mm, .npy")
    dummies = traits.List(traits.Int, desc="non-steady-state volumes")


class PrecomputedMotion(SimpleInterface):
    """Read the head motion of a raw series that another pipeline estimated."""

    input_spec = _PrecomputedMotionInputSpec
    output_spec = _PrecomputedMotionOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, _ = open_series(self.inputs.in_file)
        motion = _read_motion(Path(self.inputs.transforms))
        if len(motion) != series.shape[3]:
            name = Path(self.inputs.transforms).name
            raise DataError(
                f"{name}: {len(motion)} transforms, {series.shape[3]} volumes: they belong to another series"
            )
        asked = self.inputs.dummy_scans
        n_dummy = detect_non_steady_state(series) if asked is None else min(asked, series.shape[3] - 2)
        self._results["motion"] = _save_array("motion.npy", motion)
        self._results["dummies"] = list(range(n_dummy))
        return runtime


class _PrecomputedBrainInputSpec(BrainExtractInputSpec):
    mask = File(exists=True, mandatory=True, desc="brain mask of the pipeline, in the same space")


class PrecomputedBrain(BrainExtract):
    """Remove the bias field of a mean image and divide it by its mean in the brain that a pipeline found."""

    input_spec = _PrecomputedBrainInputSpec

    def _brain(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        del image
        found, own = load(self.inputs.mask)
        name = Path(self.inputs.mask).name
        if found.ndim != 3:
            raise DataError(f"{name}: shape {found.shape}, expected one volume")
        inside = (found > 0).astype(np.uint8)
        mask = inside if own == grid else resample(inside, own.vox2ras, grid.points(), order=0)
        if not mask.any():
            raise DataError(
                f"{name}: no brain where the series is; mask and series do not lie in the same space"
            )
        return mask > 0


class _PrecomputedRegistrationInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="mean EPI without its bias field")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")
    contrast = traits.Enum(*[str(c) for c in Contrast], mandatory=True, desc="contrast of the image")
    transforms = traits.List(
        File(exists=True), usedefault=True, desc="ITK, from the image to the template; none: it is there"
    )
    judged = traits.List(traits.Str, usedefault=True, desc="files that a message names when the gate fails")
    made_by = traits.Str(mandatory=True, desc="name and version of the pipeline, for messages")


class _PrecomputedRegistrationOutputSpec(TraitedSpec):
    template2native = File(desc="point map from the template grid to the image, .npz")
    native2template = File(desc="point map from the image's grid to the template, .npz")
    gate = File(desc="JSON: figures of merit and the verdict")


class PrecomputedRegistration(SimpleInterface):
    """Turn another pipeline's way to the template into point maps; fails loudly below our own gate.

    The inverse is computed from the way there, so that both agree.
    """

    input_spec = _PrecomputedRegistrationInputSpec
    output_spec = _PrecomputedRegistrationOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image, grid = load(self.inputs.in_file)
        mask = load(self.inputs.mask)[0] > 0
        if self.inputs.transforms:
            # ITK applies the last of a composite first, and points go from the template to the image.
            steps = [read_transform(Path(path)) for path in self.inputs.transforms]
            template2native = itk_point_map(sitk.CompositeTransform(steps), RES02_GRID)
            gate = self._judge(image, mask, grid, template2native)
            native2template = inverted(template2native, grid)
        else:
            template2native = PointMap.from_affine(RES02_GRID, np.eye(4))
            gate = self._judge(image, mask, grid, template2native)
            native2template = PointMap.from_affine(grid, np.eye(4))
        self._results["template2native"] = save_map("template2native.npz", template2native)
        self._results["native2template"] = save_map("native2template.npz", native2template)
        path = Path.cwd() / "gate.json"
        path.write_text(json.dumps(asdict(gate), indent=2))
        self._results["gate"] = str(path)
        return runtime

    def _judge(self, image: np.ndarray, mask: np.ndarray, grid: Grid, template2native: PointMap) -> Gate:
        template = load_template(read_template(self.inputs.template), RES02_GRID)
        contrast = Contrast(self.inputs.contrast)
        painted, _ = to_units(paint_epi(template, contrast), template.mask)
        units, _ = to_units(image, mask)
        gate = judge(
            painted, template.mask, units, mask, grid, template2native, "precomputed", PRECOMPUTED_LIMITS
        )
        if not gate.passed:
            names = ", ".join(Path(name).name for name in self.inputs.judged)
            raise QualityError(
                f"{self.inputs.made_by}: registration to the template fails the quality gate ({gate.reason}) "
                f"with {names}; look at that pipeline's report, or leave its derivatives out so that the raw "
                "series is registered here"
            )
        return gate


def read_transform(path: Path) -> sitk.Transform:
    """Read one transform that ITK or ANTs has written: ``.h5``, ``.txt`` or ``.mat``.

    Raises
    ------
    DataError
        If ITK cannot read it.
    """
    try:
        return sitk.ReadTransform(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError(f"{path}: not a transform that ITK can read ({reason}); copy it again") from error


def _read_motion(path: Path) -> np.ndarray:
    """Read one ITK transform per volume as ``(N, 4, 4)`` point maps in RAS+ mm."""
    from nitransforms.io.itk import ITKLinearTransformArray  # late: a second

    try:
        matrices = ITKLinearTransformArray.from_filename(path).to_ras()
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"{path}: not a list of ITK transforms ({error}); copy it again") from error
    return np.asarray(matrices, float)


def _check_table(table: pd.DataFrame, n_volumes: int, name: str) -> None:
    """Refuse a table that is not of this series."""
    if len(table) != n_volumes:
        raise DataError(f"{name}: {len(table)} rows for {n_volumes} volumes; it belongs to another series")
    missing = [column for column in MOTION_NAMES if column not in table.columns]
    if missing or "framewise_displacement" not in table.columns:
        raise DataError(
            f"{name}: no columns {', '.join(missing) or 'framewise_displacement'}; it has "
            f"{', '.join(map(str, table.columns[:20]))}; head motion cannot be judged without them"
        )
    if table[list(MOTION_NAMES)].isna().any(axis=None):
        raise DataError(f"{name}: motion parameters are missing in some rows; run the pipeline again")


def _count_dummies(table: pd.DataFrame) -> int:
    """Count the volumes at the start that the table flags as not steady."""
    flags = table[[column for column in table.columns if str(column).startswith(DUMMY_PREFIX)]]
    is_dummy = flags.to_numpy(float).any(axis=1) if flags.shape[1] else np.zeros(len(table), bool)
    return int(np.argmin(is_dummy)) if not is_dummy.all() else 0


def _is_kept(column: str) -> bool:
    if column.startswith((DUMMY_PREFIX, "motion_outlier")):
        return True
    return any(column == name + ending for name in KEPT_COLUMNS for ending in KEPT_ENDINGS)


def _describe(column: str, made_by: str) -> dict[str, str]:
    """Describe a column that another pipeline computed; its own file says more."""
    unit = next((unit for start, unit in UNITS.items() if column.startswith(start)), "")
    unit = f"{unit}^2" if unit and column.endswith("_power2") else unit
    return {"Description": f"As computed by {made_by}"} | ({"Units": unit} if unit else {})


def _save_array(name: str, array: np.ndarray) -> str:
    path = Path.cwd() / name
    np.save(path, array)
    return str(path)
