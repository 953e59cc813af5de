"""The methods text says what was done, no more, and that images are synthetic."""

import dataclasses
import re
from pathlib import Path

import pytest

from pds_bids.bids.derivatives import DerivativeDataset, Level, Pipeline, Precomputed
from pds_bids.bids.fieldmaps import EchoPlanar, Fieldmap, FieldmapKind
from pds_bids.bids.series import Series
from pds_bids.config import RunConfig
from pds_bids.modalities import Direction, Modality
from pds_bids.options import Synthesize
from pds_bids.plan import Action, Plan, SessionPlan
from pds_bids.reports.boilerplate import (
    markdown_to_html,
    methods_text,
    read_bibliography,
    write_boilerplate,
)

BOLD = Series(Modality.BOLD, Path("/d/b.nii.gz"), {}, {})
DWI = Series(Modality.DWI, Path("/d/d.nii.gz"), {}, {})
T1W = Path("/d/t1.nii.gz")
CONFIG = RunConfig(bids_dir=Path("/d"), output_dir=Path("/o"), random_seed=4711, n_segments=7)
MODEL = {"Name": "unet", "WeightsSHA256": "c0ffee", "TrainingData": "simulated pairs", "Steps": None}


def plan(*sessions):
    return Plan("Demo", Path("/d"), Synthesize.MISSING, sessions)


def from_bold(participant="01", **changes):
    base = SessionPlan(participant, "1", BOLD, directions=(Direction.BOLD2DWI,), action=Action.RUN)
    return dataclasses.replace(base, **changes)


def test_only_what_was_there_is_described():
    text = methods_text(plan(from_bold(), from_bold("02", t1w=T1W)), CONFIG, model=MODEL)
    assert "## BOLD preprocessing" in text
    assert "## Diffusion preprocessing" not in text
    assert "for 2 sessions of 2 participants" in text
    assert "available for 1 of 2 sessions" in text
    for said in ("4711", "c0ffee", "simulated pairs", "7 contiguous segments", "BOLD to diffusion-weighted"):
        assert said in text
    assert "Steps" not in text
    assert "None" not in text


def test_both_directions_with_a_target_to_compare_with():
    session = from_bold(dwi=DWI, directions=tuple(Direction))
    text = methods_text(plan(session), CONFIG)
    assert "## Diffusion preprocessing" in text
    assert "in 1 of them the target had been acquired" in text
    assert "structural similarity" in text
    assert "structural similarity" not in methods_text(plan(from_bold()), CONFIG)
    assert "No T1-weighted image was available" in text


@pytest.mark.parametrize("action", [Action.FAIL, Action.SKIP])
def test_sessions_that_were_not_done_are_not_described(action):
    text = methods_text(plan(from_bold(), from_bold("02", action=action)), CONFIG)
    assert "for 1 session of 1 participant." in text
    nothing = methods_text(plan(from_bold(action=action)), CONFIG)
    why = "1 session failed" if action is Action.FAIL else "no session of this run called for it"
    assert f"No image was synthesised: {why}." in nothing
    assert "##" not in nothing


def test_it_says_that_images_are_synthetic_before_anything_else():
    text = methods_text(plan(from_bold()), CONFIG)
    assert "predicted by a model and not acquired" in text.split("\n\n")[1]


def test_options_are_those_of_the_run():
    sloppy = dataclasses.replace(CONFIG, sloppy=True, dummy_scans=4, fd_spike_threshold=0.9)
    text = methods_text(plan(from_bold()), sloppy)
    assert "must not be interpreted" in text
    assert "The first 4 volumes of each run were dropped" in text
    assert "above 0.9 mm" in text
    contiguous = dataclasses.replace(CONFIG, segment_scheme="contiguous")
    session = from_bold(bold=None, dwi=DWI, directions=(Direction.DWI2BOLD,))
    assert "in the order of acquisition" in methods_text(plan(session), contiguous)
    assert "electrostatic" in methods_text(plan(session), CONFIG)


def test_template_origin_decides_who_is_cited():
    own = methods_text(plan(from_bold()), CONFIG, template_origin="built from nilearn 0.14")
    assert "@nilearn" in own
    assert "@templateflow" not in own
    assert "built from nilearn 0.14" in own


def test_every_citation_is_in_the_bibliography_and_resolves():
    bibliography = read_bibliography()
    session = from_bold(dwi=DWI, t1w=T1W, directions=tuple(Direction))
    for origin in ("TemplateFlow", "nilearn"):
        text = methods_text(plan(session), CONFIG, template_origin=origin)
        cited = set(re.findall(r"@(\w+)", text))
        assert cited <= set(bibliography)
        assert len(cited) > 10
        page = markdown_to_html(text, bibliography)
        assert page.count("<li id=") == len(cited)
        assert "@" not in page
        links, targets = re.findall(r'href="#(ref-\w+)"', page), re.findall(r'id="(ref-\w+)"', page)
        assert set(links) == set(targets)


def test_bibliography_is_whole():
    bibliography = read_bibliography()
    text = Path(__file__).parents[2].joinpath("pds_bids/data/boilerplate.bib").read_text()
    assert len(bibliography) == text.count("\n@") + 1
    for key, entry in bibliography.items():
        assert {"author", "title", "journal", "year"} <= set(entry), key
        assert not re.search(r"[{}\\]", "".join(entry.values()))
        assert "doi" in entry or entry["url"].startswith("https://"), key


def test_markup_of_a_text_does_not_reach_the_page():
    page = markdown_to_html('x <img src=x onerror="y"> [z](javascript:w) *a* **b** `c<d`', {})
    assert "<img" not in page
    assert "javascript" in page
    assert 'href="javascript' not in page
    assert "<em>a</em> <strong>b</strong> <code>c&lt;d</code>" in page


def test_files_are_written_whole_and_the_same_each_time(tmp_path):
    paths = write_boilerplate(tmp_path, plan(from_bold()), CONFIG, model=MODEL)
    assert [path.name for path in paths] == ["CITATION.md", "CITATION.html", "CITATION.bib"]
    before = [path.read_bytes() for path in paths]
    write_boilerplate(tmp_path, plan(from_bold()), CONFIG, model=MODEL)
    assert [path.read_bytes() for path in paths] == before
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == sorted(path.name for path in paths)
    assert b"<script" not in before[1]
    assert b"src=" not in before[1]


def test_echoes_runs_denoising_and_derivatives_are_described():
    echoes = dataclasses.replace(BOLD, echoes=(BOLD, BOLD), joined=(BOLD,))
    session = from_bold(bold=echoes, dwi=DWI)
    config = dataclasses.replace(CONFIG, denoise_method="mppca", unringing_method="gibbs")
    text = methods_text(plan(session), config)
    for said in (
        "1 session several echoes were combined",
        "fit of T2*",
        "1 session several runs",
        "PCA",
        "Gibbs",
    ):
        assert said in text
    plain = methods_text(plan(from_bold(dwi=DWI)), CONFIG)
    for unsaid in ("echoes", "several runs", "PCA", "Gibbs"):
        assert unsaid not in plain


def test_steps_that_derivatives_replace_are_not_claimed():
    dataset = DerivativeDataset(Pipeline.FMRIPREP, Path("/f"), "25.1.0")
    precomputed = Precomputed(dataset, "sub-01", Level.TEMPLATE)
    text = methods_text(plan(from_bold(bold_derivatives=precomputed)), CONFIG)
    assert "are those of fMRIPrep 25.1.0 (realigned series in MNI152NLin2009cAsym)" in text
    assert "Gauss-Newton" not in text


def test_distortion_is_described_where_a_fieldmap_is_used():
    own = EchoPlanar(Path("/d/b.nii.gz"), "j", 0.05)
    corrected = from_bold(bold_fieldmap=Fieldmap(FieldmapKind.PHASEDIFF, "IntendedFor", own))
    text = methods_text(plan(corrected, from_bold("02")), CONFIG)
    assert "corrected for 1 session with the phase difference of two gradient echoes" in text
    assert "for the others it was not corrected" in text
    assert "distortion was not corrected." in methods_text(plan(from_bold()), CONFIG)
