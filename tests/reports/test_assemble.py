"""The page: it tells the truth about what lies in the folder, needs no network, and can be built again."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from pds_bids.bids.series import Series
from pds_bids.config import RunConfig
from pds_bids.modalities import Direction, Modality
from pds_bids.options import Synthesize
from pds_bids.plan import Action, Plan, SessionPlan
from pds_bids.reports.assemble import assemble_report
from pds_bids.reports.boilerplate import write_boilerplate

PASSED = {"passed": True, "stage": "deformable", "reason": "", "mask_dice": 0.95}
CRASH = """Node: pds_bids_wf.sub_01_ses_1_wf.register
Traceback (most recent call last):
  File "x.py", line 1, in f
pds_bids.exceptions.QualityError: mask overlap 0.61 <script>alert(1)</script>
"""


class Page(HTMLParser):
    """Tags with their attributes, in order, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def links(self):
        return [
            (tag, attributes[name])
            for tag, attributes in self.tags
            for name in ("src", "href", "data", "srcset", "poster", "action")
            if name in attributes
        ]

    def lights(self):
        return [attributes["class"].split()[1] for _, attributes in self.tags if is_light(attributes)]

    def outcomes(self):
        """Lights in the headings of the sessions."""
        pairs = zip(self.tags, self.tags[1:], strict=False)
        return [
            light["class"].split()[1] for (tag, _), (_, light) in pairs if tag == "h2" and is_light(light)
        ]


def is_light(attributes):
    return attributes.get("class", "").startswith("lamp ")


def session(label="1", action=Action.RUN, directions=(Direction.BOLD2DWI,), reason="no DWI was acquired"):
    bold = Series(Modality.BOLD, Path("/d/b.nii.gz"), {}, {"sub": "01", "task": "rest"}, n_volumes=200)
    return SessionPlan("01", label, bold, directions=directions, action=action, reason=reason)


class Folder:
    """An output folder that is filled piece by piece."""

    def __init__(self, path, *sessions):
        self.path = path
        self.log = path / "sub-01" / "log"
        self.log.mkdir(parents=True)
        if sessions:
            self.plan = Plan("Demo", Path("/d"), Synthesize.MISSING, sessions)
            self.plan.save(self.log / "plan_sub-01.json")

    def quality(self, content, label="1"):
        name = f"sub-01_ses-{label}_task-rest_desc-image_qc.json"
        self._write(f"sub-01/ses-{label}/func/{name}", json.dumps(content))
        return self

    def synthetic(self, label="1"):
        stem = f"sub-01/ses-{label}/dwi/sub-01_ses-{label}_space-X_res-3_desc-synthetic_dwiref"
        model = {"Name": "unet", "WeightsSHA256": "c0ffee" * 10}
        self._write(f"{stem}.nii.gz", "")
        self._write(f"{stem}.json", json.dumps({"GenerativeModel": model, "RandomSeed": 4711}))
        return self

    def figure(self, name, label="1"):
        self._write(f"sub-01/figures/sub-01_ses-{label}_{name}", '<svg viewBox="0 0 72 36"></svg>')
        return self

    def crash(self, run="20260101", text=CRASH):
        self._write(f"sub-01/log/{run}/crash-1-register.txt", text)
        return self

    def run(self, run, **files):
        for name, text in files.items():
            self._write(f"sub-01/log/{run}/{name.replace('__', '.')}", text)
        return self

    def page(self):
        return Page(assemble_report(self.path, "sub-01").read_text())

    def _write(self, relative, text):
        path = self.path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def full(tmp_path):
    """Two sessions, one of them crashed, with everything that a page can show."""
    folder = Folder(tmp_path / "out", session("1"), session("2"))
    folder.quality({"registration": PASSED, "warnings": ["distortion was not corrected"]}, "2")
    folder.synthetic("2").figure("desc-synthetic_dwiref.svg", "2").figure(
        "task-rest_desc-mask_boldref.svg", "2"
    )
    folder.figure("desc-new+kind_bold.svg", "2").crash()
    folder.run("20260101", command__txt="pds-bids /d /o participant", o__toml='seed = "<7>"')
    write_boilerplate(folder.path, folder.plan, RunConfig(bids_dir=Path("/d"), output_dir=folder.path))
    return folder


def test_no_network_and_no_script_of_others(full):
    page = full.page()
    for tag, url in page.links():
        if "//" in url:
            assert tag == "a"
            assert url.startswith(("https://doi.org/", "https://arxiv.org/", "https://creativecommons.org/"))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"iframe", "object", "embed"}
    assert not [attributes for tag, attributes in page.tags if tag == "script" and attributes]
    assert not [attributes for tag, attributes in page.tags if tag == "form" and "action" in attributes]
    assert [attributes for tag, attributes in page.tags if tag == "link"] == [
        {"rel": "icon", "href": "data:,"}
    ]
    style = (Path(full.path) / "sub-01.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_every_local_link_leads_somewhere(full):
    page = full.page()
    anchors = {attributes.get("id") for _, attributes in page.tags}
    files = [url for _, url in page.links() if "//" not in url and not url.startswith(("#", "data:"))]
    assert len(files) >= 8
    assert all((full.path / unquote(url)).is_file() for url in files)
    assert all(url[1:] in anchors for _, url in page.links() if url.startswith("#"))


def test_every_figure_is_shown_with_text_for_those_who_do_not_see_it(full):
    images = [attributes for tag, attributes in full.page().tags if tag == "img"]
    shown = [unquote(image["src"]) for image in images]
    on_disk = {f"sub-01/figures/{path.name}" for path in (full.path / "sub-01" / "figures").iterdir()}
    assert set(shown) == on_disk
    # The result first, what the specification does not know last.
    assert "synthetic" in shown[0]
    assert "new+kind" in shown[-1]
    assert "SYNTHETIC" in images[0]["alt"]
    assert not any("SYNTHETIC" in image["alt"] for image in images[1:])
    assert (images[0]["width"], images[0]["height"]) == ("96", "48")


def test_errors_come_first_and_are_escaped(full):
    text = assemble_report(full.path, "01").read_text()
    assert text.index('id="errors"') < text.index('id="summary"')
    assert "mask overlap 0.61 &lt;script&gt;" in text
    assert "<script>alert" not in text
    page = Page(text)
    assert page.lights()[0] == "bad"
    assert "sessions: 1 failed, 1 done" in page.text
    # The traceback waits to be opened: the summary is in the first view.
    assert not [attributes for tag, attributes in page.tags if tag == "details" and "open" in attributes]


def test_provenance_is_told(full):
    text = full.page().text
    for told in ("pds-bids /d /o participant", "c0ffee" * 10, "4711", "<7>", "distortion was not corrected"):
        assert told in text
    assert "Images marked SYNTHETIC are predictions" in text


def test_built_again_and_elsewhere_it_is_the_same(full, tmp_path):
    first = assemble_report(full.path, "01").read_bytes()
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(full.path, copy)
    (copy / "sub-01.html").unlink()
    assert assemble_report(copy, "sub-01").read_bytes() == first
    assert not list(copy.glob(".*"))


GATE_FAILED = {"passed": False, "reason": "mask overlap 0.4"}
GATE_AFFINE = {"passed": True, "stage": "affine"}
CASES = {
    "done": (session(), ["synthetic"], PASSED, "good", "done"),
    "done earlier": (session(action=Action.DONE), ["synthetic"], PASSED, "good", "done"),
    "planned but not there": (session(), [], PASSED, "bad", "no synthetic DWI in the folder"),
    "said to be done but not there": (session(action=Action.DONE), [], None, "bad", "no synthetic DWI"),
    "crashed": (session(), ["crash"], None, "bad", "mask overlap 0.61"),
    "crashed with images of an earlier run": (session(), ["synthetic", "crash"], PASSED, "doubt", "crashed"),
    "gate failed": (session(), ["synthetic"], GATE_FAILED, "bad", "a registration failed its gate"),
    "fallback": (session(), ["synthetic"], GATE_AFFINE, "doubt", "look at the registration"),
    "skipped": (session(action=Action.SKIP, directions=(), reason="nothing is missing"), [], None, "idle",
                "nothing is missing"),
    "cannot be used": (session(action=Action.FAIL, directions=(), reason="truncated gzip"), [], None, "bad",
                       "truncated gzip"),
    "no plan": (None, ["synthetic"], PASSED, "good", "This folder has no plan"),
    "images and nothing else": (None, ["synthetic"], None, "doubt", "no verdict on their registration"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_outcome_is_told_truly(tmp_path, case):
    plan, pieces, gate, kind, words = CASES[case]
    folder = Folder(tmp_path / "out", *([plan] if plan else []))
    for piece in pieces:
        getattr(folder, piece)()
    if gate:
        folder.quality({"registration": gate})
    page = folder.page()
    assert page.outcomes() == [kind]
    assert words in page.text
    # Where there is no synthetic image, nothing is said about synthetic images.
    assert ("Images marked SYNTHETIC are" in page.text) == ("synthetic" in pieces)


SHORT = {
    "one done": (["good"], "good", "done"),
    "one to look at": (["affine"], "doubt", "to look at"),
    "one not done": (["none"], "bad", "not done"),
    "all kinds": (["good", "affine", "none", "skip"], "bad",
                  "sessions: 1 not done, 1 to look at, 1 done, 1 skipped"),
    "two alike": (["good", "good"], "good", "sessions: 2 done"),
    "nothing missing": (["skip", "skip"], "idle", "nothing was synthesised"),
}  # fmt: skip


@pytest.mark.parametrize("case", SHORT)
def test_the_lamp_of_the_title_counts_sessions(tmp_path, case):
    kinds, light, words = SHORT[case]
    plans = [
        session(str(k), action=Action.SKIP, directions=()) if kind == "skip" else session(str(k))
        for k, kind in enumerate(kinds)
    ]
    folder = Folder(tmp_path / "out", *plans)
    for k, kind in enumerate(kinds):
        if kind in ("good", "affine"):
            folder.synthetic(str(k)).quality(
                {"registration": PASSED if kind == "good" else GATE_AFFINE}, str(k)
            )
    page = folder.page()
    assert page.lights()[0] == light
    assert page.text.split("sub-01 ")[1].split("\n")[0].split(" ", 1)[1].strip() == words


def test_a_crash_outside_of_the_sessions_is_told_beside_the_title(tmp_path):
    folder = Folder(tmp_path / "out", session()).quality({"registration": PASSED}).synthetic()
    page = folder.crash(text=CRASH.replace("sub_01_ses_1_wf", "elsewhere")).page()
    assert page.lights()[0] == "bad"
    assert "done; the last run crashed" in page.text


def test_quality_of_acquired_and_synthetic_are_told_apart(tmp_path):
    folder = Folder(tmp_path / "out", session()).quality({"registration": PASSED})
    content = {"fidelity": [{"target": "dwi", "predictor": "model", "is_model": True, "psnr_brain": 18.0}]}
    place = tmp_path / "out" / "sub-01" / "ses-1" / "dwi" / "sub-01_ses-1_desc-synthetic_qc.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(content))
    text = folder.page().text
    assert "Quality measures of BOLD task-rest" in text
    assert "Quality measures of synthetic DWI" in text
    assert "model (model)" not in text


def test_worse_than_a_trivial_baseline_is_told_at_a_glance(tmp_path):
    folder = Folder(tmp_path / "out", session()).quality({"registration": PASSED}).synthetic()
    place = "sub-01/ses-1/dwi/sub-01_ses-1_desc-synthetic_qc.json"
    rows = [
        {"target": "dwi", "predictor": name, "psnr_brain": value, "is_model": name == "model"}
        for name, value in (("model", 13.0), ("cubic", 15.0))
    ]
    folder._write(place, json.dumps({"fidelity": rows}))
    page = folder.page()
    assert page.outcomes() == ["doubt"]
    assert "synthetic DWI: the model is 2.00 dB below the best trivial baseline (cubic)" in page.text
    rows[0]["psnr_brain"] = 16.0
    folder._write(place, json.dumps({"fidelity": rows}))
    assert folder.page().outcomes() == ["good"]
    folder._write(place, json.dumps({"fidelity": rows, "warnings": ["look at it with suspicion"]}))
    page = folder.page()
    assert page.outcomes() == ["doubt"]
    assert "warnings about the synthetic image" in page.text


def test_files_that_were_not_used_stand_in_one_line_and_warnings_once(tmp_path):
    why = "not needed"
    plan = replace(
        session(), not_used=((Path("/d/a.nii"), why), (Path("/d/b.nii"), why)), notes=("no fieldmap",)
    )
    folder = Folder(tmp_path / "out", plan).quality({"warnings": ["no fieldmap"]})
    folder._write(
        "sub-01/ses-1/dwi/sub-01_ses-1_desc-image_qc.json", '{"warnings": ["no brain", "DWI: cut"]}'
    )
    text = folder.page().text
    # Warnings say which series they speak of.
    assert "BOLD task-rest: no fieldmap" in text
    assert "DWI: no brain" in text
    assert "DWI: DWI" not in text
    assert "not used: a.nii, b.nii: not needed" in text
    assert text.count("no fieldmap") == 1


def save_rating(folder, verdict, sha256, rater="AB"):
    image = "sub-01/ses-1/dwi/sub-01_ses-1_desc-synthetic_dwiref.nii.gz"
    folder._write(image, "a volume")
    entry = {
        "image": image,
        "sha256": sha256,
        "verdict": verdict,
        "artefacts": ["pattern"],
        "comment": "<b>odd</b>",
    }
    content = {"format": "pds-bids rating 1", "participant": "01", "session": "1", "rater": rater}
    content |= {"rated_at": "2026-01-02T03:04:05Z", "ratings": [entry]}
    folder._write(f"ratings/sub-01_ses-1_rater-{rater}_rating.json", json.dumps(content))


@pytest.mark.parametrize(("verdict", "kind"), [("accept", "good"), ("doubt", "doubt"), ("reject", "bad")])
def test_a_reader_overrules_the_gates_for_the_worse(tmp_path, verdict, kind):
    folder = Folder(tmp_path / "out", session()).quality({"registration": PASSED})
    save_rating(folder, verdict, hashlib.sha256(b"a volume").hexdigest())
    page = folder.page()
    assert page.outcomes() == [kind]
    assert "Stripes, grid or checkerboard" in page.text
    assert "“<b>odd</b>”" in page.text
    assert "rate it again" not in page.text


def test_a_rating_of_an_older_image_overrules_nothing(tmp_path):
    folder = Folder(tmp_path / "out", session()).quality({"registration": PASSED})
    save_rating(folder, "reject", "0" * 64)
    page = folder.page()
    assert page.outcomes() == ["good"]
    assert "Of an older image: rate it again." in page.text


def test_a_rating_does_not_save_a_failed_registration(tmp_path):
    folder = Folder(tmp_path / "out", session()).quality({"registration": GATE_FAILED})
    save_rating(folder, "accept", hashlib.sha256(b"a volume").hexdigest())
    assert folder.page().outcomes() == ["bad"]


def test_a_broken_rating_is_told_and_named(tmp_path):
    folder = Folder(tmp_path / "out", session()).synthetic()
    folder._write("ratings/sub-01_ses-1_rating.json", "{")
    assert "ratings/sub-01_ses-1_rating.json" in folder.page().text


def test_what_is_missing_and_to_be_made_is_called_missing(tmp_path):
    text = Folder(tmp_path / "out", session()).synthetic().page().text
    assert "task-rest, 200 volumes" in text
    assert text.split("Outcome")[1].split("no verdict")[0].count("missing") == 1


def test_what_was_acquired_is_told_without_the_name_of_a_file(tmp_path):
    dwi = Series(Modality.DWI, Path("/d/sub-01_dwi.nii.gz"), {}, {"sub": "01"}, n_volumes=65)
    plan = replace(session(action=Action.SKIP, directions=()), dwi=dwi, t1w_session="2", t1w=Path("/d/t.nii"))
    text = Folder(tmp_path / "out", plan).page().text
    assert "65 volumes" in text
    assert "sub-01_dwi.nii.gz" not in text
    assert "from ses-2" in text
    assert "not needed" in text.split("Outcome")[1]


def test_a_figure_with_one_below_is_shown_with_a_slider(tmp_path):
    folder = Folder(tmp_path / "out", session()).synthetic()
    folder.figure("desc-registration_boldref.svg").figure("desc-registration+below_boldref.svg")
    folder.figure("desc-mask+below_boldref.svg")  # without the one above it is a figure like others
    page = folder.page()
    assert [a["class"] for t, a in page.tags if t == "div" and a.get("class") == "compare"] == ["compare"]
    pictures = [unquote(a["src"]).split("desc-")[1] for t, a in page.tags if t == "img"]
    assert pictures == [
        "registration+below_boldref.svg",
        "registration_boldref.svg",
        "mask+below_boldref.svg",
    ]


def test_both_directions_must_be_there(tmp_path):
    folder = Folder(tmp_path / "out", session(directions=tuple(Direction))).synthetic()
    assert "no synthetic BOLD in the folder" in folder.page().text


def test_runs_kept_apart_are_told_together_and_all_must_be_there(tmp_path):
    one, other = (replace(session(), bold=replace(session().bold, distinct={"run": str(k)})) for k in (1, 2))
    folder = Folder(tmp_path, one, other).quality({"registration": PASSED})
    stem = "sub-01/ses-1/dwi/sub-01_ses-1_run-{}_space-X_res-3_desc-synthetic_dwiref.nii.gz"
    folder._write(stem.format(1), "")
    assert folder.page().outcomes() == ["bad"]
    folder._write(stem.format(2), "")
    assert folder.page().outcomes() == ["good"]
    folder.crash(text=CRASH.replace("ses_1_wf", "ses_1_run_2_wf"))
    assert folder.page().outcomes() == ["doubt"]


def test_crash_of_another_session_is_not_blamed_on_this_one(full):
    page = full.page()
    first, second = page.text.split("\nSession 2 ")[0], page.text.split("\nSession 2 ")[1]
    assert "mask overlap 0.61" in first.split("\nSession 1 ")[1]
    assert "mask overlap 0.61" not in second


DIED = """Node: pds_bids_wf.sub_01_ses_1_wf.register
concurrent.futures.process.BrokenProcessPool: a process was terminated abruptly

When creating this crashfile, the results file corresponding
to the node could not be found."""


PICTURE = """Node: pds_bids_wf.sub_01_ses_1_wf.register
pds_bids.exceptions.QualityError: turned by 125 degrees; picture: /o/a.png
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (DIED, "BrokenProcessPool: a process was"),
        (PICTURE, "QualityError: turned by 125 degrees; picture: /o/a.png"),
        ("", "the crash file is empty"),
        ("odd\n", "odd"),
    ],
)
def test_the_line_that_names_the_error_is_found(tmp_path, text, told):
    folder = Folder(tmp_path / "out", session()).crash(text=text)
    summary = folder.page().text.split("Errors of the last run")[1].split("crash-1")[0]
    assert told in summary


def test_the_summary_gives_the_reason_without_class_and_path(tmp_path):
    text = Folder(tmp_path / "out", session()).crash(text=PICTURE).page().text
    assert text.count("turned by 125 degrees") == 4  # in the list, the crash file, the summary, the session
    assert text.count("/o/a.png") == text.count("QualityError") == 2


def test_crash_of_an_earlier_run_is_history(tmp_path):
    folder = Folder(tmp_path / "out", session()).synthetic().quality({"registration": PASSED})
    folder.crash("20260101")
    folder.run("20260202", o__toml="a = 1")
    page = folder.page()
    assert not any(attributes.get("id") == "errors" for _, attributes in page.tags)
    assert "Errors of earlier runs (1)" in page.text
    assert page.lights()[0] == "good"


@pytest.mark.parametrize("broken", ["", "{", "[1, 2]", "null"])
def test_broken_files_do_not_hide_the_rest(tmp_path, broken):
    folder = Folder(tmp_path / "out", session()).synthetic()
    quality = tmp_path / "out" / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_desc-image_qc.json"
    quality.parent.mkdir(parents=True)
    quality.write_text(broken)
    assert "The file is empty or cannot be read" in folder.page().text
    (folder.log / "plan_sub-01.json").write_text(broken)
    assert "This folder has no plan" in folder.page().text


def test_unknown_participant_has_a_page_that_says_so(tmp_path):
    text = assemble_report(tmp_path, "99").read_text()
    assert "The folder holds nothing about this participant" in text


def test_dataset_without_sessions(tmp_path):
    folder = Folder(tmp_path / "out", session(None))
    stem = tmp_path / "out" / "sub-01" / "dwi" / "sub-01_desc-synthetic_dwiref.nii.gz"
    stem.parent.mkdir()
    stem.touch()
    page = folder.page()
    assert page.lights() == ["doubt", "doubt", "doubt"]
    assert "Session" not in [text.strip() for text in page.text.split("\n") if text.startswith("Session ")]


def test_assembling_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys, pds_bids.reports.assemble as a; a.page_environment(); "
        "print([m for m in ('torch', 'monai', 'matplotlib', 'nireports') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
