"""Whether a series is what its name says, before anything is made of it."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch

from pds_bids.imaging.plausibility import judge_bold, judge_weighting, volume_levels
from pds_bids.interfaces.images import load, open_series
from pds_bids.interfaces.series import read_gradients

__all__ = ["JudgeSeries"]

_LOG = logging.getLogger("pds_bids.interfaces")


class _JudgeSeriesInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed series")
    mask = File(exists=True, mandatory=True, desc="brain mask of the reference")
    dummies = traits.List(traits.Int, usedefault=True, desc="BOLD: non-steady-state volumes")
    gradients = File(exists=True, desc="DWI: from ConformGradients")
    series_name = traits.Str(mandatory=True, desc="what messages call the series")
    told = traits.List(traits.Str, usedefault=True, desc="what its sidecar says against its name")


class _JudgeSeriesOutputSpec(TraitedSpec):
    mask = File(desc="the same mask: what takes it from here waits for the verdict")
    plausibility = File(desc="JSON: how much signal weighting leaves, and all doubts")


class JudgeSeries(SimpleInterface):
    """Compare the signal of volumes with physics; a diffusion series without weighting is refused."""

    input_spec = _JudgeSeriesInputSpec
    output_spec = _JudgeSeriesOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series, _ = open_series(self.inputs.in_file)
        levels = volume_levels(series, load(self.inputs.mask)[0] > 0)
        name = self.inputs.series_name
        if self.inputs.gradients:
            verdict = judge_weighting(levels, read_gradients(self.inputs.gradients), name=name)
        else:
            verdict = judge_bold(levels, self.inputs.dummies, name=name)
        verdict = replace(verdict, doubts=(*self.inputs.told, *verdict.doubts))
        for doubt in verdict.doubts:
            _LOG.warning("%s", doubt)
        path = Path.cwd() / "plausibility.json"
        path.write_text(json.dumps(asdict(verdict)))
        self._results["plausibility"] = str(path)
        self._results["mask"] = self.inputs.mask
        return runtime
