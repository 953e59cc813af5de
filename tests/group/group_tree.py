"""Outputs of the level participant with people made of parcels, and the dataset they came from."""

import json

import nibabel as nib
import numpy as np

from pds_bids.bids.names import bidsignore, output_path
from pds_bids.bids.sidecars import acquired_sidecar, mask_sidecar
from pds_bids.bids.write import write_json, write_text
from pds_bids.group.atlas import Atlas
from pds_bids.modalities import Modality
from pds_bids.template import MODEL_GRID, Template

SHAPE = MODEL_GRID.shape
X, Y, Z = np.indices(SHAPE)
BRAIN = np.sqrt((X - 32) ** 2 + (Y - 38) ** 2 + (Z - 32) ** 2) < 24
N_PARCELS = 24
ATLAS = (1 + (X // 11) + 6 * (Z // 17)).clip(1, N_PARCELS).astype(np.int32) * BRAIN
BOLD, DWI = Modality.BOLD, Modality.DWI
GROUPS = ("NC", "MCI", "AD")


def atlas():
    labels = {int(k): f"place{k:02d}" for k in np.unique(ATLAS) if k}
    return Atlas("cubes", ATLAS, labels, "test")


def template():
    grey = BRAIN * (Y > 38).astype("f4")
    return Template(
        grid=MODEL_GRID, t1w=grey, mask=BRAIN, gm=grey, wm=BRAIN - grey, csf=0 * grey, atlas=ATLAS,
        atlas_labels=atlas().labels, atlas_name="cubes", origin="test",
    )  # fmt: skip


def write_dataset(root, labels):
    """Write the dataset whose outputs they are: a table of participants alone."""
    root.mkdir(parents=True)
    rows = [
        f"sub-{label}\t{GROUPS[k % 3]}\t{60 + k % 7}\t{'FM'[k % 2]}\t{'AB'[k // 3 % 2]}"
        for k, label in enumerate(labels)
    ]
    (root / "participants.tsv").write_text(
        "\n".join(["participant_id\tdiagnosis\tage\tsex\tsite", *rows]) + "\n"
    )


def write_outputs(out, labels, *, lacks=("none", "bold", "dwi"), n_segments=3, effect=0.1, keep_noise=0.7):
    """Write everybody's outputs; who lacks a modality has it synthesised, who has both has both twice."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "dataset_description.json",
        {
            "Name": "test", "BIDSVersion": "1.10.0", "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "pds-bids", "Version": "0"}], "License": "none", "Authors": ["a", "b"],
        },
    )  # fmt: skip
    write_text(out / ".bidsignore", bidsignore())
    write_text(out / "README.md", "Outputs of a test, made of parcels.\n" * 8)
    for k, label in enumerate(labels):
        write_person(out, label, k, lack=lacks[k // 3 % len(lacks)], n_segments=n_segments, effect=effect,
                     keep_noise=keep_noise)  # fmt: skip


def write_person(
    out, label, k, *, lack="none", n_segments=3, effect=0.1, keep_noise=0.7, with_synthetic_maps=False
):
    rng = np.random.default_rng(k)
    own = 0.05 * rng.normal(size=N_PARCELS + 1)
    own[[3, 4, 9]] += effect * GROUPS.index(GROUPS[k % 3])
    images = {
        "bold": 1 + own[ATLAS] + 0.02 * rng.normal(size=SHAPE),
        "dwi": 1.2 - 0.8 * own[ATLAS] + 0.02 * rng.normal(size=SHAPE),
        "b0": 1.1 + 0.6 * own[ATLAS] + 0.02 * rng.normal(size=SHAPE),
    }
    noise = 0.03 * rng.normal(size=N_PARCELS + 1)
    made = {name: image + (1 - keep_noise) * noise[ATLAS] for name, image in images.items()}
    if with_synthetic_maps:
        made |= {"fa": 0.4 * images["dwi"] + 0.01, "md": 1.02e-3 * images["dwi"]}
    directions = [d for d in ("bold2dwi", "dwi2bold") if not d.startswith(lack)]
    for modality, name in ((BOLD, "bold"), (DWI, "dwi")):
        entities = {"sub": label} | ({"task": "rest"} if modality is BOLD else {})
        if lack != name:
            gate = {
                "status": "passed",
                "mask_dice": 0.95 + 0.001 * rng.normal(),
                "passed": True,
                "stage": "x",
            }
            quality = {"registration": gate, "fd_mean_mm": float(rng.gamma(4, 0.05)), "warnings": []}
            write_json(out / output_path("qc", entities, modality), quality)
            _acquired(out, entities, modality, images, n_segments, rng)
        if lack != str(modality.other):
            _synthetic(out, {"sub": label}, modality, made, lack == "none", rng)
    plan = {"sessions": [{"participant": label, "session": None, "action": "run", "directions": directions}]}
    folder = out / f"sub-{label}" / "log"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"plan_sub-{label}.json").write_text(json.dumps(plan))


def _acquired(out, entities, modality, images, n_segments, rng):
    main = images[str(modality)]
    segments = main[..., None] + 0.02 * rng.normal(size=(*SHAPE, n_segments))
    pairs = [("mean", main), ("segments", segments), ("mask", BRAIN)]
    if modality is DWI:
        pairs += [("b0", images["b0"]), ("fa", 0.4 * main), ("md", 1e-3 * main)]
    for key, data in pairs:
        path = out / output_path(key, entities, modality, in_template=True)
        sidecar = mask_sidecar if key == "mask" else acquired_sidecar
        _image(path, data, sidecar(key, ["bids:raw:x"], in_template=True))


def _synthetic(out, entities, modality, made, is_judged, rng):
    main = made[str(modality)]
    pairs = [("synthetic", main), ("synthetic_std", np.full(SHAPE, 0.05)), ("synthetic_mask", BRAIN)]
    if modality is DWI:
        pairs += [("synthetic_b0", made["b0"]), ("synthetic_b0std", np.full(SHAPE, 0.05))]
        pairs += [(f"synthetic_{name}", made[name]) for name in ("fa", "md") if name in made]
        # Claimed: twice the error of FA.
        pairs += [("synthetic_fastd", np.full(SHAPE, 0.02))] if "fa" in made else []
    sidecar = {
        "Synthetic": True, "SkullStripped": True, "Resolution": "3", "Type": "Brain", "RandomSeed": 1,
        "GenerativeModel": {"Name": "unet", "WeightsSHA256": "0"},
    }  # fmt: skip
    for key, data in pairs:
        _image(out / output_path(key, entities, modality, in_template=True), data, sidecar)
    quality = {"direction": "x", "uncertainty_median": 0.05, "acquired_target": is_judged}
    if is_judged:
        contrasts = ["bold"] if modality is BOLD else ["dwi", "b0"]
        quality["fidelity"] = [
            {
                "target": contrast, "predictor": row, "is_model": row == "model",
                "psnr_brain": level + rng.normal(), "ssim_brain": 0.9, "mae_brain": 0.05,
            }
            for contrast in contrasts
            for row, level in (("model", 24.0), ("atlas", 20.0), ("source-bold", 18.0))
        ]  # fmt: skip
    write_json(out / output_path("synthetic_qc", entities, modality), quality)


def _image(path, data, sidecar):
    path.parent.mkdir(parents=True, exist_ok=True)
    brain = BRAIN[..., None] if data.ndim == 4 else BRAIN
    kind = data.astype(np.uint8) if data.dtype == bool else (data * brain).astype("f4")
    image = nib.Nifti1Image(kind, MODEL_GRID.vox2ras)
    image.set_sform(MODEL_GRID.vox2ras, 4)
    image.set_qform(MODEL_GRID.vox2ras, 4)
    image.to_filename(path)
    write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
