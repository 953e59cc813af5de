"""Find the planted effect of disease by a simple analysis of regions, with true and shuffled diagnoses.

A cohort of simulated people is written, and its raw images are measured in the regions of the truth folder:
no preprocessing, so that nothing but the generator is tested. Measures, for every parcel of the atlas:

- ``md``, ``fa``: of a tensor fitted to the raw series; MD in grey matter, FA in the white matter below;
- ``level``: mean BOLD;
- ``amplitude``: standard deviation over time of the mean of the parcel, relative to its mean;

each relative to the median over all parcels of the person, both sides averaged, and ``coupling``: mean
correlation of the parcels of each network. Two groups are compared by Welch's t test, corrected for all
tests by Holm's method. The same measurements are compared after shuffling the diagnoses, once as
``pds-bids-phantom --shuffle-labels`` writes them and many times at random. "Planted" is the same comparison
of the truth: noiseless maps at rest (MD without the free water that atrophy brings), and drawn amplitudes and
couplings.

python benchmarks/planted_effect.py                      36 people, about 3.5 minutes of CPU
python benchmarks/planted_effect.py --participants 60 --out DIR
"""

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage, stats

from pds_bids.phantom.cohort import CohortOptions, listed_diagnoses, write_cohort
from pds_bids.phantom.parcels import NETWORKS
from pds_bids.template import RES02_GRID, get_template, load_template

MEASURES = ("md", "fa", "level", "amplitude")
# A region is measured where it fills at least so many voxels of half its tissue.
FEWEST_VOXELS = 4
ALPHA = 0.05


def read(path: Path) -> np.ndarray:
    """Read an image in RAS+ order."""
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def fit_tensor(folder: Path, name: str, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return MD (um^2/ms) and FA of the raw series, weighted least squares on the logarithm."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    series = read(folder / f"{name}_dwi.nii.gz").astype(float)
    bvals = np.loadtxt(folder / f"{name}_dwi.bval")
    # FSL's vectors follow the stored axes, of which the first runs to the left.
    bvecs = np.loadtxt(folder / f"{name}_dwi.bvec").T * [-1, 1, 1]
    fit = TensorModel(gradient_table(bvals / 1000, bvecs=bvecs), fit_method="WLS").fit(series, mask=mask)
    return fit.md, fit.fa


def means(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the mean of every label from 1, nan where there are too few voxels, ``(count,)``."""
    index = np.arange(1, count + 1)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1 : count + 1]
    found = np.bincount(labels.ravel(), values.ravel(), count + 1)[1 : count + 1] / np.maximum(sizes, 1)
    return np.where(sizes >= FEWEST_VOXELS, found, np.nan)[index - 1]


def measure(data: Path, truth: Path, name: str, network: np.ndarray) -> dict[str, np.ndarray]:
    """Measure one participant; regions come from the truth, values from the raw images."""
    count = len(network)
    dwi, func = truth / name / "dwi", truth / name / "func"
    parcels = read(dwi / f"{name}_desc-parcels_dseg.nii.gz").astype(int)
    grey, white = (read(dwi / f"{name}_label-{tissue}_probseg.nii.gz") for tissue in ("GM", "WM"))
    nearest = parcels[
        tuple(ndimage.distance_transform_edt(parcels == 0, return_distances=False, return_indices=True))
    ]
    below = np.where(white > 0.6, nearest, 0)
    inside = np.where(grey > 0.5, parcels, 0)
    md, fa = fit_tensor(data / name / "dwi", name, (inside > 0) | (below > 0))
    found = {"md": means(md, inside, count), "fa": means(fa, below, count)}
    found["true md"] = means(read(dwi / f"{name}_md.nii.gz"), inside, count)
    found["true fa"] = means(read(dwi / f"{name}_fa.nii.gz"), below, count)

    series = read(data / name / "func" / f"{name}_task-rest_bold.nii.gz").astype(float)[..., 4:]
    parcels = read(func / f"{name}_desc-parcels_dseg.nii.gz").astype(int)
    inside = np.where(read(func / f"{name}_label-GM_probseg.nii.gz") > 0.5, parcels, 0)
    course = np.stack([means(series[..., v], inside, count) for v in range(series.shape[3])])
    found["level"] = course.mean(0)
    clean = course / course.mean(0) - 1
    # What every region shares is head motion and drift more than it is networks.
    confounds = np.stack([np.nanmean(clean, 1), np.linspace(-1, 1, len(clean)), np.ones(len(clean))], 1)
    clean = clean - confounds @ np.linalg.lstsq(confounds, np.nan_to_num(clean), rcond=None)[0]
    found["amplitude"] = clean.std(0)
    mean = read(func / f"{name}_mean.nii.gz")
    found["true level"] = means(mean, inside, count)
    with (truth / name / "anat" / f"{name}_parcels.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    found["true amplitude"] = np.array([float(row["amplitude"]) for row in rows])
    members = [np.nonzero((network == k) & np.isfinite(clean[0]))[0] for k in range(1, len(NETWORKS))]
    pairs = [np.corrcoef(clean[:, m].T)[np.triu_indices(len(m), 1)] for m in members]
    found["coupling"] = np.array([values.mean() for values in pairs])
    planted = json.loads((truth / name / "anat" / f"{name}_effects.json").read_text())["coupling"]
    found["true coupling"] = np.array([planted[k] for k in NETWORKS[1:]])
    return found


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values corrected for all of them by Holm's method; nan stays nan."""
    flat = p.ravel()
    order = np.argsort(np.where(np.isnan(flat), 2, flat))
    left = np.count_nonzero(~np.isnan(flat)) - np.arange(flat.size)
    corrected = np.full(flat.size, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(flat[order] * np.maximum(left, 1)), 1)
    return corrected.reshape(p.shape)


def compare(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return p and Cohen's d, second group less first, of every column."""
    one, two = values[first], values[second]
    p = stats.ttest_ind(two, one, equal_var=False).pvalue
    pooled = np.sqrt((one.var(0, ddof=1) + two.var(0, ddof=1)) / 2)
    return p, (two.mean(0) - one.mean(0)) / np.where(pooled > 0, pooled, np.nan)


def count_found(table: np.ndarray, labels: np.ndarray, groups: tuple[str, str]) -> np.ndarray:
    """Return which columns differ between two groups after correction."""
    p, _ = compare(table, labels == groups[0], labels == groups[1])
    return holm(p) < ALPHA


def report(
    people: list[dict[str, np.ndarray]],
    labels: np.ndarray,
    shuffled: np.ndarray,
    weights: np.ndarray,
    side: np.ndarray,
    n: int,
) -> bool:
    """Print the tables; return whether the effect is found with true labels and not with shuffled ones."""
    groups = ("NC", "AD")
    stacked = {key: np.stack([person[key] for person in people]) for key in people[0]}
    for key in (*MEASURES, *(f"true {measure}" for measure in MEASURES)):
        values = stacked[key]
        if key != "true amplitude":
            values = values / np.nanmedian(values, 1, keepdims=True)
        stacked[key] = np.stack([values[:, side == k].mean(1) for k in np.unique(side)], 1)
    weights = np.array([weights[side == k].mean() for k in np.unique(side)])
    table = np.concatenate([stacked[key] for key in (*MEASURES, "coupling")], 1)
    affected = np.concatenate(
        [weights >= 0.4] * len(MEASURES) + [np.isin(NETWORKS[1:], ("default", "limbic"))]
    )
    true, control = (count_found(table, which, groups) for which in (labels, shuffled))
    print("measure       regions  found  elsewhere  shuffled  d planted  d found")
    start = 0
    for key in (*MEASURES, "coupling"):
        width = stacked[key].shape[1]
        part = slice(start, start + width)
        start += width
        where = affected[part]
        sizes = [
            np.nanmean(compare(stacked[k], labels == groups[0], labels == groups[1])[1][where])
            for k in (f"true {key}", key)
        ]
        print(
            f"{key:12s} {where.sum():8d} {true[part][where].sum():6d} {true[part][~where].sum():10d} "
            f"{control[part].sum():9d} {sizes[0]:10.2f} {sizes[1]:8.2f}"
        )
    rng = np.random.default_rng(0)
    false = np.mean([count_found(table, rng.permutation(labels), groups).any() for _ in range(n)])
    print(f"{n} random orders of the labels: something is found in {100 * false:.1f}% (expected: at most 5)")
    if "MCI" in labels:
        graded = [
            np.nanmean(stacked["md"][labels == group][:, weights >= 0.7]) for group in ("NC", "MCI", "AD")
        ]
        print("mean MD of the regions with a weight of 0.7 and more, NC MCI AD:", np.round(graded, 4))
    return bool(true[affected].any() and not control.any() and false <= 0.1)


def main() -> int:
    """Simulate, measure, compare; 0 if the effect is found where and only where it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--participants", type=int, default=36)
    parser.add_argument("--groups", default="NC,AD")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--voxel-size-mm", type=float, default=5.0)
    parser.add_argument("--nprocs", type=int, default=1)
    parser.add_argument("--shuffles", type=int, default=200)
    parser.add_argument("--labels", type=Path, help="whole-head label maps; without, the template's head")
    parser.add_argument("--out", type=Path, help="where the cohort is kept, and found again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        options = CohortOptions(
            participants=args.participants,
            groups=tuple(args.groups.split(",")),
            seed=args.seed,
            bold_volumes=96,
            dwi_directions=12,
            voxel_size_mm=args.voxel_size_mm,
            with_t1w=False,
            max_motion=0.3,
        )
        data, truth = out / "data", out / "truth"
        if not data.exists():
            template = load_template(get_template(out / "cache"), RES02_GRID)
            write_cohort(
                data,
                template,
                options,
                cache_dir=out / "cache",
                label_dir=args.labels,
                truth_dir=truth,
                n_procs=args.nprocs,
                progress=lambda line: print(line, file=sys.stderr),
            )
        with (data / "participants.tsv").open() as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        with (truth / "parcels.tsv").open() as stream:
            regions = list(csv.DictReader(stream, delimiter="\t"))
        both = {name: k for k, name in enumerate(dict.fromkeys(r["name"][:-2] for r in regions))}
        side = np.array([both[r["name"][:-2]] for r in regions])
        network = np.array([NETWORKS.index(region["network"]) for region in regions])
        weights = np.array([float(region["site_weight"]) for region in regions])
        people = [measure(data, truth, row["participant_id"], network) for row in rows]
        labels = [row["diagnosis"] for row in rows]
        control = CohortOptions(participants=len(rows), seed=args.seed, shuffle_labels=True)
        shuffled = np.array(listed_diagnoses(control, labels))
        return 0 if report(people, np.array(labels), shuffled, weights, side, args.shuffles) else 1


if __name__ == "__main__":
    sys.exit(main())
