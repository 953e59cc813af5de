"""The only way out: files get their final names here, whole or not at all."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    DynamicTraitedSpec,
    File,
    TraitedSpec,
    traits,
)
from nipype.interfaces.base.support import Bunch

from pds_bids.bids.names import is_on_template_grid
from pds_bids.bids.write import replacing, write_json, write_nifti, write_text
from pds_bids.imaging.grid import from_ras
from pds_bids.imaging.registration import to_itk_displacement
from pds_bids.interfaces.images import load, load_map, stored_affine
from pds_bids.interfaces.outside import OutsideInterface

__all__ = ["SaveDerivatives", "Volumes"]

INTENT_VECTOR = 1007


class Volumes(StrEnum):
    """Which volumes of a stack (overall mean first, then segments) an output holds."""

    ALL = "all"
    FIRST = "first"
    REST = "rest"

    def of(self, stack: np.ndarray) -> np.ndarray:
        """Return these volumes of a stack."""
        if self is Volumes.FIRST:
            return stack[..., 0]
        return stack[..., 1:] if self is Volumes.REST else stack


class _SaveDerivativesInputSpec(DynamicTraitedSpec, BaseInterfaceInputSpec):
    output_dir = Directory(mandatory=True, desc="derivative dataset")
    paths = traits.Dict(traits.Str, traits.Str, mandatory=True, desc="output to path below the dataset")
    sidecars = traits.Dict(
        traits.Str, traits.Dict, usedefault=True, desc="output to content of its JSON file"
    )
    more_of = traits.Dict(
        traits.Str,
        traits.Str,
        usedefault=True,
        desc="output to the input, JSON, that is added to its sidecar",
    )
    volumes = traits.Dict(traits.Str, traits.Str, usedefault=True, desc="output to `Volumes`")
    inputs_of = traits.Dict(
        traits.Str, traits.Str, mandatory=True, desc="output to the input it is made from"
    )
    like = File(desc="acquired image whose storage order native outputs get back")
    description = traits.Str("", usedefault=True, desc="text for the header of images")
    metadata = File(exists=True, desc="JSON merged into every sidecar")


class _SaveDerivativesOutputSpec(TraitedSpec):
    out_files = traits.List(traits.Str, desc="what was written")


class SaveDerivatives(OutsideInterface):
    """Write a group of outputs: images, transforms and tables, each with its sidecar.

    Parameters
    ----------
    names : list of str
        Names of the file inputs.
    """

    input_spec = _SaveDerivativesInputSpec
    output_spec = _SaveDerivativesOutputSpec

    def __init__(self, names: list[str] | None = None, **inputs: Any) -> None:
        super().__init__(**inputs)
        self._names = names or []
        for name in self._names:
            self.inputs.add_trait(name, File())
        self.inputs.trait_set(trait_change_notify=False, **dict.fromkeys(self._names, traits.Undefined))

    def _run_interface(self, runtime: Bunch) -> Bunch:
        written = []
        extra = json.loads(Path(self.inputs.metadata).read_text()) if self.inputs.metadata else {}
        for output, relative in self.inputs.paths.items():
            source = getattr(self.inputs, self.inputs.inputs_of[output])
            if not source:
                continue
            path = Path(self.inputs.output_dir) / relative
            self._write(output, Path(source), path)
            sidecar = self.inputs.sidecars.get(output)
            if sidecar is not None:
                more = getattr(self.inputs, self.inputs.more_of.get(output, ""), None)
                own = json.loads(Path(more).read_text()) if more else {}
                write_json(path.with_name(path.name.split(".")[0] + ".json"), sidecar | own | extra)
            written.append(str(path))
        self._results["out_files"] = written
        return runtime

    def _write(self, output: str, source: Path, path: Path) -> None:
        if path.suffix in (".json", ".tsv"):
            write_text(path, source.read_text())
        elif source.suffix == ".npz":
            self._write_field(source, path)
        elif source.suffix == ".npy":
            _write_itk(np.load(source), path)
        else:
            self._write_image(output, source, path)

    def _write_image(self, output: str, source: Path, path: Path) -> None:
        data, grid = load(source)
        data = Volumes(self.inputs.volumes.get(output, Volumes.ALL)).of(data)
        in_template = is_on_template_grid(path)
        data, vox2ras = (data, grid.vox2ras) if in_template else self._as_stored(data)
        write_nifti(
            path,
            np.asarray(data),
            vox2ras,
            description=self.inputs.description,
            is_template_space=in_template,
        )

    def _as_stored(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the array in the storage order of the acquired image, and that image's affine."""
        vox2ras, _ = stored_affine(self.inputs.like)
        return from_ras(data, nib.io_orientation(vox2ras)), vox2ras

    def _write_field(self, source: Path, path: Path) -> None:
        points = load_map(source)
        image = nib.Nifti1Image(to_itk_displacement(points), points.grid.vox2ras)
        image.header.set_intent(INTENT_VECTOR)
        image.set_sform(points.grid.vox2ras, 1)
        image.set_qform(points.grid.vox2ras, 1)
        with replacing(path) as scratch:
            image.to_filename(scratch)


def _write_itk(matrices: np.ndarray, path: Path) -> None:
    from nitransforms.linear import Affine, LinearTransformsMapping  # late: a second

    transform = Affine(matrices) if matrices.ndim == 2 else LinearTransformsMapping(matrices)
    with replacing(path) as scratch:
        transform.to_filename(scratch, fmt="itk")
