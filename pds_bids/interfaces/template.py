"""Template and atlas, once per run."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from nipype.interfaces.base.support import Bunch

from pds_bids.interfaces.images import save
from pds_bids.template import MODEL_GRID, TemplateFiles, get_template, load_template

__all__ = ["FetchTemplate", "read_template"]


class _FetchTemplateInputSpec(BaseInterfaceInputSpec):
    cache_dir = Directory(desc="where a template built from wheels is kept; the node's folder by default")
    templateflow_home = traits.Str(desc="not used: a change of TEMPLATEFLOW_HOME must not find an old result")


class _FetchTemplateOutputSpec(TraitedSpec):
    template = File(desc="JSON with the paths of the template's files and their origin")
    channels = File(desc="4D: grey matter, white matter, CSF, T1w, on the model grid")
    origin = traits.Str(desc="where the files come from, in words")


class FetchTemplate(SimpleInterface):
    """Find the template, or build it from the installed wheels, and put it on the model grid."""

    input_spec = _FetchTemplateInputSpec
    output_spec = _FetchTemplateOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        files = get_template(Path(self.inputs.cache_dir) if self.inputs.cache_dir else Path.cwd())
        listing = Path("template.json").absolute()
        listing.write_text(json.dumps({key: str(value) for key, value in asdict(files).items()}, indent=2))
        template = load_template(files, MODEL_GRID)
        t1w = template.t1w / template.t1w[template.mask].mean()
        channels = np.stack([template.gm, template.wm, template.csf, np.where(template.mask, t1w, 0)], -1)
        self._results["template"] = str(listing)
        self._results["channels"] = save("template.nii", channels.astype(np.float32), MODEL_GRID.vox2ras)
        self._results["origin"] = files.origin
        return runtime


def read_template(listing: str) -> TemplateFiles:
    """Read what `FetchTemplate` found."""
    fields = json.loads(Path(listing).read_text())
    paths = {key: Path(value) for key, value in fields.items() if key not in ("atlas_name", "origin")}
    return TemplateFiles(**paths, atlas_name=fields["atlas_name"], origin=fields["origin"])
