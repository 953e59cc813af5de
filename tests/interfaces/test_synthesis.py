"""The names of what was synthesised, for nodes of other packages."""

import json

import nibabel as nib
import numpy as np
import pytest

from pds_bids.interfaces.images import save
from pds_bids.interfaces.synthesis import NameSynthetic
from pds_bids.modalities import MODALITIES, Modality, field_prefix
from pds_bids.template import MODEL_GRID

STEM = "space-MNI152NLin2009cAsym_res-3"
# Output, its name, and the stack and volumes that it holds.
OF_EVERY = [
    ("synthetic", "desc-synthetic_{}ref", "mean", 0),
    ("std", "desc-synthetic+std_{}ref", "std", 0),
    ("segments", "desc-synthetic+segments_{}ref", "mean", slice(1, None)),
]
OF_DWI = [
    ("b0", "desc-synthetic+b0_dwiref", "b0_mean", 0),
    ("b0_std", "desc-synthetic+b0std_dwiref", "b0_std", 0),
    ("fa", "model-tensor_param-fa_desc-synthetic_dwimap", "fa_mean", 0),
    ("fa_std", "model-tensor_param-fa_desc-synthetic+std_dwimap", "fa_std", 0),
    ("md", "model-tensor_param-md_desc-synthetic_dwimap", "md_mean", 0),
    ("md_std", "model-tensor_param-md_desc-synthetic+std_dwimap", "md_std", 0),
]


@pytest.mark.parametrize(("target", "expected"), [("bold", OF_EVERY), ("dwi", OF_EVERY + OF_DWI)])
def test_every_image_is_named_after_what_it_holds(tmp_path, monkeypatch, target, expected):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    fields = [
        f"{field_prefix(c)}{w}" for c in MODALITIES[Modality(target)].contrasts for w in ("mean", "std")
    ]
    stacks = {field: rng.random((4, 5, 6, 3), dtype=np.float32) for field in fields}
    files = {field: save(f"{field}.nii", stack, MODEL_GRID.vox2ras) for field, stack in stacks.items()}
    (tmp_path / "made.json").write_text('{"RandomSeed": 7}')
    found = NameSynthetic(target=target, metadata=tmp_path / "made.json", **files).run().outputs.get()
    images = {name: path for name, path in found.items() if isinstance(path, str) and name != "sidecar"}
    assert images == {
        name: str(tmp_path / f"{STEM}_{end.format(target)}.nii.gz") for name, end, *_ in expected
    }
    for name, _, field, volumes in expected:
        image = nib.load(images[name])
        np.testing.assert_array_equal(np.asarray(image.dataobj), stacks[field][..., volumes], err_msg=name)
        assert image.header["descrip"].item().startswith(f"SYNTHETIC {target} predicted from".encode())
    sidecar = json.loads((tmp_path / f"{STEM}_desc-synthetic_{target}ref.json").read_text())
    assert sidecar["Synthetic"] is True
    assert sidecar["RandomSeed"] == 7
