import json
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
import torch

from pds_bids.cli.synth import main
from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid
from pds_bids.inference.bundle import WEIGHTS, load_bundle, save_bundle
from pds_bids.inference.prepare import Window
from pds_bids.inference.synthesize import synthesize
from pds_bids.methods import UNetMethod
from pds_bids.modalities import CONTRASTS, Contrast, Direction
from pds_bids.models.unet import UNetConfig
from pds_bids.seeds import derive_seed

GRID = Grid((18, 9, 10), np.array([[3.0, 0, 0, -20], [0, 3, 0, -10], [0, 0, 3, 5], [0, 0, 0, 1]]))


@pytest.fixture
def case(tmp_path):
    """Write a tiny bundle, a source of three volumes, a mask and a template; return arguments by option."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    window = Window((1, 1, 0), (16, 8, 8))
    method = UNetMethod(UNetConfig((8, 8, 8), 1, 8), window.shape)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    ranges = dict.fromkeys(CONTRASTS, 2.0)
    save_bundle(
        tmp_path / "model",
        method,
        {"name": "toy", "version": "9", "uncertainty": {"method": "spread", "interval_95_dwi": 2.5}},
        grid=GRID,
        window=window,
        data_range=ranges,
    )
    rng = np.random.default_rng(0)
    mask = np.zeros(GRID.shape, np.uint8)
    mask[3:15, 2:8, 1:7] = 1
    arrays = {
        "bold": rng.uniform(100, 900, (*GRID.shape, 3)).astype(np.float32),
        "mask": mask,
        "template": rng.random((*GRID.shape, 4)).astype(np.float32),
    }
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, GRID.vox2ras), tmp_path / f"{name}.nii.gz")
    return {
        "--source": f"bold={tmp_path / 'bold.nii.gz'}",
        "--mask": tmp_path / "mask.nii.gz",
        "--template": tmp_path / "template.nii.gz",
        "--target": "dwi",
        "--model-dir": tmp_path / "model",
        "--output-dir": tmp_path / "out",
        "--seed": 3,
    }


def call(case, *more):
    return main([str(part) for option in case.items() for part in option] + list(more))


def test_files_hold_what_the_function_returns(case, tmp_path):
    assert call(case, "--seed-names", "sub-01", "ses-1") == 0
    bundle = load_bundle(tmp_path / "model")
    arrays = {
        name: nib.load(tmp_path / f"{name}.nii.gz").get_fdata(dtype=np.float32)
        for name in ("bold", "template")
    }
    mask = nib.load(tmp_path / "mask.nii.gz").get_fdata() > 0
    expected = synthesize(
        {Contrast.BOLD: arrays["bold"]},
        mask,
        arrays["template"],
        GRID,
        bundle,
        direction=Direction.BOLD2DWI,
        seeds=[1, 2, 3],
    )
    for kind, volumes in (("mean", expected.mean), ("std", expected.std)):
        for contrast, data in volumes.items():
            image = nib.load(tmp_path / "out" / f"{contrast}_{kind}.nii.gz")
            np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), data)
            np.testing.assert_allclose(image.affine, GRID.vox2ras)
            assert image.get_data_dtype() == np.float32
            assert b"SYNTHETIC" in image.header["descrip"].tobytes()
            assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (4, 4)
    report = json.loads((tmp_path / "out" / "synthesis.json").read_text())
    assert report["VolumeSeeds"] == [derive_seed(3, "sub-01", "ses-1", "bold2dwi", i) for i in range(3)]
    assert report["GenerativeModel"]["WeightsSHA256"] == bundle.weights_sha256
    assert report["GenerativeModel"]["Name"] == "toy"
    assert report["GenerativeModel"]["IntervalHalfWidthsInStd"] == {"dwi": {"95": 2.5}}
    means = arrays["bold"][mask].mean(0)
    np.testing.assert_allclose(report["SourceScale"]["bold"], means, rtol=1e-5)
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_doubts_about_the_source_go_into_the_sidecar(case, tmp_path):
    """They come from the series, which nobody sees any more here; what the network says follows them."""
    (tmp_path / "doubts.json").write_text(json.dumps({"doubts": ["not what it seems; echo time 90 ms"]}))
    call(case)
    before = json.loads((tmp_path / "out" / "synthesis.json").read_text())["SourceWarnings"]
    assert call(case | {"--plausibility": tmp_path / "doubts.json"}) == 0
    after = json.loads((tmp_path / "out" / "synthesis.json").read_text())["SourceWarnings"]
    assert after == ["not what it seems; echo time 90 ms", *before]
    (tmp_path / "doubts.json").write_text("[]")
    assert call(case | {"--plausibility": tmp_path / "doubts.json"}) == DataError.exit_code


def spoil_weights(case, tmp_path):
    path = tmp_path / "model" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-8])


def spoil_source(case, tmp_path):
    (tmp_path / "bold.nii.gz").write_bytes(b"no image")


def move_mask(case, tmp_path):
    mask = nib.load(tmp_path / "mask.nii.gz")
    nib.save(nib.Nifti1Image(mask.get_fdata(dtype=np.float32), np.eye(4)), tmp_path / "mask.nii.gz")


def empty_mask(case, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros(GRID.shape, np.uint8), GRID.vox2ras), tmp_path / "mask.nii.gz")


def swap_target(case, tmp_path):
    case["--target"] = "bold"


def other_contrast(case, tmp_path):
    case["--source"] = "flair=x.nii.gz"


def no_threads(case, tmp_path):
    case["--nthreads"] = 0


def other_method(case, tmp_path):
    case["--method"] = "gan"


def no_gpu(case, tmp_path):
    case["--device"] = "cuda"


FAILURES = {
    spoil_weights: (1, "truncated or altered"),
    spoil_source: (1, "cannot be read as an image"),
    move_mask: (1, "is not the model grid"),
    empty_mask: (1, "mask is empty"),
    swap_target: (2, "cannot serve"),
    other_contrast: (2, "expected CONTRAST=FILE"),
    no_threads: (2, "--nthreads 0"),
    other_method: (2, "holds unet"),
    no_gpu: (75, "no GPU"),
}


@pytest.mark.parametrize(
    ("spoil", "code", "message"), [(k, *v) for k, v in FAILURES.items()], ids=[f.__name__ for f in FAILURES]
)
def test_failures_are_one_line_and_a_code(case, tmp_path, capsys, monkeypatch, spoil, code, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spoil(case, tmp_path)
    assert call(case) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_help_is_fast_and_loads_no_torch():
    code = (
        "import sys; from pds_bids.cli.synth import main\n"
        "try: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    assert done.stdout.endswith("False\n")
    assert "--seed-names" in done.stdout
    # Under 2 s on an idle machine; test machines are busy.
    assert seconds < 8
