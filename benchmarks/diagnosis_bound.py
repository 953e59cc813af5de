"""How well diagnoses can be told apart in the phantom's cohort when nothing is lost on the way.

Images are computed from the tissues of each person of a cohort, without noise, distortion and motion, and put
into parcels by the true position of every voxel: what no scanner and no preprocessing can better. Two
thirds of the people have diffusion images, as with ``--missing random``. Accuracy of the level ``group``'s
classifiers with an exact interval, and with permuted labels.

    python benchmarks/diagnosis_bound.py --labels DIR --cache DIR --seed 11
"""

import argparse
from pathlib import Path

import numpy as np

from pds_bids.evaluation.diagnosis import Cohort, make_folds, predict
from pds_bids.evaluation.schemes import Blocks, Input, Origin, Scheme
from pds_bids.evaluation.statistics import exact_interval
from pds_bids.group.atlas import load_atlas
from pds_bids.group.signals import FLUID_MD_MM2_S
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.parcels import parcel_means
from pds_bids.modalities import Modality
from pds_bids.options import Classifier
from pds_bids.phantom import contrast
from pds_bids.phantom.anatomy import build_anatomies
from pds_bids.phantom.cohort import missing_by_participant
from pds_bids.phantom.demographics import Diagnosis, draw_traits
from pds_bids.phantom.disease import SITES
from pds_bids.phantom.parcels import parcellate
from pds_bids.phantom.person import draw_person, scan
from pds_bids.phantom.tissue import PROPERTIES
from pds_bids.seeds import derive_seed
from pds_bids.template import MODEL_GRID, RES02_GRID, get_template, load_template

STEP_MM, SHAPE, CENTRE_MM = 4.0, (46, 52, 46), (0.0, -18.0, 6.0)
#: Columns of the features: the means of whole parcels, then FA and MD of tissue alone.
SETS = {"whole parcels": (0, 1, 2), "FA and MD of tissue": (3, 4, 2), "b0": (2,), "MD of tissue": (4,)}
PARTS = (Input(Modality.DWI, Origin.ACQUIRED),)


def main() -> None:
    """Print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, default=None)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--participants", type=int, default=60)
    parser.add_argument("--permutations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    features, groups, ages, severities, heads, names = simulate(args)
    by_severity = np.where(severities < 0.1, "NC", np.where(severities < 0.75, "MCI", "AD"))
    print(f"{len(groups)} people; the true severity itself: {(by_severity == groups).mean():.3f}")
    telling = np.array([name.startswith(tuple(SITES)) for name in names])
    for where, own in (("all parcels", slice(None)), (f"the {telling.sum()} affected parcels", telling)):
        for what, columns in SETS.items():
            rows = np.concatenate([features[:, k][:, own] for k in columns], 1)
            for kind in (Classifier.LDA, Classifier.LOGISTIC):
                right = judge(rows, groups, ages, heads, kind, args.seed)
                found = exact_interval(int(right.sum()), len(right))
                line = f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"
                print(f"{where}, {what}, {kind}: {line}", flush=True)
        rows = np.concatenate([features[:, k][:, own] for k in SETS["FA and MD of tissue"]], 1)
        rng = np.random.default_rng(derive_seed(args.seed, "permutations"))
        values = [
            judge(rows, rng.permutation(groups), ages, heads, Classifier.LDA, k).mean()
            for k in range(args.permutations)
        ]
        low, high = np.quantile(values, [0.025, 0.975])
        print(f"{where}, permuted labels: {np.mean(values):.3f} ({low:.3f} to {high:.3f})", flush=True)


def judge(rows, groups, ages, heads, kind, seed):
    """Return who is told right; people of one head are relatives."""
    people = tuple(map(str, range(len(groups))))
    folds = make_folds(people, groups, 5, seed, families=heads)
    blocks = Blocks(people, {(Modality.DWI, Origin.ACQUIRED): rows})
    cohort = Cohort(blocks, groups, folds, ages[:, None], families=heads)
    return predict(cohort, Scheme("acquired dwi", PARTS, PARTS), kind, seed=seed).is_right


def simulate(args):
    """Return ``(N, 5, P)`` features, diagnoses, ages, severities, heads, and names of parcels."""
    files = get_template(args.cache)
    fine, template = (load_template(files, grid) for grid in (RES02_GRID, MODEL_GRID))
    heads = build_anatomies(args.labels, args.cache, fine, deformable=False)
    atlas, regions = load_atlas("AAL", template), parcellate(fine)
    names = [f"sub-{k + 1:02d}" for k in range(args.participants)]
    traits = draw_traits(args.seed, names, list(Diagnosis), (55.0, 90.0))
    lacks = missing_by_participant("random", args.participants, args.seed)
    rows, facts = [], []
    for k, (name, who, lack) in enumerate(zip(names, traits, lacks, strict=True)):
        if lack == "dwi":
            continue
        rng = np.random.default_rng(derive_seed(args.seed, name, "person"))
        person = draw_person(rng, heads[k % len(heads)], who, regions)
        rows.append(measure(person, derive_seed(args.seed, name, "latents"), template, atlas))
        head = f"head-{k % len(heads)}"
        facts.append((str(who.diagnosis), who.age_years, person.effects.severity, head))
        print(f"{name} {who.diagnosis}", flush=True)
    groups, ages, severities, own = (np.array(column) for column in zip(*facts, strict=True))
    return np.array(rows), groups, ages, severities, tuple(own.tolist()), atlas.names


def measure(person, seed, template, atlas):
    """Return FA, MD, b0, and FA and MD of tissue, of every parcel, ``(5, P)``."""
    vox2ras = np.diag([STEP_MM, STEP_MM, STEP_MM, 1.0])
    centre = apply_affine(np.linalg.inv(person.scanner2template), np.array([CENTRE_MM]))[0]
    vox2ras[:3, 3] = centre - (np.array(SHAPE) - 1) / 2 * STEP_MM
    seen = scan(np.random.default_rng(seed), person, Grid(SHAPE, vox2ras))
    fa, md, b0 = (
        seen.image(contrast.linearise(signal, person.tissue)).ravel()
        for signal in (
            lambda p: p[..., PROPERTIES.index("fa")],
            lambda p: p[..., PROPERTIES.index("md_um2_ms")],
            contrast.b0_signal,
        )
    )
    share = np.maximum(seen.fractions.sum(1), 1e-3)
    fa, md = np.minimum(fa / share, 0.85), md / share
    index = np.rint(apply_affine(template.grid.ras2vox, seen.template_points)).astype(int)
    inside = ((index >= 0) & (index < np.array(template.grid.shape))).all(1)
    place = tuple(np.where(inside[:, None], index, 0).T)
    mask = inside & template.mask[place]
    labels = np.where(mask, atlas.image[place], 0)
    tissue = mask & (md < 1e3 * FLUID_MD_MM2_S)

    def parcels(values, own):
        """Average over parcels."""
        column = (slice(None), None, None)
        means = parcel_means(values[column][..., None], labels[column], own[column], sorted(atlas.labels))
        return means[0]

    relative = b0 / b0[mask].mean()
    pairs = ((fa, mask), (md, mask), (relative, mask), (fa, tissue), (md, tissue))
    return np.stack([parcels(*pair) for pair in pairs])


if __name__ == "__main__":
    main()
