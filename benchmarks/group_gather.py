"""Time and memory of the level group on many participants: quality, plans and images of skeleton outputs.

Every participant has what ``participant`` writes as far as ``group`` reads it: a plan, four quality files
with fidelity of seven predictors, sidecars, and on request images on the template's grid (hard links to one
set, so that disks and caches are flattered but decompression is not).

    python benchmarks/group_gather.py --participants 1000
    python benchmarks/group_gather.py --participants 1000 --images --nprocs 2
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from pds_bids.bids.names import output_path
from pds_bids.bids.write import write_nifti
from pds_bids.config import RunConfig
from pds_bids.group.gather import gather
from pds_bids.group.run import analyse
from pds_bids.modalities import Modality
from pds_bids.template import MODEL_GRID, get_template, load_template

GROUPS = ("NC", "MCI", "AD")
PREDICTORS = ("model", "source-bold", "atlas", "cubic", "nearest", "trees", "source-b0")
METRICS = ("psnr_brain", "psnr_whole", "psnr_gain", "ssim_brain", "ssim_whole", "ssim_gain", "mae_brain")
GATE = ("mask_dice", "nmi", "nmi_null", "jacobian_min", "jacobian_max", "correlation")


def main() -> None:
    """Print seconds and the largest resident memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--participants", type=int, default=1000)
    parser.add_argument("--images", action="store_true", help="images too, and the whole level")
    parser.add_argument("--nprocs", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        labels = [f"{k:05d}" for k in range(args.participants)]
        lines = [f"sub-{x}\t{GROUPS[k % 3]}\t{60 + k % 30}" for k, x in enumerate(labels)]
        (root / "data").mkdir()
        table = "\n".join(["participant_id\tdiagnosis\tage", *lines]) + "\n"
        (root / "data" / "participants.tsv").write_text(table)
        for k, label in enumerate(labels):
            write_skeleton(root / "out", label, np.random.default_rng(k))
        if args.images:
            write_images(root / "out", labels, root)
        config = RunConfig(
            bids_dir=root / "data", output_dir=root / "out", analysis_level="group", work_dir=root / "work",
            nprocs=args.nprocs, classifiers=(),
        )  # fmt: skip
        wall, cpu = time.perf_counter(), time.process_time()
        found = analyse(config, print).gathered if args.images else gather(root / "out", labels)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = max(
            resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        print(f"{len(found.quality)} rows, {len(found.fidelity)} scores, {len(found.incomplete)} incomplete")
        print(
            f"{args.participants} participants: {wall:.1f} s ({cpu:.1f} CPU s of this process), "
            f"peak {peak / 1e6:.2f} GB"
        )


def write_skeleton(out: Path, label: str, rng: np.random.Generator) -> None:
    """Write plan, quality and sidecars of one participant; without the care for crashes that costs time."""
    gate = {name: float(rng.normal(1, 0.1)) for name in GATE} | {"passed": True, "stage": "deformable"}
    for modality in Modality:
        entities = {"sub": label} | ({"task": "rest"} if modality is Modality.BOLD else {})
        quality = {
            "registration": gate, "fd_mean_mm": float(rng.gamma(4, 0.05)), "fd_max_mm": 1.0, "n_censored": 2,
            "brain_volume_ml": float(rng.normal(1400, 100)), "n_volumes": 200, "warnings": ["no T1w image"],
            "coverage": {"brain": 1.0, "tissues": {"gm": 1.0, "wm": 1.0, "csf": 1.0}, "is_complete": True},
        }  # fmt: skip
        put(out / output_path("qc", entities, modality), quality)
        contrasts = ("bold",) if modality is Modality.BOLD else ("dwi", "b0")
        scores = [
            {
                "target": c,
                "predictor": p,
                "is_model": p == "model",
                **{m: float(rng.normal(20, 2)) for m in METRICS},
            }
            for c in contrasts
            for p in PREDICTORS
        ]
        made = {"synthetic_mean": 1.0, "uncertainty_median": 0.1, "acquired_target": True, "fidelity": scores}
        put(out / output_path("synthetic_qc", {"sub": label}, modality), made)
        for in_template in (True, False):
            name = output_path("synthetic", {"sub": label}, modality, in_template=in_template)
            (out / name).touch()
            sidecar = {"Synthetic": True, "GenerativeModel": {"Name": "unet", "WeightsSHA256": "0"}}
            put((out / name).with_name(name.name.replace(".nii.gz", ".json")), sidecar)
    plan = {"participant": label, "session": None, "action": "run", "directions": ["bold2dwi", "dwi2bold"]}
    put(out / f"sub-{label}" / "log" / f"plan_sub-{label}.json", {"sessions": [plan]})
    put(out / f"sub-{label}" / "log" / "20260101-000000_x" / "note.json", {})


def put(path: Path, content: dict) -> None:
    """Write JSON at once."""
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))


def write_images(out: Path, labels: list[str], root: Path) -> None:
    """Link one set of images into every participant."""
    template = load_template(get_template(root / "work"), MODEL_GRID)
    rng = np.random.default_rng(0)
    mask = template.mask.astype(np.uint8)
    image = (template.gm + 0.7 * template.wm + rng.normal(1, 0.05, mask.shape)).astype(np.float32) * mask
    keys = {
        Modality.BOLD: ("mean", "segments", "mask", "synthetic", "synthetic_std", "synthetic_mask"),
        Modality.DWI: ("mean", "segments", "mask", "b0", "fa", "md"),
    }
    keys[Modality.DWI] += ("synthetic", "synthetic_std", "synthetic_mask", "synthetic_b0", "synthetic_b0std")
    kinds = {"mask": mask, "segments": np.stack([image] * 10, -1), "image": image}
    for name, data in kinds.items():
        write_nifti(root / f"{name}.nii.gz", data, MODEL_GRID.vox2ras, is_template_space=True)
    for label in labels:
        for modality, names in keys.items():
            for key in names:
                entities = {"sub": label}
                if modality is Modality.BOLD and not key.startswith("synthetic"):
                    entities["task"] = "rest"
                path = out / output_path(key, entities, modality, in_template=True)
                path.unlink(missing_ok=True)
                kind = "mask" if key.endswith("mask") else "segments" if key == "segments" else "image"
                os.link(root / f"{kind}.nii.gz", path)


if __name__ == "__main__":
    main()
