"""Small fMRIPrep and QSIPrep trees give what the raw data give, without computing it again."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from nipype.pipeline.engine.utils import generate_expanded_graph

from pds_bids.bids.derivatives import DerivativeDataset, Level, LookUp, Pipeline, Precomputed
from pds_bids.bids.series import Series
from pds_bids.exceptions import QualityError, UsageError
from pds_bids.imaging.dwi import rotate_bvecs
from pds_bids.imaging.grid import PointMap, resample
from pds_bids.imaging.masks import dice
from pds_bids.interfaces.images import load, load_map
from pds_bids.interfaces.precomputed import PrecomputedRegistration
from pds_bids.interfaces.segments import CutBold
from pds_bids.interfaces.series import read_gradients
from pds_bids.modalities import Modality
from pds_bids.template import MODEL_GRID
from pds_bids.workflows.precomputed import PRECOMPUTED_FIELDS, init_precomputed_wf
from pds_bids.workflows.series import SERIES_FIELDS

MNI = "MNI152NLin2009cAsym"
# What estimates head motion, reference, mask or a way to the template when there are no derivatives.
OURS = {"hmc", "reference", "brain", "direct", "bridge", "agree", "anat"}


def array(path):
    return np.asanyarray(nib.load(path).dataobj)


def bias_on_model_grid(results):
    """Bias field that a stack was divided by."""
    brain, way = (
        (results["brain"], results["direct"])
        if "brain" in results
        else (results["their_brain"], results["their_registration"])
    )
    bias, grid = load(brain.bias)
    points = PointMap.from_affine(MODEL_GRID, np.eye(4)).then(load_map(way.template2native)).points
    return resample(bias, grid.vox2ras, points, order=1)[..., None]


def compare(raw, ours, what="out_file", *, with_n4):
    """Least correlation over the volumes, mean absolute difference in units of the in-brain mean, Dice."""
    mask, other = array(raw["resample"].mask) > 0, array(ours["resample"].mask) > 0
    both = mask & other
    stacks = []
    for results in (raw, ours):
        stack = array(getattr(results["resample"], what)) * (1 if with_n4 else bias_on_model_grid(results))
        stacks.append(stack[both] / stack[..., 0][both].mean())
    a, b = stacks
    correlation = min(np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(a.shape[1]))
    return correlation, float(np.abs(a - b).mean()), dice(mask, other)


# Least correlation and largest mean difference without and with N4. Voxels here are 4 mm: a second cubic
# interpolation onto another lattice costs about 1% of the mean, onto a turned one 2% at the edges of the
# brain (more since the phantom has sharp folds); the raw series with transforms is interpolated once, as
# ours is. N4 fits the field anew to each
# lattice and disagrees with itself by 2% (BOLD) to 6% (b0, bright fluid), whoever realigned the series.
CASES = {
    "acquired": (("",), Level.ACQUIRED, (0.995, 0.01), (0.98, 0.01)),
    "anatomical": (
        ("space-T1w", f"space-{MNI}_res-native"),
        Level.ANATOMICAL,
        (0.985, 0.016),
        (0.88, 0.03),
    ),
    "template": ((f"space-{MNI}_res-native",), Level.TEMPLATE, (0.995, 0.01), (0.92, 0.025)),
    "transforms": ((), Level.TRANSFORMS, (0.9999, 0.0005), (0.998, 0.002)),
}


# Trees that several tests read: pipeline, spaces, whether the names are those of older versions.
IN_T1W = ("fmriprep", CASES["anatomical"][0], False)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_fmriprep_gives_what_the_raw_series_gives(name, consume, preprocessed):
    spaces, level, limits, limits_n4 = CASES[name]
    done = preprocessed[Modality.BOLD]
    # The older layout where the two differ: in names of the transforms and of the confounds.
    found, ours = consume(("fmriprep", spaces, name == "acquired"))
    assert found.level is level
    for (least, largest), with_n4 in ((limits, False), (limits_n4, True)):
        correlation, difference, overlap = compare(done.results, ours, with_n4=with_n4)
        assert correlation > least
        assert difference < largest
        assert overlap > 0.99
    assert not OURS & set(ours)
    moved = ours["their_confounds"] if found.is_realigned else ours["their_motion"]
    assert moved.dummies == done.results["reference"].dummies
    gate = json.loads(Path(ours["their_registration"].gate).read_text())
    assert gate["passed"]
    assert gate["stage"] == "precomputed"
    if level is not Level.TEMPLATE:
        way = ours["their_registration"]
        # The way there and back ends where it began; half a voxel of the lattice on which it is stored.
        there, back = load_map(way.template2native), load_map(way.native2template)
        inside = array(ours["their_brain"].mask) > 0
        error_mm = np.linalg.norm((back.then(there).points - back.grid.points())[inside], axis=-1)
        assert np.percentile(error_mm, 99) < 1.5
        assert np.median(error_mm) < 0.1


@pytest.mark.slow
def test_head_motion_of_the_confounds_censors_what_our_own_would(
    consume, preprocessed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = preprocessed[Modality.BOLD]
    found, ours = consume(IN_T1W)
    theirs = pd.read_csv(found.files["confounds"], sep="\t", na_values="n/a")
    ranked = np.sort(theirs["framewise_displacement"].dropna())
    limit = float(ranked[3:5].mean())
    cut = {"dummies": [], "n_segments": 2, "fd_threshold_mm": limit}
    raw = CutBold(in_file=done.results["conform"].out_file, motion=done.results["hmc"].motion, **cut).run()
    confounds = ours["their_confounds"]
    now = CutBold(in_file=ours["conform"].out_file, motion=confounds.head_motion, **cut).run()
    assert now.outputs.censored == raw.outputs.censored
    assert now.outputs.censored == np.flatnonzero(theirs["framewise_displacement"] > limit).tolist()
    np.testing.assert_array_equal(np.load(confounds.motion), np.tile(np.eye(4), (8, 1, 1)))
    handed_on = pd.read_csv(confounds.table, sep="\t", na_values="n/a")
    assert "a_comp_cor_00" not in handed_on
    pd.testing.assert_frame_equal(handed_on, theirs.drop(columns="a_comp_cor_00"), rtol=1e-6)
    described = json.loads(Path(confounds.description).read_text())
    assert set(described) == set(handed_on.columns)
    assert described["trans_x"] == {"Description": "As computed by fMRIPrep 25.1.0", "Units": "mm"}


@pytest.mark.slow
def test_qsiprep_gives_what_the_raw_series_gives(consume, preprocessed):
    done = preprocessed[Modality.DWI]
    found, ours = consume(("qsiprep",))
    assert found.level is Level.ANATOMICAL
    for what, limits, limits_n4 in (
        ("out_file", (0.985, 0.03), (0.88, 0.07)),
        ("b0_file", (0.985, 0.025), (0.91, 0.065)),
    ):
        for (least, largest), with_n4 in ((limits, False), (limits_n4, True)):
            correlation, difference, overlap = compare(done.results, ours, what, with_n4=with_n4)
            assert correlation > least
            assert difference < largest
            assert overlap > 0.99
    assert not OURS & set(ours)


@pytest.mark.slow
def test_gradients_of_qsiprep_point_where_they_did(consume, preprocessed, native2anat):
    """In the anatomical space they are those of the scan, turned with the head and then with the space."""
    done = preprocessed[Modality.DWI]
    _, ours = consume(("qsiprep",))
    raw, now = (read_gradients(results["gradients"].gradients) for results in (done.results, ours))
    in_reference = rotate_bvecs(raw.bvecs, np.load(done.results["hmc"].motion))
    np.testing.assert_allclose(now.bvecs, in_reference @ native2anat[:3, :3].T, atol=1e-5)
    np.testing.assert_array_equal(now.bvals, raw.bvals)


@pytest.mark.slow
def test_a_wrong_way_to_the_template_fails_and_names_the_files(consume, preprocessed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = preprocessed[Modality.BOLD]
    _, ours = consume(IN_T1W)
    path = tmp_path / f"sub-01_from-T1w_to-{MNI}_mode-image_xfm.txt"
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.0, 40.0, 25.0)), str(path))
    brain = ours["their_brain"]
    node = PrecomputedRegistration(
        in_file=brain.out_file,
        mask=brain.mask,
        template=done.template,
        contrast="bold",
        transforms=[str(path)],
        judged=["sub-01_space-T1w_desc-preproc_bold.nii.gz", path.name],
        made_by="fMRIPrep 25.1.0",
    )
    with pytest.raises(QualityError, match=rf"fMRIPrep 25.1.0: .*mask Dice.*{path.name}"):
        node.run()


@pytest.fixture
def build(tmp_path):
    """Build the workflow for files that are there but empty; gives the names of its nodes, and itself."""

    def make(level, roles, modality=Modality.BOLD):
        files = {}
        for role in roles:
            files[role] = tmp_path / f"{role}.nii.gz"
            files[role].touch()
        raw = tmp_path / "raw.nii.gz"
        raw.touch()
        pipeline = Pipeline.FMRIPREP if modality is Modality.BOLD else Pipeline.QSIPREP
        found = Precomputed(DerivativeDataset(pipeline, tmp_path, "25.1.0"), "sub-01", level, files)
        series = Series(modality, raw, {}, {"sub": "01"})
        return init_precomputed_wf(series, found, dummy_scans=None, omp_nthreads=1)

    return make


@pytest.mark.parametrize(
    ("level", "roles", "modality"),
    [
        (Level.ANATOMICAL, ["series", "mask", "confounds", "anat"], Modality.BOLD),
        (Level.TEMPLATE, ["series", "mask", "confounds"], Modality.BOLD),
        (Level.TRANSFORMS, ["mask", "hmc", "coreg", "anat"], Modality.BOLD),
        (Level.ANATOMICAL, ["series", "bval", "bvec", "mask", "confounds", "anat"], Modality.DWI),
    ],
)
def test_the_graph_computes_nothing_again(build, level, roles, modality):
    graph = generate_expanded_graph(build(level, roles, modality)._create_flat_graph())
    names = {node.name for node in graph.nodes()}
    assert not OURS & names
    assert "their_registration" in names
    conform = next(node for node in graph.nodes() if node.name == "conform")
    expected = "raw.nii.gz" if level is Level.TRANSFORMS else "series.nii.gz"
    assert Path(conform.inputs.in_files[0]).name == expected


def test_every_field_of_a_series_and_its_registration_is_handed_on(build):
    wf = build(Level.ANATOMICAL, ["series", "mask", "confounds", "anat"])
    fields = set(wf.get_node("outputnode").inputs.copyable_trait_names())
    assert fields == set(PRECOMPUTED_FIELDS)
    assert fields >= {*SERIES_FIELDS, "template2native", "native2template", "t1w2epi", "gate"}


def test_an_incomplete_set_is_refused_with_what_is_missing(tmp_path):
    look_up = LookUp(Level.TEMPLATE, "mask", "sub-01/func/sub-01_desc-brain_mask.nii.gz")
    found = Precomputed(DerivativeDataset(Pipeline.FMRIPREP, tmp_path), "sub-01", look_ups=(look_up,))
    series = Series(Modality.BOLD, tmp_path / "raw.nii.gz", {}, {"sub": "01"})
    with pytest.raises(UsageError, match=r"do not cover sub-01;.*lacks: mask \(sub-01/func/"):
        init_precomputed_wf(series, found, dummy_scans=None, omp_nthreads=1)
