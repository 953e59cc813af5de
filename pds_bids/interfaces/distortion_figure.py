"""Figure of a series before and after distortion correction."""

import json
from pathlib import Path

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch

from pds_bids.imaging.grid import apply_affine, resample
from pds_bids.imaging.masks import rough_brain_mask
from pds_bids.interfaces.images import load
from pds_bids.interfaces.outside import OutsideInterface

__all__ = ["DistortionFigure"]


class _DistortionFigureInputSpec(BaseInterfaceInputSpec):
    figure = traits.Str(mandatory=True, desc="where to write, absolute")
    title = traits.Str(mandatory=True, desc="heading")
    before = File(exists=True, mandatory=True, desc="distorted mean (DWI: b0), RAS+")
    after = File(exists=True, desc="the same undone; nothing to draw without")
    hz = File(exists=True, desc="field on the same grid; nothing to draw without")
    qc = File(exists=True, mandatory=True, desc="from EstimateField or FieldFromBlipGroups")
    t1w = File(exists=True, desc="T1w image")
    t1w_mask = File(exists=True, desc="its brain mask")
    t1w2epi = File(exists=True, desc="4 x 4 point map, RAS mm, .npy")


class _DistortionFigureOutputSpec(TraitedSpec):
    out_file = traits.Str(desc="the figure; undefined when there was no field to draw")


class DistortionFigure(OutsideInterface):
    """Mean image before and after, the T1w image where it is registered, and the field."""

    input_spec = _DistortionFigureInputSpec
    output_spec = _DistortionFigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        from pds_bids.reports.distortion import distortion_figure  # late: matplotlib
        from pds_bids.reports.figures import save_figure

        if not (self.inputs.after and self.inputs.hz):
            return runtime
        before, grid = load(self.inputs.before)
        after, _ = load(self.inputs.after)
        hz, _ = load(self.inputs.hz)
        t1w = t1w_mask = None
        if self.inputs.t1w and self.inputs.t1w_mask and self.inputs.t1w2epi:
            places = apply_affine(np.linalg.inv(np.load(self.inputs.t1w2epi)), grid.points())
            image, t1w_grid = load(self.inputs.t1w)
            brain = (load(self.inputs.t1w_mask)[0] > 0).astype(np.float32)
            t1w = resample(np.asarray(image, np.float32), t1w_grid.vox2ras, places, order=1)
            t1w_mask = resample(brain, t1w_grid.vox2ras, places, order=1)
        figure = distortion_figure(
            np.asarray(before),
            np.asarray(after),
            np.asarray(hz),
            grid,
            rough_brain_mask(np.asarray(after), grid),
            title=self.inputs.title,
            is_used=bool(json.loads(Path(self.inputs.qc).read_text())["used"]),
            t1w=t1w,
            t1w_mask=t1w_mask,
        )
        self._results["out_file"] = str(save_figure(figure, Path(self.inputs.figure)))
        return runtime
