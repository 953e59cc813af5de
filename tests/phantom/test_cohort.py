import csv
import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage, stats

from pds_bids.exceptions import UsageError
from pds_bids.imaging.grid import Grid
from pds_bids.phantom import bidsfiles
from pds_bids.phantom.cohort import CohortOptions, listed_diagnoses, missing_by_participant, write_cohort
from pds_bids.phantom.disease import EFFECT_SIZES
from pds_bids.phantom.disease import SITES as DISEASE_SITES
from pds_bids.phantom.gradients import gradient_table
from pds_bids.phantom.protocols import SITES

TINY = CohortOptions(
    participants=2, missing="dwi,bold", seed=4, bold_volumes=5, dwi_directions=6, voxel_size_mm=8.0
)


# One person at every site, with fieldmaps.
SITES_TINY = CohortOptions(
    participants=5,
    groups=("AD",),
    sites=5,
    seed=2,
    bold_volumes=3,
    dwi_directions=6,
    voxel_size_mm=9.0,
    with_fieldmaps=True,
    spikes=1,
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory, atlas_template, anatomy_cache):
    root = tmp_path_factory.mktemp("sites")
    write_cohort(root / "data", atlas_template, SITES_TINY, cache_dir=anatomy_cache, truth_dir=root / "truth")
    return root


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, fine_template, anatomy_cache):
    root = tmp_path_factory.mktemp("cohort")
    for name in ("a", "b"):
        truth = root / "truth" if name == "a" else None
        n_procs = 1 if name == "a" else 2
        write_cohort(
            root / name, fine_template, TINY, cache_dir=anatomy_cache, truth_dir=truth, n_procs=n_procs
        )
    return root


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


def test_same_options_same_bytes_whatever_the_number_of_processes(cohort):
    first = digests(cohort / "a")
    assert first == digests(cohort / "b")
    assert {"sub-01/func/sub-01_task-rest_bold.nii.gz", "sub-02/dwi/sub-02_dwi.bvec"} <= set(first)
    assert not any("sub-01/dwi" in name or "sub-02/func" in name for name in first)


def validate(folder: Path) -> subprocess.CompletedProcess[str]:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    return subprocess.run([validator, folder], capture_output=True, text=True, check=False)


def test_validator_accepts_the_dataset(cohort):
    run = validate(cohort / "a")
    assert run.returncode == 0, run.stdout


def test_validator_accepts_sites_and_fieldmaps(sites):
    run = validate(sites / "data")
    assert run.returncode == 0, run.stdout


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_every_site_has_a_protocol_of_its_own(sites):
    rows = read_table(sites / "data/participants.tsv")
    assert {row["site"] for row in rows} == set("ABCDE")
    seen = set()
    for row in rows:
        name = row["participant_id"]
        bold = json.loads((sites / f"data/{name}/func/{name}_task-rest_bold.json").read_text())
        dwi = json.loads((sites / f"data/{name}/dwi/{name}_dwi.json").read_text())
        assert bold["InstitutionName"].endswith(row["site"])
        zooms = nib.load(sites / f"data/{name}/dwi/{name}_dwi.nii.gz").header.get_zooms()
        seen.add((bold["RepetitionTime"], bold["EchoTime"], bold["FlipAngle"], dwi["EchoTime"], zooms[0]))
        shells = set(np.loadtxt(sites / f"data/{name}/dwi/{name}_dwi.bval")) - {0}
        assert shells == set(next(site for site in SITES if site.name == row["site"]).bvals_s_mm2)
    assert len(seen) == 5


def test_fieldmaps_are_opposite_and_of_the_readout_of_their_series(sites):
    folder = sites / "data/sub-01"
    for what, series in (("bold", "func/sub-01_task-rest_bold"), ("dwi", "dwi/sub-01_dwi")):
        target = json.loads((folder / f"{series}.json").read_text())
        pair = [
            json.loads((folder / f"fmap/sub-01_acq-{what}_dir-{label}_epi.json").read_text())
            for label in ("AP", "PA")
        ]
        assert [p["PhaseEncodingDirection"] for p in pair] == ["j-", "j"]
        for sidecar in pair:
            assert sidecar["TotalReadoutTime"] == target["TotalReadoutTime"]
            assert sidecar["IntendedFor"] == [f"bids::sub-01/{series}.nii.gz"]
            assert sidecar["B0FieldIdentifier"] == target["B0FieldSource"]
    images = [nib.load(folder / f"fmap/sub-01_acq-dwi_dir-{d}_epi.nii.gz") for d in ("AP", "PA")]
    assert images[0].shape == images[1].shape == (*nib.load(f"{folder}/dwi/sub-01_dwi.nii.gz").shape[:3], 3)
    ap, pa = (np.asarray(image.dataobj)[..., 0].astype(float) for image in images)
    assert np.corrcoef(ap.ravel(), pa.ravel())[0, 1] > 0.8
    assert not np.array_equal(ap, pa)


def test_spikes_are_in_the_motion(sites):
    motion = np.loadtxt(sites / "truth/sub-01/func/sub-01_desc-bold_motion.tsv", skiprows=1)
    steps = np.linalg.norm(np.diff(motion[:, :3], axis=0), axis=1)
    assert steps.max() > 3


def test_shuffled_labels_change_the_table_only(tmp_path, atlas_template, anatomy_cache):
    options = CohortOptions(
        participants=4, groups=("NC", "AD"), missing="dwi", bold_volumes=2, voxel_size_mm=10, with_t1w=False
    )
    for name, shuffle in (("true", False), ("control", True)):
        write_cohort(
            tmp_path / name,
            atlas_template,
            replace(options, shuffle_labels=shuffle),
            cache_dir=anatomy_cache,
        )
    true, control = digests(tmp_path / "true"), digests(tmp_path / "control")
    assert true.keys() == control.keys()
    assert [name for name in true if true[name] != control[name]] == ["participants.tsv"]
    tables = [read_table(tmp_path / name / "participants.tsv") for name in ("true", "control")]
    columns = [[row.pop("diagnosis") for row in table] for table in tables]
    assert tables[0] == tables[1]
    assert sorted(columns[0]) == sorted(columns[1])
    assert columns[0] != columns[1]


def test_truth_says_what_was_planted_in_whom(sites):
    planted = json.loads((sites / "truth/effects.json").read_text())
    assert planted["at_severity_1"] == EFFECT_SIZES
    rows = read_table(sites / "data/participants.tsv")
    name = rows[0]["participant_id"]
    effects = json.loads((sites / f"truth/{name}/anat/{name}_effects.json").read_text())
    assert effects["diagnosis"] == rows[0]["diagnosis"] == "AD"
    assert effects["age_years"] == float(rows[0]["age"])
    assert effects["severity"] > 0.5
    parcels = read_table(sites / "truth/parcels.tsv")
    own = read_table(sites / f"truth/{name}/anat/{name}_parcels.tsv")
    assert [p["name"] for p in parcels] == [p["name"] for p in own]
    precuneus = next(k for k, p in enumerate(parcels) if p["name"] == "Precuneus_L")
    assert float(own[precuneus]["amplitude"]) < 0.95
    fluctuations = np.loadtxt(sites / f"truth/{name}/func/{name}_desc-bold_fluctuations.tsv", skiprows=1)
    assert fluctuations.shape == (SITES_TINY.bold_volumes, len(parcels) + 1)
    dseg = nib.load(sites / f"truth/{name}/func/{name}_desc-parcels_dseg.nii.gz")
    assert set(np.unique(dseg.dataobj)) - {0} <= set(range(1, len(parcels) + 1))
    bold = nib.load(sites / f"data/{name}/func/{name}_task-rest_bold.nii.gz")
    np.testing.assert_allclose(dseg.affine, bold.affine)


def test_pose_and_warp_in_the_truth_lead_to_the_template(sites):
    # docs/phantom.md: x -> A x, then + warp; the image of template points says the same.
    folder = sites / "truth/sub-01"
    image = nib.load(folder / "func/sub-01_desc-template_points.nii.gz")
    stored = np.asarray(image.dataobj)[::3, ::3, ::2].reshape(-1, 3)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape[:3]), indexing="ij"), -1)
    points = nib.affines.apply_affine(image.affine, index[::3, ::3, ::2].reshape(-1, 3))
    truth = np.load(folder / "anat/sub-01_person.npz")
    straight = nib.affines.apply_affine(truth["scanner2template"], points)
    where = nib.affines.apply_affine(np.linalg.inv(truth["warp_vox2ras"]), straight).T
    shift = [
        ndimage.map_coordinates(truth["warp_mm"][..., k], where, order=1, mode="nearest") for k in range(3)
    ]
    np.testing.assert_allclose(straight + np.stack(shift, -1), stored, atol=1e-2)


@pytest.fixture(scope="module")
def mean_diffusivity(tmp_path_factory, atlas_template, anatomy_cache):
    """Mean diffusivity of every parcel, from the raw series, and the tables of both cohorts."""
    root = tmp_path_factory.mktemp("groups")
    options = CohortOptions(
        participants=16,
        groups=("NC", "AD"),
        missing="bold",
        seed=5,
        dwi_directions=6,
        voxel_size_mm=8.0,
        with_t1w=False,
        max_motion=0.2,
    )
    write_cohort(root / "data", atlas_template, options, cache_dir=anatomy_cache, truth_dir=root / "truth")
    rows = read_table(root / "data/participants.tsv")
    values = []
    for row in rows:
        stem = f"{row['participant_id']}/dwi/{row['participant_id']}"
        dwi = np.asarray(nib.load(root / f"data/{stem}_dwi.nii.gz").dataobj).astype(float)
        bvals = np.loadtxt(root / f"data/{stem}_dwi.bval")
        decay = np.log(dwi[..., bvals == 0].mean(-1) + 1) - np.log(dwi[..., bvals > 0] + 1).mean(-1)
        labels = np.asarray(nib.load(root / f"truth/{stem}_desc-parcels_dseg.nii.gz").dataobj)
        values.append(ndimage.mean(decay, labels, np.arange(1, 13)))
    true = [row["diagnosis"] for row in rows]
    control = listed_diagnoses(replace(options, shuffle_labels=True), true)
    names = [row["name"] for row in read_table(root / "truth/parcels.tsv")]
    return names, np.array(values), np.array(true), np.array(control)


def test_planted_effect_is_found_with_true_labels_and_not_with_shuffled_ones(mean_diffusivity):
    names, values, true, control = mean_diffusivity
    sites = np.array([name[:-2] in DISEASE_SITES for name in names])
    assert sites.sum() == 6

    def found(labels):
        # Bonferroni over all parcels.
        p = stats.ttest_ind(values[labels == "AD"], values[labels == "NC"], equal_var=False).pvalue
        return p < 0.05 / len(p)

    # Eight people of each kind; benchmarks/planted_effect.py has the power for most regions.
    assert found(true)[sites].sum() >= 2
    assert not found(true)[~sites].any()
    assert not found(control).any()
    higher = values[true == "AD"].mean(0) - values[true == "NC"].mean(0)
    assert (higher[sites] > 0).all()


def test_gradients_on_disk_follow_fsl(tmp_path):
    # FSL: vectors in voxel axes, the first flipped when the affine's determinant is positive. Read back that
    # way, the written file gives the RAS vectors.
    bvals, bvecs = gradient_table(6, 1000)
    grid = Grid((4, 5, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    bidsfiles.write_image(tmp_path / "dwi.nii.gz", np.random.default_rng(0).random((4, 5, 6)), grid)
    bidsfiles.write_gradients(tmp_path / "dwi", bvals, bvecs)
    affine = nib.load(tmp_path / "dwi.nii.gz").affine
    stored = np.loadtxt(tmp_path / "dwi.bvec").T
    if np.linalg.det(affine[:3, :3]) > 0:
        stored = stored * [-1, 1, 1]
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(stored @ axes.T, bvecs, atol=1e-5)


def test_image_on_disk_lies_where_the_grid_says(tmp_path):
    data = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    grid = Grid((4, 5, 6), np.array([[2.0, 0, 0, -7], [0, 3.0, 0, 1], [0, 0, 4.0, 2], [0, 0, 0, 1]]))
    bidsfiles.write_image(tmp_path / "x.nii.gz", data, grid, as_float=True)
    image = nib.as_closest_canonical(nib.load(tmp_path / "x.nii.gz"))
    np.testing.assert_allclose(image.affine, grid.vox2ras)
    np.testing.assert_array_equal(np.asarray(image.dataobj), data)


def test_truth_holds_what_was_planted(cohort):
    motion = np.loadtxt(cohort / "truth/sub-01/func/sub-01_desc-bold_motion.tsv", skiprows=1)
    assert motion.shape == (TINY.bold_volumes, 6)
    assert np.abs(motion).max() <= TINY.max_motion
    fa = np.asarray(nib.load(cohort / "truth/sub-02/dwi/sub-02_fa.nii.gz").dataobj)
    dwi = nib.load(cohort / "a/sub-02/dwi/sub-02_dwi.nii.gz")
    assert fa.shape == dwi.shape[:3]
    tissue = json.loads((cohort / "truth/sub-01/anat/sub-01_tissue.json").read_text())
    assert 1200 < tissue["cortex"]["t1_ms"] < 1650


def test_slice_timing_fits_the_series(cohort):
    sidecar = json.loads((cohort / "a/sub-01/func/sub-01_task-rest_bold.json").read_text())
    bold = nib.load(cohort / "a/sub-01/func/sub-01_task-rest_bold.nii.gz")
    assert len(sidecar["SliceTiming"]) == bold.shape[2]
    assert max(sidecar["SliceTiming"]) < sidecar["RepetitionTime"] == bold.header.get_zooms()[3]


def test_what_is_missing():
    assert missing_by_participant("none", 2, 0) == ["none", "none"]
    drawn = missing_by_participant("random", 60, 1)
    assert drawn == missing_by_participant("random", 60, 1)
    assert set(drawn) == {"none", "bold", "dwi"}
    # A dozen people have all three, whatever the seed.
    assert all(
        Counter(missing_by_participant("random", 12, seed)) == {"none": 4, "bold": 4, "dwi": 4}
        for seed in range(20)
    )
    with pytest.raises(UsageError, match="'t1w'"):
        missing_by_participant("dwi,t1w", 2, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"participants": 0}, "participants is 0"),
        ({"voxel_size_mm": 0.1}, "voxel size"),
        ({"missing": "x"}, "x"),
        ({"groups": ("NC", "SMC")}, "SMC"),
        ({"groups": ()}, "groups"),
        ({"sites": 9}, "5 protocols"),
        ({"ages_years": (60, 50)}, "ages"),
        ({"dwi_bvals": (10.0,)}, "b-values"),
        ({"dwi_directions": 3}, "at least 6"),
        ({"dwi_directions": (6, 6, 6), "dwi_bvals": (1000.0, 2000.0)}, "3 numbers"),
    ],
)
def test_options_are_checked(wrong, message):
    with pytest.raises(UsageError, match=message):
        CohortOptions(**wrong)


def test_folder_in_use_is_refused(tmp_path, fine_template):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        write_cohort(tmp_path, fine_template, TINY, cache_dir=tmp_path)


def test_help_is_quick_and_names_every_option():
    code = (
        "import sys; from pds_bids.cli.phantom import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'dipy', 'scipy', 'nibabel') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.rstrip().endswith("[]")
    from pds_bids.cli import phantom

    for action in phantom.build_parser()._actions:
        assert action.help
        assert all(option in run.stdout for option in action.option_strings)


def test_options_arrive_in_the_cohort(tmp_path, monkeypatch):
    from pds_bids import template
    from pds_bids.cli import phantom
    from pds_bids.phantom import cohort

    asked = {}

    def note(out_dir, template, options, **settings):
        asked.update(vars(options), **settings)
        return ["sub-01"]

    monkeypatch.setattr(cohort, "write_cohort", note)
    monkeypatch.setattr(template, "get_template", lambda folder: folder)
    monkeypatch.setattr(template, "load_template", lambda files, grid: None)
    words = (
        "--participants 9 --sessions 2 --groups NC,AD --ages 60-70 --sites 3 --shuffle-labels --missing dwi "
        "--seed 7 --bold-volumes 11 --dwi-directions 8,16 --dwi-bvals 700,2000 --voxel-size-mm 4 --no-t1w "
        "--opposite-phase-encoding --motion 2.5 --spikes 3 --nprocs 2 --quiet"
    )
    assert phantom.main([str(tmp_path / "out"), *words.split()]) == 0
    expected = {
        "participants": 9, "sessions": 2, "groups": ("NC", "AD"), "ages_years": (60.0, 70.0), "sites": 3,
        "shuffle_labels": True, "missing": "dwi", "seed": 7, "bold_volumes": 11, "dwi_directions": (8, 16),
        "dwi_bvals": (700.0, 2000.0), "voxel_size_mm": 4.0, "with_t1w": False, "with_fieldmaps": True,
        "max_motion": 2.5, "spikes": 3, "n_procs": 2, "progress": None,
    }  # fmt: skip
    assert {key: asked[key] for key in expected} == expected
    assert set(vars(CohortOptions())) <= set(expected)


def test_wrong_option_gives_exit_code_2(tmp_path, capsys, monkeypatch):
    from pds_bids.cli import phantom

    assert phantom.main([str(tmp_path / "out"), "--missing", "everything"]) == 2
    assert "everything" in capsys.readouterr().err
