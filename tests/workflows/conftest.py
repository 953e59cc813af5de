"""A simulated participant, preprocessed by the app, and derivative trees made of the result."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nipype.pipeline import engine as pe
from scipy.spatial.transform import Rotation

from pds_bids.bids.derivatives import Pipeline, find_derivatives, find_precomputed
from pds_bids.bids.metadata import parse_entities
from pds_bids.bids.series import Series
from pds_bids.imaging.confounds import bold_confounds, dwi_confounds
from pds_bids.imaging.dwi import ras_to_fsl_bvecs, rotate_bvecs
from pds_bids.imaging.grid import Grid, PointMap, apply_affine, resample
from pds_bids.imaging.motion import matrices_to_parameters
from pds_bids.imaging.rigid import grid_centre
from pds_bids.interfaces.images import load_map
from pds_bids.interfaces.series import read_gradients
from pds_bids.interfaces.template import FetchTemplate
from pds_bids.modalities import Modality
from pds_bids.phantom.cohort import CohortOptions, write_cohort
from pds_bids.template import RES02_GRID, get_template, load_template
from pds_bids.workflows.bold import init_bold_wf
from pds_bids.workflows.dwi import init_dwi_wf
from pds_bids.workflows.nodes import connect_by_name, identity
from pds_bids.workflows.precomputed import init_precomputed_wf
from pds_bids.workflows.series import init_registration_wf, init_segments_wf

MNI = "MNI152NLin2009cAsym"
N_SEGMENTS = 2
# Voxels of a BOLD series in template space, which are not those of the model grid.
BOLD_IN_MNI = Grid(
    (64, 76, 62), np.array([[3, 0, 0, -95.3], [0, 3, 0, -131.1], [0, 0, 3, -77.9], [0, 0, 0, 1]])
)
# From the space of the scan to that of the anatomical image: as far as heads are turned between scans.
NATIVE2ANAT = np.eye(4)
NATIVE2ANAT[:3, :3] = Rotation.from_euler("XYZ", (7, -4, 10), degrees=True).as_matrix()
NATIVE2ANAT[:3, 3] = (8, -12, 15)


@dataclass(frozen=True)
class Preprocessed:
    """What the app makes of a raw series: results of its nodes by their names, and where things are."""

    series: Series
    results: dict[str, object]
    template: str

    def map(self, name):
        return load_map(getattr(self.results["direct"], name))


def run_stages(workflow: pe.Workflow, stages, template: str) -> dict[str, object]:
    """Connect stages by name as the app does, run them, and return the outputs of every node."""
    inputnode = identity(["template"], name="inputnode")
    inputnode.inputs.template = template
    connect_by_name(workflow, [inputnode, *stages])
    return {node.name: node.result.outputs for node in workflow.run().nodes() if node.result}


@pytest.fixture(scope="session")
def native2anat() -> np.ndarray:
    return NATIVE2ANAT


@pytest.fixture(scope="session")
def consume(make_tree, preprocessed, segments_stage, tmp_path_factory):
    """Look for a series in a derivative tree and run what reads it, up to the model grid; once per tree."""

    @cache
    def run(tree: tuple):
        pipeline, *options = tree
        done = preprocessed[Pipeline(pipeline).modality]
        found = find_precomputed(
            find_derivatives(make_tree[pipeline](*options), Pipeline(pipeline)), done.series
        )
        workflow = pe.Workflow("derived", base_dir=str(tmp_path_factory.mktemp("derived")))
        read = init_precomputed_wf(done.series, found, dummy_scans=None, omp_nthreads=1)
        stages = [read, segments_stage(done.series, found.is_realigned)]
        return found, run_stages(workflow, stages, done.template)

    return run


@pytest.fixture(scope="session")
def segments_stage() -> Callable[[Series], pe.Workflow]:
    def make(series, has_confounds=False):
        return init_segments_wf(
            series,
            n_segments=N_SEGMENTS,
            segment_scheme="contiguous",
            fd_spike_threshold=100.0,
            has_confounds=has_confounds,
        )

    return make


@pytest.fixture(scope="session")
def participant(tmp_path_factory):
    """Raw data of one simulated participant, and the template as `FetchTemplate` hands it on."""
    cache = tmp_path_factory.mktemp("template")
    options = CohortOptions(
        participants=1, seed=5, bold_volumes=8, dwi_directions=6, voxel_size_mm=4.0, with_t1w=False
    )
    folder = cache / "data"
    write_cohort(folder, load_template(get_template(cache), RES02_GRID), options, cache_dir=cache / "heads")
    fetch = pe.Node(FetchTemplate(cache_dir=str(cache)), name="template", base_dir=str(cache))
    return folder, fetch.run().outputs.template


@pytest.fixture(scope="session")
def preprocessed(participant, segments_stage, tmp_path_factory) -> dict[Modality, Preprocessed]:
    """Both series of the participant, preprocessed by the app from the raw data."""
    folder, template = participant
    made = {}
    for modality, name in ((Modality.BOLD, "func/sub-01_task-rest_bold"), (Modality.DWI, "dwi/sub-01_dwi")):
        path = folder / "sub-01" / f"{name}.nii.gz"
        tables = {}
        if modality is Modality.DWI:
            tables = {kind: path.with_name(f"sub-01_dwi.{kind}") for kind in ("bval", "bvec")}
        n_volumes = nib.load(path).shape[3]
        series = Series(modality, path, {}, parse_entities(path), **tables, n_volumes=n_volumes)
        if modality is Modality.BOLD:
            series_wf = init_bold_wf(series, dummy_scans=None, omp_nthreads=1)
        else:
            series_wf = init_dwi_wf(series, sloppy=True, omp_nthreads=1)
        registration_wf = init_registration_wf(modality, has_t1w=False, sloppy=True, omp_nthreads=1)
        workflow = pe.Workflow("raw", base_dir=str(tmp_path_factory.mktemp(f"raw_{modality}")))
        stages = [series_wf, registration_wf, segments_stage(series)]
        made[modality] = Preprocessed(series, run_stages(workflow, stages, template), template)
    return made


class Tree:
    """Writer of a derivative dataset of one series, in files named as a pipeline names them."""

    def __init__(self, root: Path, pipeline: str, version: str, done: Preprocessed, datatype: str) -> None:
        self.done, self.root = done, root
        self.prefix = root / "sub-01" / datatype / done.series.path.name.split(".")[0].rpartition("_")[0]
        for folder in (self.prefix.parent, root / "sub-01" / "anat"):
            folder.mkdir(parents=True, exist_ok=True)
        description = {"Name": pipeline, "DatasetType": "derivative"}
        description["GeneratedBy"] = [{"Name": pipeline, "Version": version}]
        (root / "dataset_description.json").write_text(json.dumps(description))
        image = nib.load(done.results["conform"].out_file)
        self.raw, self.native = image.get_fdata(dtype=np.float32), Grid(image.shape[:3], image.affine)
        self.motion = np.load(done.results["hmc"].motion)

    def path(self, end: str) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}_{end}")

    def series(self, end: str, grid: Grid, grid2native: PointMap) -> Path:
        """Write the realigned series on a grid, each volume interpolated once, in the order of storage."""
        volumes = [
            resample(self.raw[..., k], self.native.vox2ras, apply_affine(pose, grid2native.points))
            for k, pose in enumerate(self.motion)
        ]
        return self.image(f"{end}_desc-preproc_{self.done.series.modality}", grid, np.stack(volumes, -1))

    def mask(self, end: str, grid: Grid, grid2native: PointMap) -> None:
        mask = np.asanyarray(nib.load(self.done.results["brain"].mask).dataobj)
        data = resample(mask, self.native.vox2ras, grid2native.points, order=0)
        self.image(f"{end}_desc-brain_mask", grid, data)

    def image(self, end: str, grid: Grid, data: np.ndarray) -> Path:
        path = self.path(f"{end}.nii.gz".removeprefix("_"))
        image = nib.Nifti1Image(data, grid.vox2ras)
        image.set_qform(grid.vox2ras, 1)
        image.to_filename(path)
        return path

    def confounds(self, name: str) -> None:
        centre = grid_centre(self.native)
        parameters = matrices_to_parameters(self.motion, centre)
        if self.done.series.modality is Modality.BOLD:
            signals = self.raw[::9, ::9, ::9].reshape(-1, self.raw.shape[3])
            dummies = self.done.results["reference"].dummies
            table = bold_confounds(parameters, self.motion, centre, timeseries=signals + 1, dummies=dummies)
            table["a_comp_cor_00"] = 0.5
        else:
            table = dwi_confounds(parameters, self.motion, centre, *self.gradients())
        table.to_csv(self.path(name), sep="\t", index=False, na_rep="n/a")

    def gradients(self):
        table = read_gradients(self.done.results["gradients"].gradients)
        return table.bvals, rotate_bvecs(table.bvecs, self.motion)

    def anat2template(self, name: str) -> None:
        """Write the way from the anatomical space to the template as ANTs does: an affine and a field."""
        template2anat = self.done.map("template2native").then(NATIVE2ANAT)
        grid = template2anat.grid
        here, there = grid.points(), template2anat.points.astype(float)
        columns = np.column_stack([here.reshape(-1, 3), np.ones(here.size // 3)])
        matrix = np.eye(4)
        matrix[:3] = np.linalg.lstsq(columns, there.reshape(-1, 3))[0].T
        shift = (apply_affine(np.linalg.inv(matrix), there) - here) * (-1, -1, 1)
        image = sitk.GetImageFromArray(np.ascontiguousarray(shift.transpose(2, 1, 0, 3)), isVector=True)
        image.SetSpacing(grid.zooms)
        image.SetOrigin((grid.vox2ras[:3, 3] * (-1, -1, 1)).tolist())
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        steps = [itk_affine(matrix), sitk.DisplacementFieldTransform(image)]
        sitk.WriteTransform(sitk.CompositeTransform(steps), str(self.root / "sub-01" / "anat" / name))

    def coreg(self, name: str) -> None:
        """Write the way from the scan to the anatomical space: maps points of the latter to the former."""
        sitk.WriteTransform(itk_affine(np.linalg.inv(NATIVE2ANAT)), str(self.path(name)))

    def hmc(self, name: str) -> None:
        """Write one transform per volume, in ITK's text format."""
        lines = ["#Insight Transform File V1.0"]
        for k, pose in enumerate(self.motion):
            flip = np.diag([-1, -1, 1, 1])
            lps = flip @ pose @ flip
            numbers = [*lps[:3, :3].ravel(), *lps[:3, 3]]
            lines += [f"#Transform {k}", "Transform: AffineTransform_double_3_3"]
            lines += [f"Parameters: {' '.join(f'{n:.12g}' for n in numbers)}", "FixedParameters: 0 0 0", ""]
        self.path(name).write_text("\n".join(lines))


def itk_affine(a2b: np.ndarray) -> sitk.AffineTransform:
    """Return a RAS+ point map as ITK's affine, which counts to the Left and Posterior."""
    flip = np.diag([-1, -1, 1, 1])
    lps = flip @ a2b @ flip
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(lps[:3, :3].ravel().tolist())
    affine.SetTranslation(lps[:3, 3].tolist())
    return affine


def anatomical_grid(native: Grid, codes: str) -> Grid:
    """A grid of the same voxel size over the head in the anatomical space, stored in another order."""
    order = nib.orientations.axcodes2ornt(codes)
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in native.shape]), -1).reshape(-1, 3)
    there = apply_affine(NATIVE2ANAT @ native.vox2ras, corners)
    low, high = there.min(0), there.max(0)
    shape = np.ceil((high - low) / native.zooms).astype(int) + 1
    vox2ras = np.diag([*native.zooms, 1.0])
    vox2ras[:3, 3] = low
    # The transform of axis codes permutes and flips: stored = RAS @ what leads from stored to RAS.
    back = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), order), shape
    )
    stored_shape = shape[order[:, 0].astype(int)]
    return Grid(tuple(stored_shape), vox2ras @ back)


@pytest.fixture(scope="session")
def make_tree(preprocessed, tmp_path_factory):
    """Write a small derivative tree at one level; gives its folder."""

    def fmriprep(spaces: tuple[str, ...], is_old: bool) -> Path:
        root = tmp_path_factory.mktemp("fmriprep")
        tree = Tree(root, "fMRIPrep", "21.0.2" if is_old else "25.1.0", preprocessed[Modality.BOLD], "func")
        native2native = PointMap.from_affine(tree.native, np.eye(4))
        anat = anatomical_grid(tree.native, "LAS")
        anat2native = PointMap.from_affine(anat, np.linalg.inv(NATIVE2ANAT))
        in_mni = PointMap.from_affine(BOLD_IN_MNI, np.eye(4))
        where = {
            "": (tree.native, native2native),
            "space-T1w": (anat, anat2native),
            f"space-{MNI}_res-native": (BOLD_IN_MNI, in_mni.then(tree.done.map("template2native"))),
        }
        tree.mask("", *where[""])
        tree.hmc("from-orig_to-boldref_mode-image_desc-hmc_xfm.txt")
        scan, end = ("scanner", "") if is_old else ("boldref", "_desc-coreg")
        tree.coreg(f"from-{scan}_to-T1w_mode-image{end}_xfm.txt")
        tree.anat2template(f"sub-01_from-T1w_to-{MNI}_mode-image_xfm.h5")
        for space in spaces:
            tree.series(space, *where[space])
            if space:
                tree.mask(space, *where[space])
        if spaces:
            tree.confounds(f"desc-confounds_{'regressors' if is_old else 'timeseries'}.tsv")
        return root

    def qsiprep() -> Path:
        root = tmp_path_factory.mktemp("qsiprep")
        tree = Tree(root, "QSIPrep", "1.0.1", preprocessed[Modality.DWI], "dwi")
        grid = anatomical_grid(tree.native, "LPS")
        grid2native = PointMap.from_affine(grid, np.linalg.inv(NATIVE2ANAT))
        tree.series("space-ACPC", grid, grid2native)
        tree.mask("space-ACPC", grid, grid2native)
        tree.anat2template(f"sub-01_from-ACPC_to-{MNI}_mode-image_xfm.h5")
        tree.confounds("desc-confounds_timeseries.tsv")
        bvals, bvecs_ras = tree.gradients()
        turned = bvecs_ras @ NATIVE2ANAT[:3, :3].T
        np.savetxt(tree.path("space-ACPC_desc-preproc_dwi.bval"), bvals[None], fmt="%g")
        vectors = ras_to_fsl_bvecs(turned, grid.vox2ras)
        np.savetxt(tree.path("space-ACPC_desc-preproc_dwi.bvec"), vectors.T, fmt="%.8f")
        return root

    return {"fmriprep": fmriprep, "qsiprep": qsiprep}
