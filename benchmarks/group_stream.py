"""A labelled cohort for the level group in minutes: simulated people on the template's grid, real synthesis.

Nothing is preprocessed. People of the training stream (a seed that no training uses) with a diagnosis are
"acquired" with one protocol and 3% noise, in place; a third of the modalities is left out, and all that can
be synthesised is, by the model that ships with the package. This is the best case: no registration error, no
difference between scanners. What ``participant`` adds to that, only a run of ``participant`` shows.

    python benchmarks/group_stream.py DATA OUT --participants 60 --labels DIR --cache DIR
    pds-bids DATA OUT group
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from pds_bids.bids.dataset import write_dataset_files
from pds_bids.bids.names import output_path
from pds_bids.bids.write import write_json, write_nifti
from pds_bids.evaluation.fidelity import compare
from pds_bids.inference.bundle import load_bundle
from pds_bids.inference.card import default_model_dir
from pds_bids.inference.synthesize import synthesize
from pds_bids.modalities import MODALITIES, Contrast, Direction, Modality
from pds_bids.phantom.anatomy import build_anatomies
from pds_bids.phantom.pair import ACQUIRED
from pds_bids.phantom.stream import PairStream
from pds_bids.seeds import derive_seed
from pds_bids.template import MODEL_GRID, RES02_GRID, get_template, load_template

NOISE = 0.03
GROUPS = ("NC", "MCI", "AD")
LACKS = ("none", "bold", "dwi")


def main() -> None:
    """Write the cohort; people who are there already are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--participants", type=int, default=60)
    parser.add_argument("--labels", type=Path, default=None)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument(
        "--with-baselines", action="store_true", help="score baselines, too: seconds more each"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = get_template(args.cache)
    heads = build_anatomies(args.labels, args.cache, load_template(files, RES02_GRID), deformable=False)
    template = load_template(files, MODEL_GRID)
    stream = PairStream(heads, args.seed, template=template, random_contrast=0, patients=1.0)
    bundle = load_bundle(default_model_dir())
    chosen = choose(stream, args.participants)
    args.data.mkdir(parents=True, exist_ok=True)
    # People of one head are relatives; the level group keeps them in one fold by this column.
    rows = [
        f"sub-{k:02d}\t{group}\t{age:.1f}\t{stream.anatomy_of(index)}"
        for k, (index, group, age) in enumerate(chosen, 1)
    ]
    header = "participant_id\tdiagnosis\tage\tanatomy"
    (args.data / "participants.tsv").write_text("\n".join([header, *rows]) + "\n")
    write_dataset_files(args.out, args.data.resolve(), {"Name": "simulated people"})
    for k, (index, group, _) in enumerate(chosen):
        label = f"{k + 1:02d}"
        if not (args.out / f"sub-{label}" / "log" / f"plan_sub-{label}.json").exists():
            write_person(args, label, stream, index, LACKS[k // 3 % 3], bundle)
        print(f"sub-{label} {group}", flush=True)


def choose(stream: PairStream, n: int) -> list[tuple[int, str, float]]:
    """Return index, diagnosis and age of people, the diagnoses in turn."""
    waiting: dict[str, list[int]] = {group: [] for group in GROUPS}
    index = 0
    while min(map(len, waiting.values())) < -(-n // 3):
        waiting[str(stream.patient_traits(index).diagnosis)].append(index)
        index += 1
    order = [waiting[GROUPS[k % 3]][k // 3] for k in range(n)]
    return [(i, GROUPS[k % 3], stream.patient_traits(i).age_years) for k, i in enumerate(order)]


def write_person(args, label, stream, index, lack, bundle):
    """Write what a person has and what can be made of it."""
    pair = stream.pair(index)
    mask, target = pair.mask.numpy(), pair.target.numpy()
    rng = np.random.default_rng(derive_seed(args.seed, "noise", index))
    noisy = np.abs(
        target + NOISE * np.r_[1, 1, 1, 0.3, 0.3][:, None, None, None] * rng.normal(size=target.shape)
    )
    images = {c: (noisy[k] * mask).astype(np.float32) for k, c in enumerate(ACQUIRED)}
    maps = {"fa": noisy[3] * mask, "md": 1e-3 * noisy[4] * mask}
    directions = [d for d in Direction if d.source != lack]
    for modality in Modality:
        if modality != lack:
            entities = {"sub": label} | ({"task": "rest"} if modality is Modality.BOLD else {})
            content = {"mean": images[MODALITIES[modality].contrasts[0]], "mask": mask.astype(np.uint8)}
            if modality is Modality.DWI:
                content |= {"b0": images[Contrast.B0], **maps}
            save(args.out, entities, modality, content)
            write_json(
                args.out / output_path("qc", entities, modality), {"brain_volume_ml": 0.027 * mask.sum()}
            )
    channels = np.moveaxis(pair.template.numpy(), 0, -1)
    for direction in directions:
        source = {c: images[c][..., None] for c in MODALITIES[direction.source].sources}
        seed = derive_seed(args.seed, label, str(direction))
        made = synthesize(source, mask, channels, MODEL_GRID, bundle, direction=direction, seeds=[seed])
        main = MODALITIES[direction.target].contrasts[0]
        content = {"synthetic_mask": mask.astype(np.uint8)}
        content |= {"synthetic": made.mean[main][..., 0], "synthetic_std": made.std[main][..., 0]}
        for contrast in set(made.mean) - {main}:
            content[f"synthetic_{contrast}"] = made.mean[contrast][..., 0]
            content[f"synthetic_{contrast}std"] = made.std[contrast][..., 0]
        save(args.out, {"sub": label}, direction.target, content)
        quality = {
            "uncertainty_median": float(np.median(made.std[main][mask])),
            "acquired_target": lack == "none",
        }
        if lack == "none" and args.with_baselines:
            acquired = {c: images[c] for c in MODALITIES[direction.target].contrasts if c in images}
            first = {c: v[..., 0] for c, v in made.mean.items()}
            flat = {c: v[..., 0] for c, v in source.items()}
            found = compare(first, acquired, flat, mask, direction, bundle, template=channels)
            quality["fidelity"] = [
                {"target": c, "predictor": row, "is_model": row == "model", **metrics}
                for row, contrasts in found["scores"].items()
                for c, metrics in contrasts.items()
            ]
        write_json(args.out / output_path("synthetic_qc", {"sub": label}, direction.target), quality)
    plan = {
        "participant": label,
        "session": None,
        "action": "run",
        "directions": [str(d) for d in directions],
    }
    write_json(args.out / f"sub-{label}" / "log" / f"plan_sub-{label}.json", {"sessions": [plan]})


def save(out, entities, modality, content):
    """Write images on the grid of the template."""
    for key, data in content.items():
        path = out / output_path(key, entities, modality, in_template=True)
        text = "SYNTHETIC" if key.startswith("synthetic") else ""
        write_nifti(path, data, MODEL_GRID.vox2ras, description=text, is_template_space=True)
        sidecar = {"SkullStripped": True, "Resolution": "3 mm"} | ({"Type": "Brain"} if "mask" in key else {})
        if key.startswith("synthetic"):
            sidecar |= {"Synthetic": True, "GenerativeModel": {"Name": "unet"}}
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)


if __name__ == "__main__":
    main()
