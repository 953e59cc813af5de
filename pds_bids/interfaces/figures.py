"""Figures of the report: load arrays, draw, save below ``sub-XX/figures``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from nipype.interfaces.base import BaseInterfaceInputSpec, File, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch

from pds_bids.imaging.confounds import framewise_displacement
from pds_bids.imaging.dwi import rotate_bvecs
from pds_bids.imaging.grid import PointMap, resample
from pds_bids.imaging.intensity import to_units
from pds_bids.imaging.motion import matrices_to_parameters
from pds_bids.imaging.parcels import parcel_means
from pds_bids.imaging.rigid import grid_centre
from pds_bids.interfaces.images import load, load_map
from pds_bids.interfaces.outside import OutsideInterface
from pds_bids.interfaces.segments import read_segments
from pds_bids.interfaces.series import read_gradients
from pds_bids.interfaces.template import read_template
from pds_bids.template import MODEL_GRID, RES02_GRID, load_template

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pds_bids.reports.charts import Signals

__all__ = [
    "GradientFigure",
    "MaskFigure",
    "MotionFigure",
    "ParcelFigure",
    "RegistrationFigure",
    "SyntheticFigure",
    "TensorFigure",
]


class _FigureInputSpec(BaseInterfaceInputSpec):
    figure = traits.Str(mandatory=True, desc="where to write, absolute")
    title = traits.Str(mandatory=True, desc="heading")


class _FigureOutputSpec(TraitedSpec):
    out_file = traits.Str(desc="the figure")


class _MaskFigureInputSpec(_FigureInputSpec):
    in_file = File(exists=True, mandatory=True, desc="mean image")
    mask = File(exists=True, mandatory=True, desc="brain mask")


class MaskFigure(OutsideInterface):
    """Mean image with the contour of its brain mask."""

    input_spec = _MaskFigureInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        from pds_bids.reports.figures import mask_figure  # late: matplotlib

        image, grid = load(self.inputs.in_file)
        mask, _ = load(self.inputs.mask)
        self._results["out_file"] = _save(
            mask_figure(image, grid, mask > 0, title=self.inputs.title), self.inputs.figure
        )
        return runtime


class _RegistrationFigureInputSpec(_FigureInputSpec):
    in_file = File(exists=True, desc="image without its bias field; nothing to draw without")
    mask = File(exists=True, desc="brain mask")
    template2native = File(exists=True, desc="point map; nothing to draw without")
    gate = File(exists=True, mandatory=True, desc="verdict")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")
    template_figure = traits.Str(mandatory=True, desc="where to write the template alone, absolute")


class RegistrationFigure(OutsideInterface):
    """Image and template as two pictures with the same planes and outlines, for a slider between them."""

    input_spec = _RegistrationFigureInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        from pds_bids.reports.figures import registration_pair  # late: matplotlib
        from pds_bids.reports.verdict import Verdict

        if not self.inputs.template2native:
            return runtime
        image, grid = load(self.inputs.in_file)
        mask, _ = load(self.inputs.mask)
        template = load_template(read_template(self.inputs.template), RES02_GRID)
        points = (
            PointMap.from_affine(RES02_GRID, np.eye(4)).then(load_map(self.inputs.template2native)).points
        )
        warped = resample(image, grid.vox2ras, points, order=1)
        warped_mask = resample(mask.astype(np.float32), grid.vox2ras, points, order=1) > 0.5
        outlines = {"brain": template.mask, "white matter": template.wm > 0.5, "CSF": template.csf > 0.5}
        below, figure = registration_pair(
            template.t1w,
            warped,
            RES02_GRID,
            outlines,
            warped_mask,
            title=self.inputs.title,
            verdict=Verdict.from_gate(json.loads(Path(self.inputs.gate).read_text())),
        )
        _save(below, self.inputs.template_figure)
        self._results["out_file"] = _save(figure, self.inputs.figure)
        return runtime


class _MotionFigureInputSpec(_FigureInputSpec):
    reference = File(exists=True, mandatory=True, desc="an image on the grid of the series")
    motion = File(exists=True, mandatory=True, desc="point maps from the reference to each volume")
    segments = File(exists=True, mandatory=True, desc="from CutBold or CutDWI")
    censored = traits.List(traits.Int, usedefault=True, desc="volumes left out")
    starts = traits.List(traits.Int, [0], usedefault=True, desc="first volume of each run")
    tr_s = traits.Either(None, traits.Float, usedefault=True, desc="repetition time")
    fd_threshold_mm = traits.Either(None, traits.Float, usedefault=True, desc="drawn as a line")
    carpet = File(exists=True, desc="BOLD: signals of voxels by tissue, .npz")
    confounds = File(exists=True, desc="BOLD: TSV with std_dvars and global_signal")


class MotionFigure(OutsideInterface):
    """Head motion with segments and censored volumes, and what became of the signal."""

    input_spec = _MotionFigureInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        from pds_bids.reports.charts import motion_figure  # late: matplotlib

        _, grid = load(self.inputs.reference)
        parameters = matrices_to_parameters(np.load(self.inputs.motion), grid_centre(grid))
        displacement_mm = framewise_displacement(parameters)
        displacement_mm[self.inputs.starts] = np.nan
        figure = motion_figure(
            parameters,
            displacement_mm,
            self.inputs.censored,
            tr_s=self.inputs.tr_s,
            threshold_mm=self.inputs.fd_threshold_mm,
            segments=[segment.volumes for segment in read_segments(self.inputs.segments)],
            signals=self._signals(),
            title=self.inputs.title,
        )
        self._results["out_file"] = _save(figure, self.inputs.figure)
        return runtime

    def _signals(self) -> "Signals | None":
        from pds_bids.reports.charts import Signals  # late: matplotlib

        if not self.inputs.carpet or not self.inputs.confounds:
            return None
        table = pd.read_csv(self.inputs.confounds, sep="\t", na_values="n/a")
        with np.load(self.inputs.carpet) as carpet:
            rows = {name: carpet[name] for name in carpet.files}
        return Signals(rows, *(table[name].to_numpy(float) for name in ("std_dvars", "global_signal")))


class _GradientFigureInputSpec(_FigureInputSpec):
    gradients = File(exists=True, mandatory=True, desc="from ConformGradients")
    motion = File(exists=True, mandatory=True, desc="rotates the directions")
    segments = File(exists=True, mandatory=True, desc="from CutDWI")


class GradientFigure(OutsideInterface):
    """Gradient directions and b-values, by segment."""

    input_spec = _GradientFigureInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        from pds_bids.reports.charts import gradient_figure  # late: matplotlib

        table = read_gradients(self.inputs.gradients)
        rotated = rotate_bvecs(table.bvecs, np.load(self.inputs.motion))
        segments = [segment.volumes for segment in read_segments(self.inputs.segments)]
        figure = gradient_figure(table.bvals, rotated, segments, title=self.inputs.title)
        self._results["out_file"] = _save(figure, self.inputs.figure)
        return runtime


class _TensorFigureInputSpec(_FigureInputSpec):
    fa = File(exists=True, desc="fractional anisotropy; nothing to draw without")
    md = File(exists=True, desc="mean diffusivity, mm2/s")
    mask = File(exists=True, mandatory=True, desc="brain mask")


class TensorFigure(OutsideInterface):
    """Fractional anisotropy and mean diffusivity."""

    input_spec = _TensorFigureInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        from pds_bids.reports.tensor import tensor_figure  # late: matplotlib

        if not self.inputs.fa:
            return runtime
        fa, grid = load(self.inputs.fa)
        md, mask = load(self.inputs.md)[0], load(self.inputs.mask)[0] > 0
        figure = tensor_figure(np.asarray(fa), np.asarray(md), grid, mask, title=self.inputs.title)
        self._results["out_file"] = _save(figure, self.inputs.figure)
        return runtime


class _SyntheticFigureInputSpec(_FigureInputSpec):
    source = File(exists=True, mandatory=True, desc="4D, model grid")
    mean = File(exists=True, mandatory=True, desc="4D, model grid")
    std = File(exists=True, mandatory=True, desc="4D, model grid")
    mask = File(exists=True, mandatory=True, desc="brain mask, model grid")
    acquired = File(exists=True, desc="4D, model grid")
    names = traits.Tuple(traits.Str, traits.Str, mandatory=True, desc="what source and target are")
    map_unit = traits.Tuple(
        traits.Str, traits.Float, desc="of a map: its unit, and what the figure's 1 is in files"
    )


class SyntheticFigure(OutsideInterface):
    """Source, synthetic volume, uncertainty, and the acquired target where there is one."""

    input_spec = _SyntheticFigureInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        from pds_bids.reports.figures import synthetic_figure  # late: matplotlib

        mask, grid = load(self.inputs.mask)
        mask = mask > 0
        source, mean, std = (
            np.asarray(load(path)[0][..., 0])
            for path in (self.inputs.source, self.inputs.mean, self.inputs.std)
        )
        acquired = None
        if self.inputs.acquired:
            acquired = np.asarray(load(self.inputs.acquired)[0])
            acquired = acquired if acquired.ndim == 3 else acquired[..., 0]
        unit, value = self.inputs.map_unit or ("× in-brain mean", 1.0)
        if acquired is not None:
            acquired = acquired / value if self.inputs.map_unit else to_units(acquired, mask)[0]
        figure = synthetic_figure(
            to_units(source, mask)[0],
            mean / value,
            std / value,
            mask,
            grid,
            names=self.inputs.names,
            acquired=acquired,
            unit=unit,
        )
        self._results["out_file"] = _save(figure, self.inputs.figure)
        return runtime


class _ParcelFigureInputSpec(_FigureInputSpec):
    mean = File(exists=True, mandatory=True, desc="4D synthetic volume, model grid")
    std = File(exists=True, mandatory=True, desc="4D, model grid")
    acquired = File(exists=True, mandatory=True, desc="4D, model grid")
    mask = File(exists=True, mandatory=True, desc="brain mask of the source, model grid")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")


class ParcelFigure(OutsideInterface):
    """Parcels of the synthetic volume over those of the acquired one; the title names what was predicted."""

    input_spec = _ParcelFigureInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        from pds_bids.reports.parcels import parcel_figure  # late: matplotlib

        template = load_template(read_template(self.inputs.template), MODEL_GRID)
        mask = load(self.inputs.mask)[0] > 0
        first = {
            name: np.asarray(load(getattr(self.inputs, name))[0][..., 0])
            for name in ("mean", "std", "acquired")
        }
        # One scale for both: that of the figure of the volumes.
        first["acquired"], _ = to_units(first["acquired"], mask)
        both = mask & (first["acquired"] > 0)
        labels = sorted(template.atlas_labels)
        stack = np.stack([first["acquired"], first["mean"], first["std"]], axis=-1)
        acquired, mean, std = parcel_means(stack, template.atlas, both, labels)
        figure = parcel_figure(
            acquired, mean, std, [template.atlas_labels[k] for k in labels], name=self.inputs.title
        )
        self._results["out_file"] = _save(figure, self.inputs.figure)
        return runtime


def _save(figure: "Figure", path: str) -> str:
    from pds_bids.reports.figures import save_figure  # late: matplotlib

    return str(save_figure(figure, Path(path)))
