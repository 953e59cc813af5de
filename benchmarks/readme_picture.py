"""Draw the picture of the README: a simulated person who has both modalities, one predicted from the other.

    pds-bids-phantom DATA --participants 1 --seed 7
    pds-bids DATA OUT participant --synthesize both
    python benchmarks/readme_picture.py OUT docs/_static/readme.png

Only simulated people: the script refuses a folder whose source dataset does not say that it was simulated.
"""

import argparse
import json
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import matplotlib as mpl
import nibabel as nib
import numpy as np

from pds_bids.bids.names import output_path
from pds_bids.modalities import Modality

mpl.use("Agg")
from matplotlib import pyplot as plt

# Share of the brain's extent along z and x at which the person is cut.
AXIAL, SAGITTAL = (0.42, 0.58), (0.46,)
DIFFERENCE_SHARE, UPPER_PERCENTILE = 0.5, 99.5
MAX_KB = 300


def main() -> int:
    """Draw and save; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="output folder of pds-bids")
    parser.add_argument("picture", type=Path, metavar="PNG", help="file to write")
    parser.add_argument("--participant", default="01", metavar="LABEL", help="default: 01")
    arguments = parser.parse_args()
    if not is_simulated(arguments.folder):
        print(
            f"{arguments.folder}: its source is not a dataset of pds-bids-phantom; refused", file=sys.stderr
        )
        return 2
    draw(read_images(arguments.folder, arguments.participant), arguments.picture)
    size_kb = arguments.picture.stat().st_size / 1e3
    print(f"{arguments.picture}: {size_kb:.0f} kB")
    return 0 if size_kb <= MAX_KB else 1


def is_simulated(folder: Path) -> bool:
    """Whether the source dataset says that this package's phantom made it."""
    description = json.loads((folder / "dataset_description.json").read_text())
    source = Path(unquote(urlparse(description["DatasetLinks"]["raw"]).path))
    made_by = json.loads((source / "dataset_description.json").read_text()).get("GeneratedBy", [])
    return any("phantom" in str(generator.get("Name", "")) for generator in made_by)


def read_images(folder: Path, participant: str) -> list[tuple[str, np.ndarray]]:
    """Return panels, in the order in which they are shown, on the template grid."""
    bold = {"sub": participant, "task": "rest"}
    dwi = {"sub": participant}
    wanted = [
        ("acquired mean BOLD", "mean", bold, Modality.BOLD),
        ("SYNTHETIC mean DWI", "synthetic", dwi, Modality.DWI),
        ("acquired mean DWI", "mean", dwi, Modality.DWI),
        ("uncertainty", "synthetic_std", dwi, Modality.DWI),
    ]
    paths = [folder / output_path(key, own, modality, in_template=True) for _, key, own, modality in wanted]
    return [
        (title, np.asanyarray(nib.load(path).dataobj, dtype=float))
        for (title, *_), path in zip(wanted, paths, strict=True)
    ]


def draw(panels: list[tuple[str, np.ndarray]], path: Path) -> None:
    """Draw one column per panel and one row per cut; synthetic panels are marked."""
    images = dict(panels)
    synthetic, acquired = images["SYNTHETIC mean DWI"], images["acquired mean DWI"]
    brain = synthetic > 0
    upper = float(np.percentile(acquired[brain], UPPER_PERCENTILE))
    panels = [
        *panels[:3],
        ("synthetic - acquired", np.where(brain & (acquired > 0), synthetic - acquired, np.nan)),
        (panels[3][0], np.where(brain, panels[3][1], np.nan)),
    ]
    scales = {
        "acquired mean BOLD": ("gray", 0, np.percentile(panels[0][1][brain], UPPER_PERCENTILE)),
        "synthetic - acquired": ("RdBu_r", -DIFFERENCE_SHARE * upper, DIFFERENCE_SHARE * upper),
        "uncertainty": ("inferno", 0, DIFFERENCE_SHARE * upper),
    }
    cuts = cuts_through(brain)
    figure, axes = plt.subplots(len(cuts), len(panels), figsize=(10, 6.6), facecolor="black", squeeze=False)
    for column, (title, image) in enumerate(panels):
        colours, lower, top = scales.get(title, ("gray", 0, upper))
        for row, cut in enumerate(cuts):
            axis = axes[row, column]
            axis.imshow(crop(image[cut], brain[cut]).T, cmap=colours, vmin=lower, vmax=top, origin="lower")
            axis.set_axis_off()
            if title.startswith("SYNTHETIC"):
                axis.text(0.02, 0.02, "SYNTHETIC", transform=axis.transAxes, color="#ffb000", fontsize=8)
        is_predicted = title.startswith("SYNTHETIC")
        axes[0, column].set_title(title, color="#ffb000" if is_predicted else "white", fontsize=10)
    note = "Simulated person; 3 mm template grid, × in-brain mean; left of the picture is left of the person"
    figure.text(0.5, 0.01, note, color="white", ha="center", fontsize=8)
    figure.subplots_adjust(0.01, 0.04, 0.99, 0.94, 0.02, 0.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor="black", pil_kwargs={"optimize": True})
    plt.close(figure)


def cuts_through(brain: np.ndarray) -> list[tuple[slice | int, ...]]:
    """Return index tuples of the slices that are shown."""
    everything = slice(None)
    cuts: list[tuple[slice | int, ...]] = [(everything, everything, at(brain, 2, share)) for share in AXIAL]
    return [*cuts, *((at(brain, 0, share), everything, everything) for share in SAGITTAL)]


def at(brain: np.ndarray, axis: int, share: float) -> int:
    """Return the index at a share of the brain's extent along an axis."""
    others = tuple(other for other in range(3) if other != axis)
    inside = np.flatnonzero(brain.any(axis=others))
    return round(float(inside[0] + share * (inside[-1] - inside[0])))


def crop(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Cut a slice to the brain with two voxels to spare."""
    bounds = [np.flatnonzero(brain.any(axis=1 - axis)) for axis in (0, 1)]
    return image[tuple(slice(max(b[0] - 2, 0), b[-1] + 3) for b in bounds)]


if __name__ == "__main__":
    sys.exit(main())
