"""Registration to the template, and the check of two paths against each other."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits
from nipype.interfaces.base.support import Bunch
from scipy import ndimage

from pds_bids.exceptions import DataError, QualityError
from pds_bids.imaging.agreement import require_agreement
from pds_bids.imaging.grid import Grid, PointMap, resample
from pds_bids.imaging.intensity import n4_bias
from pds_bids.imaging.registration import (
    Registration,
    RegistrationFailure,
    agreed_mask,
    mask_in_native,
    register_epi_to_template,
    register_rigid,
    register_t1w_to_template,
)
from pds_bids.imaging.tissues import Template
from pds_bids.interfaces.images import load, load_map, save, save_map
from pds_bids.interfaces.template import read_template
from pds_bids.modalities import Contrast
from pds_bids.template import MODEL_GRID, RES02_GRID, load_template

__all__ = ["AgreeOnRegistration", "BridgeThroughT1w", "RegisterEPI", "RegisterT1w", "ResampleT1w"]

# Standard deviation of what a voxel of the model grid averages.
T1W_SIGMA_MM = 1.0


class _RegistrationOutputSpec(TraitedSpec):
    template2native = File(desc="point map from the template grid to the image, .npz")
    native2template = File(desc="point map from the image's grid to the template, .npz")
    gate = File(desc="JSON: figures of merit and the verdict")


class _RegisterEPIInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="mean EPI without its bias field")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")
    contrast = traits.Enum(*[str(c) for c in Contrast], mandatory=True, desc="contrast of the image")
    sloppy = traits.Bool(False, usedefault=True, desc="coarser and faster")
    failed_figure = traits.Str(desc="where a failure is drawn, absolute; default: the node's folder")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _RegisterEPIOutputSpec(_RegistrationOutputSpec):
    agreed_mask = File(desc="brain mask less what lies well outside of the template's brain")


class RegisterEPI(SimpleInterface):
    """Register a mean EPI straight to the template; fails loudly below the gate.

    A failure leaves a picture of itself, which the message names.
    """

    input_spec = _RegisterEPIInputSpec
    output_spec = _RegisterEPIOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image, grid = load(self.inputs.in_file)
        mask = load(self.inputs.mask)[0] > 0
        template = load_template(read_template(self.inputs.template), RES02_GRID)
        contrast = Contrast(self.inputs.contrast)
        sloppy, threads = self.inputs.sloppy, self.inputs.num_threads
        try:
            found = register_epi_to_template(
                image, mask, grid, template, contrast, sloppy=sloppy, nthreads=threads
            )
        except RegistrationFailure as error:
            path = Path(self.inputs.failed_figure or Path.cwd() / "failed_registration.png")
            _draw_failure(error, image, mask, grid, template, path)
            # Without the arrays: the message goes to another process.
            raise QualityError(f"{error}; picture: {path}") from None
        self._results |= _save_registration(found)
        agreed = agreed_mask(mask, grid, mask_in_native(found, template))
        self._results["agreed_mask"] = save("agreed_mask.nii", agreed, grid.vox2ras)
        return runtime


class _RegisterT1wInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="T1w image, whole head, in any storage order")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")
    sloppy = traits.Bool(False, usedefault=True, desc="coarser and faster")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _RegisterT1wOutputSpec(_RegistrationOutputSpec):
    out_file = File(desc="T1w image without its bias field, RAS+")
    mask = File(desc="brain mask")


class RegisterT1w(SimpleInterface):
    """Register a T1w image to the template and take its brain mask and bias field.

    A T1w image that does not register leaves a gate that says so, and no maps: it is a second opinion on the
    echo-planar image, which has a gate of its own.
    """

    input_spec = _RegisterT1wInputSpec
    output_spec = _RegisterT1wOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image, grid = load(self.inputs.in_file)
        image = np.asarray(image, np.float32)
        threads = self.inputs.num_threads
        template = load_template(read_template(self.inputs.template), RES02_GRID)
        try:
            found = register_t1w_to_template(
                image, grid, template, sloppy=self.inputs.sloppy, nthreads=threads
            )
        except RegistrationFailure as error:
            path = Path.cwd() / "failed_registration.png"
            _draw_failure(error, image, np.zeros(grid.shape, bool), grid, template, path)
            self._results["gate"] = _save_json({"passed": False, "reason": f"{error}; picture: {path}"})
            return runtime
        except DataError as error:
            self._results["gate"] = _save_json({"passed": False, "reason": str(error)})
            return runtime
        mask = mask_in_native(found, template)
        # A rough field will do for tests; it is half of what a coarse registration costs.
        bias = n4_bias(image, grid, mask, n_iterations=20 if self.inputs.sloppy else 50, nthreads=threads)
        self._results |= _save_registration(found)
        self._results["out_file"] = save("t1w.nii", image / bias, grid.vox2ras)
        self._results["mask"] = save("mask.nii", mask, grid.vox2ras)
        return runtime


class _ResampleT1wInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, desc="T1w image without its bias field; absent when it did not register")
    template2native = File(exists=True, desc="point map from the template grid to the image, .npz")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")


class _ResampleT1wOutputSpec(TraitedSpec):
    out_file = File(desc="T1w image on the model grid, zero outside of the template's brain")


class ResampleT1w(SimpleInterface):
    """Bring the T1w image to the model grid, once; nothing for one that did not register."""

    input_spec = _ResampleT1wInputSpec
    output_spec = _ResampleT1wOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        if not self.inputs.in_file:
            return runtime
        image, grid = load(self.inputs.in_file)
        # Its voxels are finer than the grid's: averaged, so that what is between grid points counts, too.
        sigma = [T1W_SIGMA_MM / zoom for zoom in grid.zooms]
        smooth = ndimage.gaussian_filter(np.asarray(image, np.float32), sigma)
        registration = load_map(self.inputs.template2native)
        points = PointMap.from_affine(MODEL_GRID, np.eye(4)).then(registration).points
        mask = load_template(read_template(self.inputs.template), MODEL_GRID).mask
        volume = np.zeros(MODEL_GRID.shape, np.float32)
        volume[mask] = np.maximum(resample(smooth, grid.vox2ras, points[mask], order=1), 0)
        self._results["out_file"] = save("t1w.nii", volume, MODEL_GRID.vox2ras)
        return runtime


class _BridgeThroughT1wInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="mean EPI without its bias field")
    mask = File(exists=True, mandatory=True, desc="brain mask of the EPI")
    t1w = File(exists=True, desc="T1w image without its bias field; absent when it did not register")
    t1w_mask = File(exists=True, desc="brain mask of the T1w image")
    template2t1w = File(exists=True, desc="point map")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _BridgeThroughT1wOutputSpec(TraitedSpec):
    template2native = File(desc="point map from the template grid through the T1w image, .npz")
    t1w2epi = File(desc="4 x 4 point map, RAS mm, .npy")
    problem = traits.Str(desc="why the two images of a head do not fit each other; empty if they do")


class BridgeThroughT1w(SimpleInterface):
    """Register the EPI rigidly to the T1w image and compose with the T1w image's way to the template."""

    input_spec = _BridgeThroughT1wInputSpec
    output_spec = _BridgeThroughT1wOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        if not self.inputs.template2t1w:
            return runtime
        epi, epi_grid = load(self.inputs.in_file)
        epi_mask = load(self.inputs.mask)[0] > 0
        t1w, t1w_grid = load(self.inputs.t1w)
        t1w_mask = load(self.inputs.t1w_mask)[0] > 0
        # The EPI has twenty times fewer voxels: on its grid the search costs that much less.
        epi2t1w, gate = register_rigid(
            epi, epi_grid, epi_mask, t1w, t1w_grid, t1w_mask, nthreads=self.inputs.num_threads
        )
        self._results["problem"] = gate.reason
        if not gate.passed:
            return runtime
        t1w2epi = np.linalg.inv(epi2t1w)
        through = load_map(self.inputs.template2t1w).then(t1w2epi)
        path = Path.cwd() / "t1w2epi.npy"
        np.save(path, t1w2epi)
        self._results["t1w2epi"] = str(path)
        self._results["template2native"] = save_map("template2native.npz", through)
        return runtime


class _AgreeOnRegistrationInputSpec(BaseInterfaceInputSpec):
    gate = File(exists=True, mandatory=True, desc="of the direct path")
    direct = File(exists=True, mandatory=True, desc="point map of the direct path")
    bridge = File(exists=True, desc="point map through the T1w image, or nothing")
    bridge_problem = traits.Str(desc="why there is none although there is a T1w image")
    template = File(exists=True, mandatory=True, desc="from FetchTemplate")


class _AgreeOnRegistrationOutputSpec(TraitedSpec):
    gate = File(desc="the gate with the distance between the paths")


class AgreeOnRegistration(SimpleInterface):
    """Compare the direct path with the one through the T1w image; fails where they contradict each other."""

    input_spec = _AgreeOnRegistrationInputSpec
    output_spec = _AgreeOnRegistrationOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        gate = json.loads(Path(self.inputs.gate).read_text())
        if self.inputs.bridge:
            direct = load_map(self.inputs.direct)
            bridge = PointMap.from_affine(direct.grid, np.eye(4)).then(load_map(self.inputs.bridge))
            mask = load_template(read_template(self.inputs.template), direct.grid).mask
            gate["two_path_mm"] = require_agreement(direct, bridge, mask)
        gate["two_path_problem"] = self.inputs.bridge_problem or ""
        self._results["gate"] = _save_json(gate)
        return runtime


def _draw_failure(
    error: RegistrationFailure,
    image: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    template: Template,
    path: Path,
) -> None:
    """Draw where a failed registration ended, or the image with its mask if no pose was found."""
    from pds_bids.reports.figures import Verdict, mask_figure, registration_figure, save_figure  # late
    from pds_bids.reports.verdict import GateStatus

    if error.template2native_affine is None:
        figure = mask_figure(image, grid, mask, title="no pose found: image and its brain mask")
    else:
        points = PointMap.from_affine(template.grid, error.template2native_affine).points
        figure = registration_figure(
            template.t1w,
            resample(image, grid.vox2ras, points, order=1),
            template.grid,
            {"brain": template.mask, "white matter": template.wm > 0.5, "CSF": template.csf > 0.5},
            resample(mask.astype(np.float32), grid.vox2ras, points, order=1) > 0.5,
            title="failed registration, affine",
            verdict=Verdict(GateStatus.FAILED, str(error)),
        )
    save_figure(figure, path)


def _save_registration(found: Registration) -> dict[str, str]:
    maps: dict[str, PointMap] = {
        "template2native": found.template2native,
        "native2template": found.native2template,
    }
    saved = {name: save_map(f"{name}.npz", points) for name, points in maps.items()}
    return saved | {"gate": _save_json(asdict(found.gate))}


def _save_json(content: dict[str, object]) -> str:
    path = Path.cwd() / "gate.json"
    path.write_text(json.dumps(content, indent=2))
    return str(path)
