"""A derivative tree of the app with people made of blobs."""

import json

import nibabel as nib
import numpy as np
from scipy import ndimage

from pds_bids.bids.names import output_path
from pds_bids.modalities import Contrast, Modality
from pds_bids.template import MODEL_GRID, Template

SHAPE = MODEL_GRID.shape
POINTS = np.moveaxis(np.indices(SHAPE), 0, -1)


def _ball(radius):
    return np.linalg.norm(POINTS - (np.array(SHAPE) - 1) / 2, axis=-1) < radius


BRAIN = _ball(24)


def template():
    """Return a ball with three parcels."""
    atlas = (1 + POINTS[..., 1] // 26).astype(np.int32) * BRAIN
    grey = ndimage.gaussian_filter(BRAIN.astype("f4"), 2) * BRAIN
    return Template(
        grid=MODEL_GRID, t1w=grey + 0.1, mask=BRAIN, gm=grey, wm=0.5 * grey, csf=1 - grey,
        atlas=atlas, atlas_labels={1: "back", 2: "middle", 3: "front"}, atlas_name="thirds", origin="test",
    )  # fmt: skip


def person(name, brighter=None):
    """Return the images by contrast and the masks by modality; DWI is what BOLD is not."""
    rng = np.random.default_rng(int(name))
    coarse = rng.normal(size=[n // 4 for n in SHAPE])
    smooth = ndimage.zoom(coarse, np.array(SHAPE) / coarse.shape, order=1)
    bold = (1 + 0.3 * smooth).clip(0.1)
    for parcel, factor in (brighter or {}).items():
        bold = np.where(template().atlas == parcel, factor * bold, bold)
    images = {
        Contrast.BOLD: 900 * bold,
        Contrast.DWI: 300 * (2.2 - bold).clip(0.1),
        Contrast.B0: 500 * bold**0.5,
        Contrast.FA: 0.2 * bold,
        Contrast.MD: 1e-3 * (1.8 - bold).clip(0.1),
        Contrast.T1W: 80 * bold,
    }
    return images, {"bold": BRAIN, "dwi": _ball(23.5)}


def write_person(tree, name, *, session="", without="", status="passed", brighter=None):
    """Write what the level participant writes, as far as training reads it."""
    images, masks = person(name, brighter)
    base = {"sub": name} | ({"ses": session} if session else {})
    entities = {Modality.BOLD: base | {"task": "rest"}, Modality.DWI: base}
    content = [
        ("mean", Modality.BOLD, images[Contrast.BOLD]),
        ("mask", Modality.BOLD, masks["bold"].astype(np.uint8)),
        ("mean", Modality.DWI, images[Contrast.DWI]),
        ("b0", Modality.DWI, images[Contrast.B0]),
        ("mask", Modality.DWI, masks["dwi"].astype(np.uint8)),
        ("fa", Modality.DWI, images[Contrast.FA]),
        ("md", Modality.DWI, images[Contrast.MD]),
        ("t1w", None, images[Contrast.T1W]),
    ]
    for key, modality, data in content:
        if without in (str(modality), key):
            continue
        path = tree / output_path(key, entities.get(modality, base), modality, in_template=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = data if data.dtype == np.uint8 else (data * masks.get(str(modality), BRAIN)).astype("f4")
        nib.Nifti1Image(kind, MODEL_GRID.vox2ras).to_filename(path)
        if modality is None:
            continue
        quality = tree / output_path("qc", entities[modality], modality)
        quality.write_text(json.dumps({"registration": {"status": status}}))


def write_tree(tree, n_people):
    """Write a tree as this app does."""
    tree.mkdir(parents=True, exist_ok=True)
    description = {
        "Name": "test",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "pds-bids"}],
    }
    (tree / "dataset_description.json").write_text(json.dumps(description))
    for number in range(1, n_people + 1):
        write_person(tree, f"{number:02d}")
    return tree
