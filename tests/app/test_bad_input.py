"""Bad inputs: what the app says, what it returns, and that one bad participant never stops the others."""

import gzip
import json
import pickle
import shutil

import nibabel as nib
import numpy as np
import pytest

# Exit codes of DESIGN: 2 usage, 16 not BIDS, 18 nothing selected, 70 weights, 75 device.
ARGUMENTS = [
    ("no such participant", ["--participant-label", "99"], 18, "99"),
    ("no such session", ["--session-label", "9"], 18, "9"),
    ("unknown space", ["--output-spaces", "MNI152Lin"], 2, "MNI152NLin2009cAsym:res-3"),
    ("unknown method", ["--method", "magic"], 2, "unet"),
    ("unknown level", None, 2, "participant"),
    ("GPU that is not there", ["--device", "cuda"], 75, "no GPU"),
    ("no segments", ["--n-segments", "0"], 2, "n-segments"),
]


@pytest.mark.parametrize(
    ("options", "code", "says"), [case[1:] for case in ARGUMENTS], ids=[c[0] for c in ARGUMENTS]
)
def test_options(cohort, app, tmp_path, options, code, says):
    level = "participant" if options is not None else "groups"
    run = app(
        cohort, tmp_path / "out", level, "-w", tmp_path / "work", "--skip-bids-validation", *(options or []),
        env={"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert run.code == code, run.text
    assert says in run.text
    assert "Traceback" not in run.text


def test_not_bids(app, tmp_path):
    (tmp_path / "data").mkdir()
    run = app(tmp_path / "data", tmp_path / "out", "participant", "-w", tmp_path / "work")
    assert run.code == 16, run.text
    assert "dataset_description.json" in run.text


@pytest.mark.parametrize("which", ["output", "work", "both the same"])
def test_nothing_is_written_into_the_input(cohort, app, tmp_path, which):
    out = cohort if which == "both the same" else cohort / "out" if which == "output" else tmp_path / "out"
    work = cohort / "work" if which == "work" else tmp_path / "work"
    before = sorted(cohort.rglob("*"))
    run = app(cohort, out, "participant", "-w", work)
    assert run.code == 2, run.text
    assert sorted(cohort.rglob("*")) == before


@pytest.mark.parametrize("damage", ["tampered", "pickled", "absent"])
def test_weights_that_cannot_be_trusted(cohort, app, tmp_path, damage):
    from pds_bids.inference.card import WEIGHTS, default_model_dir

    bundle = tmp_path / "bundle"
    shutil.copytree(default_model_dir(), bundle)
    path = bundle / WEIGHTS
    if damage == "tampered":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "pickled":
        path.write_bytes(pickle.dumps({"weight": [1.0]}))
    else:
        shutil.rmtree(bundle)
    run = app(
        cohort, tmp_path / "out", "participant", "-w", tmp_path / "work", "--model-dir", bundle,
        "--skip-bids-validation", "--sloppy",
    )  # fmt: skip
    assert run.code == (2 if damage == "absent" else 1), run.text
    assert {"tampered": "SHA-256", "pickled": "pickled", "absent": "model"}[damage] in run.text
    assert not list((tmp_path / "out").rglob("*desc-synthetic*.nii.gz"))


def rewrite(path, change):
    image = nib.load(path)
    data = np.asanyarray(image.dataobj).astype(np.float32)
    nib.Nifti1Image(change(data), image.affine).to_filename(path)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_nan(data):
    data[..., 2][10:20, 10:20, 10] = np.nan
    return data


def unweighted(data):
    """Repeat the b = 0 image under all b-values."""
    return np.repeat(data[..., :1], data.shape[3], axis=3)


def drop_one_bvec(path):
    table = np.loadtxt(path)
    np.savetxt(path, table[:, :-1], fmt="%g")


def disagree(path):
    """Give the header two affines that are centimetres apart."""
    image = nib.load(path)
    image.set_sform(image.affine, 1)
    moved = image.affine.copy()
    moved[:3, 3] += 40
    image.set_qform(moved, 1)
    data = np.asanyarray(image.dataobj)
    nib.Nifti1Image(data, None, image.header).to_filename(path)


# Participant, file to damage, how, and what the app must say of it.
DAMAGE = {
    "TRUNCATED": ("bold.nii.gz", truncate, "cannot be read"),
    "ZERO": ("bold.nii.gz", lambda p: rewrite(p, np.zeros_like), "one value everywhere"),
    "NAN": ("bold.nii.gz", lambda p: rewrite(p, with_nan), "finite"),
    "THREED": ("bold.nii.gz", lambda p: rewrite(p, lambda d: d[..., 0]), "4D with at least 2 volumes"),
    "ONEVOLUME": ("bold.nii.gz", lambda p: rewrite(p, lambda d: d[..., :1]), "volume"),
    "BVECCOUNT": ("dwi.bvec", drop_one_bvec, "bvec"),
    "NOBVEC": ("dwi.bvec", lambda p: p.unlink(), "bvec"),
    "UNWEIGHTED": ("dwi.nii.gz", lambda p: rewrite(p, unweighted), "not diffusion-weighted"),
    "DISAGREE": ("bold.nii.gz", disagree, "qform"),
    "EMPTY": ("bold.nii.gz", lambda p: p.write_bytes(b""), "datalad get"),
}


@pytest.fixture(scope="module")
def damaged(make_cohort, tmp_path_factory):
    """One good participant and one of every kind of damage."""
    data = make_cohort(participants=2, missing="dwi,bold", seed=4, with_t1w=False)
    for label, (name, damage, _) in DAMAGE.items():
        source = "02" if name.startswith("dwi") else "01"
        shutil.copytree(data / f"sub-{source}", data / f"sub-{label}")
        for path in sorted((data / f"sub-{label}").rglob("*.*")):
            path.rename(path.with_name(path.name.replace(f"sub-{source}", f"sub-{label}")))
        damage(next((data / f"sub-{label}").rglob(f"*_{name}")))
    shutil.rmtree(data / "sub-02")
    for name in ("participants.tsv", "participants.json"):
        (data / name).unlink(missing_ok=True)
    return data


@pytest.fixture(scope="module")
def after_damage(damaged, app, quick, tmp_path_factory):
    base = tmp_path_factory.mktemp("damaged")
    run = app(damaged, base / "out", "participant", "-w", base / "work", *quick)
    return run, base / "out"


@pytest.mark.slow
def test_bad_participants_do_not_stop_the_good_one(after_damage):
    run, out = after_damage
    assert run.code == 1, run.text
    assert list(out.glob("sub-01/dwi/*_desc-synthetic_dwiref.nii.gz"))
    summary = next(line for line in run.text.splitlines() if " done (" in line)
    assert summary == f"1 done (0 of them by an earlier run), 0 skipped, {len(DAMAGE)} failed."


@pytest.mark.slow
@pytest.mark.parametrize("label", DAMAGE)
def test_the_message_says_what_and_where(after_damage, label):
    run, out = after_damage
    line = next(text for text in run.text.splitlines() if text.startswith(f"  FAILED sub-{label}:"))
    assert DAMAGE[label][2] in line
    assert not list(out.glob(f"sub-{label}/**/*desc-synthetic*.nii.gz"))
    page = (out / f"sub-{label}.html").read_text()
    assert DAMAGE[label][2] in page


def test_truncated_gzip_is_what_the_test_makes(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(np.random.default_rng(0).bytes(100000))))
    truncate(path)
    with pytest.raises(EOFError):
        gzip.decompress(path.read_bytes())


def test_bad_filter_file(cohort, app, tmp_path):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"bold": {"task": "nothing"}})[:-2])
    run = app(cohort, tmp_path / "out", "participant", "-w", tmp_path / "work", "--bids-filter-file", path)
    assert run.code == 2, run.text
    assert "filter.json" in run.text
