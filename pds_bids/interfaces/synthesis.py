"""The learned step as a process of its own, and what is made of its output."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    CommandLine,
    CommandLineInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from nipype.interfaces.base.support import Bunch

from pds_bids.bids.names import output_path
from pds_bids.bids.sidecars import INTENDED_USE_WARNING, synthetic_header
from pds_bids.bids.write import write_json, write_nifti
from pds_bids.imaging.grid import resample
from pds_bids.interfaces.derivatives import Volumes
from pds_bids.interfaces.images import load, load_map, save
from pds_bids.modalities import ANATOMY, MODALITIES, TARGETS, Direction, Modality, field_prefix
from pds_bids.template import MODEL_GRID

__all__ = [
    "SYNTHETIC_FIELDS",
    "NameSources",
    "NameSynthetic",
    "Synthesize",
    "SyntheticImage",
    "SyntheticToNative",
    "synthetic_images",
]

#: What `Synthesize` gives: mean and standard deviation of every contrast, those of a direction.
SYNTHETIC_FIELDS = tuple(
    dict.fromkeys(f"{field_prefix(c)}{what}" for c in TARGETS for what in ("mean", "std"))
)


class SyntheticImage(NamedTuple):
    """One image that is written of a synthetic modality.

    Parameters
    ----------
    key : str
        Row of ``data/io_spec.json``.
    name : str
        Output of `NameSynthetic`.
    stack : str
        Field that it is made from, out of `SYNTHETIC_FIELDS`.
    volumes : Volumes
        Which volumes of the stack.
    """

    key: str
    name: str
    stack: str
    volumes: Volumes = Volumes.FIRST


def synthetic_images(target: Modality) -> list[SyntheticImage]:
    """Return every image that is written of a synthetic modality, the main one first.

    Examples
    --------
    >>> [image.key for image in synthetic_images(Modality.BOLD)]
    ['synthetic', 'synthetic_segments', 'synthetic_std']
    >>> [image.stack for image in synthetic_images(Modality.DWI)][3:]
    ['b0_mean', 'b0_std', 'fa_mean', 'fa_std', 'md_mean', 'md_std']
    """
    images = [
        SyntheticImage("synthetic", "synthetic", "mean"),
        SyntheticImage("synthetic_segments", "segments", "mean", Volumes.REST),
        SyntheticImage("synthetic_std", "std", "std"),
    ]
    for contrast in MODALITIES[target].contrasts[1:]:
        images.append(SyntheticImage(f"synthetic_{contrast}", str(contrast), f"{contrast}_mean"))
        images.append(SyntheticImage(f"synthetic_{contrast}std", f"{contrast}_std", f"{contrast}_std"))
    return images


class _NameSourcesInputSpec(BaseInterfaceInputSpec):
    contrasts = traits.List(traits.Str, mandatory=True, desc="contrasts of the source modality")
    first = File(exists=True, mandatory=True, desc="4D image of the first contrast")
    second = File(exists=True, desc="4D image of the second one")
    t1w = File(exists=True, desc="3D T1w of the person; absent when there is none that registered")
    t1w_problem = traits.Str(desc="why the T1w image does not fit the source; it is left out then")


class _NameSourcesOutputSpec(TraitedSpec):
    sources = traits.List(traits.Str, desc="contrast=FILE")
    t1w = File(desc="the T1w image, if it is among them")


class NameSources(SimpleInterface):
    """Say which file holds which contrast, as ``pds-bids-synth`` wants it.

    A T1w image that went to another place of the template than the source would draw the wrong folds.
    """

    input_spec = _NameSourcesInputSpec
    output_spec = _NameSourcesOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        files = (self.inputs.first, self.inputs.second)
        named = list(zip(self.inputs.contrasts, files, strict=False))
        if self.inputs.t1w and not self.inputs.t1w_problem:
            named.append((str(ANATOMY), self.inputs.t1w))
            self._results["t1w"] = self.inputs.t1w
        self._results["sources"] = [f"{contrast}={path}" for contrast, path in named if path]
        return runtime


class _SynthesizeInputSpec(CommandLineInputSpec):
    sources = traits.List(
        traits.Str, argstr="--source %s", mandatory=True, desc="contrast=FILE; the mean, then the segments"
    )
    mask = File(exists=True, argstr="--mask %s", mandatory=True, desc="brain mask on the model grid")
    template = File(exists=True, argstr="--template %s", mandatory=True, desc="4D template channels")
    plausibility = File(exists=True, argstr="--plausibility %s", desc="JSON from `JudgeSeries`")
    target = traits.Enum(
        *[str(m) for m in Modality], argstr="--target %s", mandatory=True, desc="what to write"
    )
    method = traits.Str(argstr="--method %s", mandatory=True, desc="name of the method")
    model_dir = Directory(exists=True, argstr="--model-dir %s", mandatory=True, desc="model bundle")
    weights_sha256 = traits.Str(desc="not passed on: new weights must not be mistaken for cached ones")
    output_dir = traits.Str("synthesis", usedefault=True, argstr="--output-dir %s", desc="folder to write to")
    seed = traits.Int(argstr="--seed %d", mandatory=True, desc="master seed")
    seed_names = traits.List(
        traits.Str, argstr="--seed-names %s", mandatory=True, desc="participant, session"
    )
    device = traits.Str("auto", usedefault=True, nohash=True, argstr="--device %s", desc="auto, cpu or cuda")
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="claims a GPU slot of Nipype's scheduler")
    num_threads = traits.Int(1, usedefault=True, nohash=True, argstr="--nthreads %d", desc="threads")


class _SynthesizeOutputSpec(TraitedSpec):
    mean = File(exists=True, desc="4D prediction of the main contrast: from the mean, then per segment")
    std = File(exists=True, desc="4D standard deviation of the same")
    b0_mean = File(desc="DWI: 4D prediction of the b0 image")
    b0_std = File(desc="DWI: its standard deviation")
    fa_mean = File(desc="DWI: 4D prediction of FA")
    fa_std = File(desc="DWI: its standard deviation")
    md_mean = File(desc="DWI: 4D prediction of MD, mm^2/s")
    md_std = File(desc="DWI: its standard deviation")
    metadata = File(exists=True, desc="JSON: model, seeds, device")


class Synthesize(CommandLine):
    """Run ``pds-bids-synth``: torch lives and dies in that process, and so does GPU memory."""

    # The module instead of the script: the environment of the app need not be on the PATH.
    _cmd = f"{sys.executable} -m pds_bids.cli.synth"
    input_spec = _SynthesizeInputSpec
    output_spec = _SynthesizeOutputSpec

    def _list_outputs(self) -> dict[str, str]:
        folder = Path(self.inputs.output_dir).absolute()
        contrasts = MODALITIES[Modality(self.inputs.target)].contrasts
        outputs = {"metadata": str(folder / "synthesis.json")}
        for contrast in contrasts:
            for what in ("mean", "std"):
                outputs[f"{field_prefix(contrast)}{what}"] = str(folder / f"{contrast}_{what}.nii.gz")
        return outputs


class _StacksInputSpec(BaseInterfaceInputSpec):
    """What `Synthesize` gives, as inputs."""

    mean = File(exists=True, mandatory=True, desc="4D, model grid: from the mean, then per segment")
    std = File(exists=True, mandatory=True, desc="4D, model grid: standard deviation of the same")
    b0_mean = File(exists=True, desc="DWI: 4D, model grid")
    b0_std = File(exists=True, desc="DWI: 4D, model grid")
    fa_mean = File(exists=True, desc="DWI: 4D, model grid")
    fa_std = File(exists=True, desc="DWI: 4D, model grid")
    md_mean = File(exists=True, desc="DWI: 4D, model grid, mm^2/s")
    md_std = File(exists=True, desc="DWI: 4D, model grid, mm^2/s")


class _SyntheticToNativeInputSpec(_StacksInputSpec):
    native2template = File(exists=True, mandatory=True, desc="point map from the source's grid")
    mask = File(exists=True, mandatory=True, desc="brain mask of the source, native")
    template_mask = File(exists=True, mandatory=True, desc="where there is a prediction, model grid")


class _SyntheticToNativeOutputSpec(TraitedSpec):
    mask = File(desc="where there is a prediction, on the source's grid")
    mean = File(desc="4D on the source's grid")
    std = File(desc="4D on the source's grid")
    b0_mean = File(desc="4D on the source's grid")
    b0_std = File(desc="4D on the source's grid")
    fa_mean = File(desc="4D on the source's grid")
    fa_std = File(desc="4D on the source's grid")
    md_mean = File(desc="4D on the source's grid")
    md_std = File(desc="4D on the source's grid")


class SyntheticToNative(SimpleInterface):
    """Resample what was synthesised onto the grid of the acquired source."""

    input_spec = _SyntheticToNativeInputSpec
    output_spec = _SyntheticToNativeOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        points = load_map(self.inputs.native2template)
        predicted = (load(self.inputs.template_mask)[0] > 0).astype(np.float32)
        weight = resample(predicted, MODEL_GRID.vox2ras, points.points, order=1)
        mask = (load(self.inputs.mask)[0] > 0) & (weight > 0.5)
        self._results["mask"] = save("mask.nii", mask, points.grid.vox2ras)
        for name in SYNTHETIC_FIELDS:
            source = getattr(self.inputs, name)
            if not source:
                continue
            volumes, _ = load(source)
            native = np.zeros((*mask.shape, volumes.shape[3]), np.float32)
            for k in range(volumes.shape[3]):
                volume = np.asarray(volumes[..., k])
                # Beyond the edge of the brain there are zeros, which must not be mixed in.
                inside = resample(volume, MODEL_GRID.vox2ras, points.points[mask], order=1)
                native[mask, k] = inside / weight[mask]
            self._results[name] = save(f"{name}.nii", native, points.grid.vox2ras)
        return runtime


class _NameSyntheticInputSpec(_StacksInputSpec):
    target = traits.Enum(*[str(m) for m in Modality], mandatory=True, desc="what was synthesised")
    metadata = File(exists=True, mandatory=True, desc="JSON: model, seeds, device")


class _NameSyntheticOutputSpec(TraitedSpec):
    synthetic = File(desc="3D prediction from the mean of the source")
    std = File(desc="3D standard deviation of it")
    segments = File(desc="4D: one volume per segment")
    b0 = File(desc="DWI: 3D prediction of the b0 image")
    b0_std = File(desc="DWI: 3D standard deviation of it")
    fa = File(desc="DWI: 3D prediction of FA")
    fa_std = File(desc="DWI: 3D standard deviation of it")
    md = File(desc="DWI: 3D prediction of MD, mm^2/s")
    md_std = File(desc="DWI: 3D standard deviation of it, mm^2/s")
    sidecar = File(desc="JSON that says what they are and how they were made")


class NameSynthetic(SimpleInterface):
    """Give synthetic images files that say so in name, header and sidecar, for nodes of other packages."""

    input_spec = _NameSyntheticInputSpec
    output_spec = _NameSyntheticOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        direction = Direction.to(Modality(self.inputs.target))
        for image in synthetic_images(direction.target):
            path = getattr(self.inputs, image.stack)
            if not path:
                continue
            data, grid = load(path)
            out_file = _own_name(image.key, direction.target)
            write_nifti(
                out_file,
                np.asarray(image.volumes.of(data)),
                grid.vox2ras,
                description=synthetic_header(direction),
                is_template_space=True,
            )
            self._results[image.name] = str(out_file)
        made = json.loads(Path(self.inputs.metadata).read_text())
        sidecar = _own_name("synthetic", direction.target, extension=".json")
        write_json(
            sidecar,
            {"Description": INTENDED_USE_WARNING, "Synthetic": True, "SkullStripped": True}
            | {"SyntheticFrom": str(direction.source)}
            | made,
        )
        self._results["sidecar"] = str(sidecar)
        return runtime


def _own_name(key: str, target: Modality, extension: str | None = None) -> Path:
    """Return the name of an output in the folder of the node; no participant is known here."""
    path = output_path(key, {"sub": ""}, target, in_template=True, extension=extension)
    return Path.cwd() / path.name.removeprefix("sub-_")
