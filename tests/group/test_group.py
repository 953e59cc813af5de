"""Gathering, parcels against nilearn, names against the validator, fidelity and diagnosis."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from group_tree import ATLAS, BRAIN, atlas, template, write_dataset, write_outputs, write_person
from nilearn.maskers import NiftiLabelsMasker

from pds_bids.config import RunConfig
from pds_bids.evaluation.schemes import Input, Origin
from pds_bids.exceptions import LeakageError, NothingSelectedError, UsageError
from pds_bids.group.diagnose import diagnose
from pds_bids.group.features import acquired_courses, gather_blocks
from pds_bids.group.fidelity import fidelity_table, pair_up
from pds_bids.group.gather import OUTLIER_Z, flag_outliers, gather, robust_z
from pds_bids.group.images import find_scans
from pds_bids.group.participants import Reading, measure_participants
from pds_bids.group.people import People, read_people
from pds_bids.group.ratings import exclude, exclude_scores, exclusions
from pds_bids.group.rows import Question
from pds_bids.group.run import _places
from pds_bids.group.signals import MIN_SERIES, measure_scan, write_tables
from pds_bids.group.tables import write_atlas_files, write_group_table
from pds_bids.modalities import Modality
from pds_bids.options import Classifier
from pds_bids.reports.ratings import Rating, RatingVerdict
from pds_bids.template import MODEL_GRID

VALIDATOR = str(Path(sys.executable).with_name("bids-validator-deno"))
RANGES = {"bold": 1.4, "dwi": 1.4, "b0": 2.2}


@pytest.fixture(scope="module")
def measured(cohort):
    """Return everybody's measurements; tables are written into a copy."""
    labels = [f"{k:02d}" for k in range(1, 19)]
    return measure_participants(
        labels, Reading(cohort / "out", atlas(), template(), RANGES, with_volumes=True)
    )


@pytest.fixture(scope="module")
def people(cohort):
    return read_people(cohort / "data", "diagnosis")


def test_everybody_is_gathered_and_nobody_dropped(cohort, tmp_path):
    out = shutil.copytree(cohort / "out", tmp_path / "out")
    shutil.rmtree(out / "sub-02")
    for path in (out / "sub-04").rglob("*desc-synthetic*"):
        path.unlink()
    (out / "sub-05" / "func" / "sub-05_task-rest_desc-image_qc.json").write_text("{")
    crash = out / "sub-06" / "log" / "20990101" / "crash-x.txt"
    crash.parent.mkdir()
    crash.write_text("Node: a.sub_06_wf.b\nTraceback\nValueError: no brain\n")
    found = gather(out, [f"{k:02d}" for k in range(1, 21)])
    states = found.incomplete.set_index("participant_id")
    assert found.quality["participant_id"].nunique() == 20
    assert states.loc["sub-02", "state"] == "no output"
    assert states.loc["sub-20", "state"] == "no output"
    assert states.loc["sub-04", "state"] == "incomplete"
    assert "no synthetic" in states.loc["sub-04", "reason"]
    assert "cannot be read" in states.loc["sub-05", "reason"]
    assert states.loc["sub-06", "state"] == "failed"
    assert "no brain" in states.loc["sub-06", "reason"]
    assert len(states) == 6
    assert set(found.quality["input"].dropna()) == {"acquired", "synthetic"}
    assert found.synthetic["participant_id"].nunique() == 16


def test_nothing_to_gather_is_an_error(tmp_path):
    with pytest.raises(NothingSelectedError, match="level participant first"):
        gather(tmp_path, ["01"])


def test_outliers_are_flagged_among_their_own_kind():
    rng = np.random.default_rng(0)
    fd = np.r_[rng.normal(0.2, 0.02, 30), rng.normal(2.0, 0.2, 30)]
    fd[3] = 0.9
    table = pd.DataFrame({"modality": ["bold"] * 30 + ["dwi"] * 30, "fd_mean_mm": fd})
    flagged = flag_outliers(table, ["modality"])
    assert flagged.index[flagged["outliers"] != ""].tolist() == [3]
    assert flagged.loc[3, "outliers"].startswith("fd_mean_mm (z ")
    # By hand: 0.6745 (x - median) / MAD.
    own = fd[:30]
    by_hand = (own[3] - np.median(own)) / (1.482602218505602 * np.median(np.abs(own - np.median(own))))
    assert flagged.loc[3, "largest_z"] == pytest.approx(by_hand)
    assert by_hand > OUTLIER_Z
    assert np.isnan(robust_z(np.arange(7.0))).all()


def test_parcel_means_are_those_of_nilearn(cohort, measured):
    image = nib.Nifti1Image(ATLAS, MODEL_GRID.vox2ras)
    mask = nib.Nifti1Image(BRAIN.astype("u1"), MODEL_GRID.vox2ras)
    for person in measured[:4]:
        for own in person.signals:
            masker = NiftiLabelsMasker(image, mask_img=mask, standardize=None)
            expected = np.squeeze(masker.fit_transform(nib.load(own.scan.image)))
            assert own.means == pytest.approx(expected, rel=1e-5)
            if own.scan.segments is not None:
                expected = masker.fit_transform(nib.load(own.scan.segments))
                assert own.series == pytest.approx(expected, rel=1e-5)
            assert own.coverage == pytest.approx(np.ones(len(expected.T)))


def test_all_contrasts_are_found_with_their_origin(cohort):
    scans, left_out = find_scans(cohort / "out", "01")
    found = {(scan.contrast, scan.origin) for scan in scans}
    acquired = {(name, "acquired") for name in ("bold", "dwi", "b0", "fa", "md")}
    assert found == acquired | {(name, "synthetic") for name in ("bold", "dwi", "b0")}
    assert not left_out
    assert all((scan.std is not None) == scan.is_synthetic for scan in scans)


def test_tables_say_where_each_row_is_from_and_pass_the_validator(cohort, tmp_path):
    out = tmp_path / "out"
    write_outputs(out, ["01"])
    write_person(out, "02", 3, lack="bold", n_segments=MIN_SERIES)
    write_person(out, "03", 6, lack="dwi", n_segments=MIN_SERIES)
    before = gather(out).quality
    measure_participants(["01", "02", "03"], Reading(out, atlas(), template(), RANGES))
    write_atlas_files(out, atlas())
    pd.testing.assert_frame_equal(gather(out).quality, before)  # own tables of an earlier call are no series
    write_group_table(out, "group_qc", gather(out).quality)
    tables = sorted(path.name for path in (out / "sub-01").rglob("*stat-mean*.tsv"))
    stem = "space-MNI152NLin2009cAsym_atlas-cubes_res-3_stat-mean"
    assert f"sub-01_task-rest_{stem}_desc-mean_timeseries.tsv" in tables
    assert f"sub-01_{stem}_desc-synthetic+b0_timeseries.tsv" in tables
    assert f"sub-01_{stem}_desc-md_timeseries.tsv" in tables
    for path in out.rglob("*stat-*.tsv"):
        origins = set(pd.read_csv(path, sep="\t")["input"])
        assert origins == {"synthetic" if "synthetic" in path.name else "acquired"}, path.name
    matrix = pd.read_csv(next(out.rglob("sub-03*relmat.tsv")), sep="\t")
    assert np.allclose(np.diag(matrix.iloc[:, 2:]), 1)
    assert not list((out / "sub-01").rglob("*relmat.tsv"))
    done = subprocess.run([VALIDATOR, str(out), "--json"], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue["severity"] == "error"]
    assert done.returncode == 0, errors


def test_fidelity_finds_the_people_and_the_planted_numbers(measured, people):
    pairs = pair_up(measured)
    assert {pair.contrast: len(pair.labels) for pair in pairs} == {"b0": 6, "bold": 6, "dwi": 6}
    reported = pd.DataFrame(
        columns=["participant_id", "session_id", "contrast", "predictor", "metric", "value"]
    )
    table = fidelity_table(pairs, reported, people, atlas(), seed=0)
    cohort = table[table["level"] == "cohort"].set_index(["contrast", "predictor", "metric", "region"])[
        "value"
    ]
    assert cohort["bold", "model", "identification rate", "brain"] == 1
    # The model's noise is 0.3 x 0.03 of the parcel, claimed to be 0.05: surely inside.
    assert cohort["bold", "model", "coverage95", "brain"] > 0.99
    assert cohort["bold", "model", "psnr lost, pattern removed (dB)", "parcels"] > 5
    parcels = table[(table["level"] == "parcel") & (table["contrast"] == "bold")]
    model = parcels[(parcels["metric"] == "correlation over people") & (parcels["predictor"] == "model")]
    assert model["value"].median() > 0.95
    people_of = table[(table["level"] == "participant") & (table["metric"] == "mae")]
    assert set(people_of["region"]) == {"brain", "whole", "grey", "white"}
    assert set(table["input"]) == {"acquired", "synthetic"}


def test_diagnosis_stands_beside_its_source(measured, people):
    question = Question(people, (Classifier.LOGISTIC,), n_folds=3, n_permutations=2)
    found = diagnose(measured, question)
    table = found.table.set_index(["family", "scheme"])
    hybrid = table.loc[("scheme", "hybrid: missing modality synthetic")]
    assert hybrid["n_test"] == 18
    assert np.isfinite(hybrid["source_only_accuracy"])
    assert np.isfinite(hybrid["mcnemar_p_holm"])
    schemes = found.table[found.table["family"] == "scheme"]
    tested = schemes[schemes["n_test"] > 0]
    synthetic = tested[tested["test_input"].str.contains("synthetic")]
    assert len(synthetic) >= 7
    assert synthetic["source_only_accuracy"].notna().all()
    assert table.loc[("scheme", "acquired dwi with fa, md"), "n_test"] == 12
    assert found.contrasts == {Modality.BOLD: ["bold"], Modality.DWI: ["b0", "dwi"]}
    assert ("control", "covariates alone, no image") in table.index
    assert table.loc[("permuted labels", "acquired bold"), "n_permutations"] == 2


def test_a_duplicate_under_another_name_is_refused(cohort, tmp_path):
    out = tmp_path / "out"
    labels = ["01", "02", "03", "04", "05", "06"]
    write_outputs(out, labels, lacks=("none",))
    for path in sorted((out / "sub-02").rglob("*")):
        if path.is_file() and path.name.endswith("mean_boldref.nii.gz"):
            shutil.copy(path, str(path).replace("sub-02", "sub-05"))
    found = measure_participants(labels, Reading(out, atlas(), template(), RANGES))
    table = pd.DataFrame({"diagnosis": ["NC", "AD"] * 3, "who": ["a", "b", "c", "d", "b", "f"]}, index=labels)
    with pytest.raises(LeakageError, match="sub-02 and sub-05 have an image in common"):
        diagnose(found, Question(People(table, "diagnosis"), (Classifier.LOGISTIC,), 2, 0))
    table["diagnosis"] = ["NC", "AD", "NC", "AD", "AD", "NC"]
    one = People(table, "diagnosis", person_column="who")
    blocks, _ = gather_blocks(found, one)
    assert blocks.people == ("a", "b", "c", "d", "b", "f")
    assert len(diagnose(found, Question(one, (Classifier.LOGISTIC,), 2, 0)).table)


def test_a_rejected_image_is_left_out_on_request_only(cohort, measured):
    image = Path("sub-01/func/sub-01_desc-synthetic_boldref.nii.gz")
    verdict = RatingVerdict.REJECT
    rating = Rating("01", None, image, "0", verdict, (), "", "me", "2099", Path("x"), is_stale=False)
    quality = gather(cohort / "out").quality
    assert exclusions(quality, [rating], drop_rejected=False) == {}
    excluded = exclusions(quality, [rating], drop_rejected=True)
    assert list(excluded) == [("01", "", Modality.BOLD, True)]
    kept = exclude(measured, excluded)[0]
    assert not kept.chosen("bold", "synthetic")
    assert kept.chosen("bold", "acquired")
    assert ("bold", "synthetic") not in kept.volumes
    assert {c.scan.contrast for c in kept.comparisons} == {"dwi", "b0"}
    reported = gather(cohort / "out").fidelity
    left = exclude_scores(reported, excluded)
    gone = reported.loc[reported.index.difference(left.index)]
    assert set(gone["participant_id"]) == {"sub-01"}
    assert set(gone["contrast"]) == {"bold"}
    assert set(left.loc[left["participant_id"] == "sub-01", "contrast"]) == {"dwi", "b0"}


def test_columns_that_are_named_must_be_there(tmp_path):
    write_dataset(tmp_path / "data", ["01", "02", "03", "04"])
    with pytest.raises(UsageError, match="no column mmse; there are: participant_id, diagnosis"):
        read_people(tmp_path / "data", "diagnosis", ["mmse"])
    people = read_people(tmp_path / "data", "diagnosis")
    design, names = people.design(["01", "02", "99"])
    assert names == ["age", "sex M", "site B"][: len(names)]
    assert design[1].tolist()[:2] == [61, 1]
    assert np.isnan(design[2]).all()


def test_people_of_one_head_are_relatives_by_default(tmp_path):
    head = "participant_id\tdiagnosis\tanatomy\ttwins\n"
    table = head + "sub-01\tAD\thead_1\t1\nsub-02\tNC\thead_1\tn/a\nsub-03\tNC\thead_2\t1\n"
    (tmp_path / "participants.tsv").write_text(table)
    people = read_people(tmp_path, "diagnosis")
    assert [people.family_of(label) for label in ("01", "02", "03")] == ["head_1", "head_1", "head_2"]
    named = read_people(tmp_path, "diagnosis", family_column="twins")
    assert [named.family_of(label) for label in ("01", "02", "03")] == ["1", "sub-02", "1"]
    (tmp_path / "participants.tsv").write_text(table.replace("head_2", "head_1"))
    assert read_people(tmp_path, "diagnosis").family_of("01") == "sub-01"
    with pytest.raises(UsageError, match="cousins"):
        read_people(tmp_path, "diagnosis", family_column="cousins")


def test_numbers_of_sites_and_diagnoses_are_names(tmp_path):
    rows = [f"sub-{k:02d}\t{k % 3}\t{60 + k}\t{k % 4}" for k in range(1, 9)]
    path = tmp_path / "participants.tsv"
    path.write_text("\n".join(["participant_id\tgroup\tage\tsite", *rows, "sub-99\tn/a\tn/a\tn/a"]) + "\n")
    people = read_people(tmp_path, "group")
    design, names = people.design(["01", "02", "03", "04", "99"])
    assert names == ["age", "site 1", "site 2", "site 3"]
    assert design[:4, 1:].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert np.isnan(design[4]).all()
    assert (people.group_of("02"), people.site_of("02"), people.group_of("99")) == ("2", "2", "")


def test_too_many_sites_are_left_out_by_default_and_refused_by_name(tmp_path, caplog):
    rows = [f"sub-{k:02d}\tNC\t{60 + k}\tscanner{k}" for k in range(40)]
    path = tmp_path / "participants.tsv"
    path.write_text("\n".join(["participant_id\tdiagnosis\tage\tsite", *rows]) + "\n")
    assert read_people(tmp_path, "diagnosis").covariates == ("age",)
    assert "column site has 40 values" in caplog.text
    with pytest.raises(UsageError, match="covariate site has 40 categories"):
        read_people(tmp_path, "diagnosis", ["age", "site"])


def test_the_options_survive_the_file(tmp_path):
    config = RunConfig(
        bids_dir=tmp_path / "a", output_dir=tmp_path / "b", analysis_level="group", covariates=["age"],
        classifiers=["cnn"], atlas="x.nii.gz",
    )  # fmt: skip
    assert RunConfig.from_toml(config.to_toml()) == config
    assert config.classifiers == (Classifier.CNN,)


def test_fa_and_md_are_those_of_tissue_for_classifiers(tmp_path):
    out = tmp_path / "out"
    write_outputs(out, ["01"], lacks=("none",))
    path = next((out / "sub-01").rglob("*space-*param-md_dwimap.nii.gz"))
    image = nib.load(path)
    md = image.get_fdata(dtype=np.float32)
    fluid = BRAIN & (np.indices(BRAIN.shape).sum(0) % 3 == 0)
    md[fluid] = 3e-3
    nib.Nifti1Image(md, image.affine, image.header).to_filename(path)
    (person,) = measure_participants(["01"], Reading(out, atlas(), template(), RANGES))
    labels = sorted(atlas().labels)
    for contrast in ("fa", "md"):
        (own,) = person.chosen(contrast, "acquired")
        data = nib.load(own.scan.image).get_fdata()
        expected = [data[(k == ATLAS) & BRAIN & ~fluid].mean() for k in labels]
        assert own.features == pytest.approx(expected, rel=1e-5)
        # The table keeps the mean of the whole parcel.
        assert own.means == pytest.approx([data[k == ATLAS].mean() for k in labels], rel=1e-5)
    assert person.chosen("b0", "acquired")[0].tissue is None


def test_synthetic_fa_and_md_beside_acquired_ones(tmp_path):
    out = tmp_path / "out"
    lacks = {"01": "none", "02": "none", "03": "none", "04": "dwi", "05": "bold", "06": "none"}
    for k, (label, lack) in enumerate(lacks.items()):
        write_person(out, label, k, lack=lack, with_synthetic_maps=True)
    # Fluid of the prediction, elsewhere than that of the scan.
    path = next((out / "sub-01").rglob("*space-*param-md_desc-synthetic_dwimap.nii.gz"))
    image = nib.load(path)
    md, fluid = image.get_fdata(dtype=np.float32), BRAIN & (np.indices(BRAIN.shape).sum(0) % 5 == 0)
    nib.Nifti1Image(np.where(fluid, 2.9e-3, md).astype("f4"), image.affine, image.header).to_filename(path)
    found = measure_participants(list(lacks), Reading(out, atlas(), template(), RANGES))
    labels = sorted(atlas().labels)
    fa = nib.load(next((out / "sub-01").rglob("*space-*param-fa_desc-synthetic_dwimap.nii.gz"))).get_fdata()
    (own,) = found[0].chosen("fa", "synthetic")
    assert own.features == pytest.approx([fa[(k == ATLAS) & ~fluid].mean() for k in labels], rel=1e-5)
    table = next((out / "sub-01").rglob("*atlas-*desc-synthetic+fa_timeseries.tsv"))
    rows = pd.read_csv(table, sep="\t")
    assert rows[["input", "contrast", "volume"]].to_numpy().tolist() == [["synthetic", "fa", "mean"]]
    assert rows.iloc[0, 3:].to_numpy(float) == pytest.approx(
        [fa[k == ATLAS].mean() for k in labels], rel=1e-5
    )
    pairs = {pair.contrast: pair for pair in pair_up(found)}
    assert list(pairs) == ["b0", "bold", "dwi", "fa", "md"]
    assert pairs["fa"].labels == ("01", "02", "03", "06")
    scores = pairs["fa"].comparisons[1].scores
    assert scores["mae.brain"] == pytest.approx(0.01, rel=1e-3)
    # Neither image is divided by its mean: 20 log10(1 / 0.01), the range of FA being 1.
    assert scores["psnr.brain"] == pytest.approx(40, abs=0.01)
    assert scores["coverage50.brain"] == 1
    assert "coverage50.brain" not in pairs["md"].comparisons[1].scores
    assert pairs["md"].synthetic[1] == pytest.approx(1.02 * pairs["md"].acquired[1], rel=1e-4)
    who = pd.DataFrame({"diagnosis": ["NC", "AD", "NC", "AD", "NC", "AD"]}, index=list(lacks))
    blocks, contrasts = gather_blocks(found, People(who, "diagnosis"))
    assert contrasts[Modality.DWI] == ["b0", "dwi", "fa", "md"]
    filled = blocks.take([Input(Modality.DWI, Origin.FILLED)])
    assert np.isfinite(filled).all()
    assert filled[3] == pytest.approx(blocks.tables[Modality.DWI, Origin.SYNTHETIC][3])


def test_segments_of_a_synthetic_bold_image_are_no_time(tmp_path):
    out = tmp_path / "out"
    write_person(out, "01", 3)
    scans = [scan for scan in find_scans(out, "01")[0] if scan.modality is Modality.BOLD]
    assert {scan.origin for scan in scans} == {"acquired", "synthetic"}
    series = np.random.default_rng(0).normal(size=(MIN_SERIES, len(atlas().labels)))
    signals = [replace(measure_scan(scan, atlas()), series=series) for scan in scans]
    written = [path.name for path in write_tables(out, signals, atlas())]
    assert sum("desc-synthetic+mean_timeseries" in name for name in written) == 1
    assert [name.split("_desc-")[1] for name in written if "relmat" in name] == ["mean_relmat.tsv"]


def test_a_cohort_that_only_has_bold_is_told_apart_by_synthetic_dwi_too(tmp_path):
    out = tmp_path / "out"
    labels = [f"{k:02d}" for k in range(12)]
    write_outputs(out, labels, lacks=("dwi",))
    found = measure_participants(labels, Reading(out, atlas(), template(), RANGES))
    who = People(pd.DataFrame({"diagnosis": ["NC", "MCI", "AD"] * 4}, index=labels), "diagnosis")
    assert gather_blocks(found, who)[1] == {Modality.BOLD: ["bold"], Modality.DWI: ["b0", "dwi"]}
    table = diagnose(found, Question(who, (Classifier.LDA,), 2, 0)).table.set_index("scheme")
    for name in ("synthetic dwi", "hybrid acquired bold + synthetic dwi"):
        assert table.loc[name, "n_test"] == 12
        assert table.loc[name, "source_only_accuracy"] == table.loc["acquired bold", "accuracy"]
    assert not table.index.str.contains("alone$").any()


def test_courses_of_acquired_bold_alone(tmp_path):
    out = tmp_path / "out"
    write_person(out, "01", 3, n_segments=MIN_SERIES)
    write_person(out, "02", 4, n_segments=MIN_SERIES - 1)
    found = measure_participants(["01", "02"], Reading(out, atlas(), template(), RANGES))
    courses = acquired_courses(found)
    series = found[0].chosen("bold", "acquired")[0].series
    assert courses["amplitude"][0] == pytest.approx(np.log(series.std(0) / series.mean(0)))
    z = np.arctanh(np.corrcoef(series.T) - np.eye(series.shape[1]))
    assert courses["connectivity"][0] == pytest.approx(z.sum(0) / (len(z) - 1))
    assert np.isnan(courses["amplitude"][1]).all()
    assert acquired_courses(found[1:]) == {}


def test_only_the_named_parcels_are_looked_at(measured, people):
    question = Question(people, (Classifier.LDA,), n_folds=3, n_permutations=0, parcels=(2, 3, 8))
    found = diagnose(measured, question)
    assert found.blocks.tables[Modality.BOLD, Origin.ACQUIRED].shape == (18, 3)
    assert set(found.table.loc[found.table["family"] == "scheme", "features"]) == {"3 parcels"}
    names = atlas().names
    places = _places(atlas(), ["place03", "place1"])
    assert [names[k] for k in places] == [n for n in names if n == "place03" or n.startswith("place1")]
    with pytest.raises(UsageError, match="--regions Hippo: no parcel of cubes begins like this"):
        _places(atlas(), ["Hippo"])
