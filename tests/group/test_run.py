"""The whole level from the command line, on people made of parcels."""

import json
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest
from group_tree import template

from pds_bids.cli.run import main
from pds_bids.group import run
from pds_bids.reports.ratings import FORMAT, image_sha256


class _Page(HTMLParser):
    """Collects what a page points to, and checks that tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors, self.open = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.targets += [found[name] for name in ("href", "src") if name in found]
        self.anchors.add(found.get("id"))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def outputs(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "get_template", lambda _: None)
    monkeypatch.setattr(run, "load_template", lambda _, __: template())
    monkeypatch.chdir(tmp_path)
    out = shutil.copytree(cohort / "out", tmp_path / "out")
    shutil.rmtree(out / "sub-18")
    return out


def _run(cohort, out, *more):
    options = ["--nprocs", "1", "--classifiers", "logistic", "--n-folds", "3", "--permutations", "0"]
    work = str(out.parent / "work")
    return main([str(cohort / "data"), str(out), "group", *options, "-w", work, *more])


def test_one_command_writes_tables_and_a_page_that_holds_together(cohort, outputs):
    assert _run(cohort, outputs) == 0
    text = (outputs / "group.html").read_text()
    page = _Page(text)
    assert not page.open
    local = [t for t in page.targets if not t.startswith(("#", "data:"))]
    assert not [t for t in local if t.startswith("http")]
    missing = [t for t in local if not (outputs / t).exists() and not t.startswith("sub-")]
    assert not missing
    assert {t[1:] for t in page.targets if t.startswith("#")} <= page.anchors
    assert "no folder of this participant among the outputs" in text
    assert "hybrid: missing modality synthetic" in text
    assert "not measurements" in text
    for name in ("qc", "synthetic", "fidelity", "diagnosis"):
        table = pd.read_csv(outputs / f"group_{name}.tsv", sep="\t")
        described = pd.read_json(outputs / f"group_{name}.json", typ="series")
        assert set(table.columns) <= set(described.index), name
    assert len(list((outputs / "figures").glob("group_*.png"))) >= 9


def test_a_rejected_image_is_told_beside_the_title(cohort, outputs):
    shutil.copytree(cohort / "out" / "sub-18", outputs / "sub-18")
    # Of somebody who has both, nothing was asked for: that is listed, but no defect.
    for path in sorted((outputs / "sub-11").rglob("*desc-synthetic*")):
        path.unlink()
    plan = outputs / "sub-11" / "log" / "plan_sub-11.json"
    session = {"participant": "11", "session": None, "action": "skip", "reason": "nothing missing"}
    plan.write_text(json.dumps({"sessions": [session]}))
    image = sorted(outputs.glob("sub-*/func/*_desc-synthetic_boldref.nii.gz"))[0]
    label = image.relative_to(outputs).parts[0].removeprefix("sub-")
    entry = {"image": str(image.relative_to(outputs)), "sha256": image_sha256(image), "verdict": "reject"}
    rating = {"format": FORMAT, "participant": label, "session": None, "rater": "AB"}
    rating |= {"rated_at": "2026-01-02T03:04:05Z", "ratings": [entry | {"artefacts": [], "comment": ""}]}
    (outputs / "ratings").mkdir()
    path = outputs / "ratings" / f"sub-{label}_rater-AB_rating.json"
    for sha256, told in ((entry["sha256"], "all complete, some rejected"), ("0" * 64, "all complete<")):
        rating["ratings"][0]["sha256"] = sha256
        path.write_text(json.dumps(rating))
        assert _run(cohort, outputs, "--classifiers") == 0
        text = (outputs / "group.html").read_text()
        assert told in text.split("</h1>")[0]
        assert "nothing missing" in text


def test_too_few_people_are_told_and_drawn_nowhere(cohort, outputs):
    few = ["--participant-label", "01", "02", "03", "10", "11", "12", "--permutations", "2"]
    assert _run(cohort, outputs, *few) == 0
    text = (outputs / "group.html").read_text()
    assert not _Page(text).open
    assert "Nobody could be tested" in text
    assert set(pd.read_csv(outputs / "group_diagnosis.tsv", sep="\t")["n_test"]) == {0}
    assert not list((outputs / "figures").glob("group_diagnosis-*"))


def test_people_whom_the_model_was_trained_on_are_no_test_of_it(cohort, outputs):
    split = {"train": ["01", "02"], "validation": ["03"], "test": ["10"]}
    for folder, name, content in (
        ("training", "splits.json", split),
        ("models", "model.json", {"sha256": {"weights.safetensors": "0"}}),
    ):
        (outputs / folder / "unet").mkdir(parents=True)
        (outputs / folder / "unet" / name).write_text(json.dumps(content))
    assert _run(cohort, outputs, "--classifiers") == 0
    table = pd.read_csv(outputs / "group_fidelity.tsv", sep="\t")
    judged = set(table.loc[table["level"] == "participant", "participant_id"])
    assert judged == {"sub-10", "sub-11", "sub-12"}
    # A bootstrap over three people is no interval.
    means = table[(table["level"] == "cohort") & (table["metric"] == "psnr")]
    assert set(means["n"]) == {3}
    assert means["ci_low"].isna().all()
    synthetic = pd.read_csv(outputs / "group_synthetic.tsv", sep="\t").set_index("participant_id")
    assert "trained on this person" in synthetic.loc["sub-01", "excluded"].iloc[0]
    assert "calibrated on this person" in synthetic.loc["sub-03", "excluded"].iloc[0]
    assert synthetic.loc["sub-10", "excluded"].isna().all()
    told = "Synthetic BOLD left out of fidelity and diagnosis (2): its model was trained on this person. "
    assert told + "sub-01, sub-02." in (outputs / "group.html").read_text()
    # Other weights: nobody knows these people.
    (outputs / "models" / "unet" / "model.json").write_text('{"sha256": {"weights.safetensors": "1"}}')
    assert _run(cohort, outputs, "--classifiers") == 0
    table = pd.read_csv(outputs / "group_fidelity.tsv", sep="\t")
    assert len(set(table.loc[table["level"] == "participant", "participant_id"])) == 6


def test_a_leak_is_refused_with_an_exit_code_and_on_the_page(cohort, outputs, capsys):
    for path in sorted((outputs / "sub-02").rglob("*desc-mean_boldref.nii.gz")):
        shutil.copy(path, str(path).replace("sub-02", "sub-12"))
    assert _run(cohort, outputs) == 1
    assert "sub-02 and sub-12 have an image in common" in capsys.readouterr().err
    assert "There is no diagnosis: leakage" in (outputs / "group.html").read_text()
    assert (outputs / "group_fidelity.tsv").exists()
    assert not (outputs / "group_diagnosis.tsv").exists()


def test_dry_run_writes_nothing(cohort, outputs, capsys):
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*")}
    assert _run(cohort, outputs, "--dry-run") == 0
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("*")} == before
    assert "sub-01" in capsys.readouterr().out
