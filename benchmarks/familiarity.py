"""Print which sources pass in silence: other people, wrong modalities, lesions.

    python benchmarks/familiarity.py --labels LABELS --cache CACHE [--bundle default] [--people 60]

Simulated people of the heads that nothing was trained on, of a seed that no training uses, without arbitrary
contrasts. Every image is judged under its own name and given for every other contrast; then spheres are
painted into its white matter, and it is counted whether a place is named. No network runs.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from pds_bids.inference.bundle import Bundle, load_bundle
from pds_bids.inference.card import shipped_bundle
from pds_bids.inference.deviation import Norm, largest_deviation, norm_of
from pds_bids.inference.familiarity import describe_places, describe_source, find_oddities
from pds_bids.inference.prepare import scale_template, scale_to_mean
from pds_bids.modalities import SOURCES, Contrast
from pds_bids.phantom.anatomy import build_anatomies
from pds_bids.phantom.pair import SOURCE_CHANNELS, Pair
from pds_bids.phantom.stream import PairStream
from pds_bids.template import MODEL_GRID, RES02_GRID, get_template, load_template

ZOOM_MM = MODEL_GRID.zooms[0]
#: Diameter in mm, signal over white matter, signal of the core (None: as the rest).
LESIONS = (
    [(mm, signal, None) for mm in (30, 20, 15) for signal in (2.0, 0.5)]
    + [(mm, 2.0, 0.5) for mm in (30, 20)]
    + [(40, 1.4, None)]
)
#: What tells a sentence about a place from the others.
PLACE = "largest deviation of a place"
PURE_WHITE, DEPTH_MM = 0.8, 18.0


class Judge:
    """The check of one bundle."""

    def __init__(self, bundle: Bundle, channels: np.ndarray) -> None:
        self.window = bundle.window
        self.grid = bundle.grid.crop(bundle.window.start, bundle.window.shape)
        self.channels = bundle.window.crop(channels)
        self.ranges = bundle.card["source_ranges"]
        self.norms: dict[Contrast, Norm] = {
            contrast: norm_of(bundle.people(contrast), self.channels) for contrast in SOURCES
        }

    def named(self, image: np.ndarray, mask: np.ndarray, claimed: Contrast) -> tuple[bool, bool]:
        """Return whether figures of the whole image are odd, and whether a place is; arrays in the window."""
        scaled, _ = scale_to_mean(image, mask, str(claimed))
        template = scale_template(self.channels, mask)
        figures = describe_source(scaled, mask, template)
        figures |= describe_places(scaled, mask, template, self.grid)
        figures["deviation"] = largest_deviation(scaled, mask, self.channels, self.norms[claimed])
        places = [PLACE in sentence for sentence in find_oddities({claimed: figures}, self.ranges)]
        return not all(places), any(places)


def paint(
    image: np.ndarray, mask: np.ndarray, white: np.ndarray, lesion: tuple, middle: np.ndarray
) -> np.ndarray:
    """Return the image with a sphere about `middle` (voxels), its edge one voxel wide."""
    diameter_mm, signal, core = lesion
    away = np.linalg.norm(np.moveaxis(np.indices(mask.shape), 0, -1) - middle, axis=-1)
    level = float(image[mask & white].mean())
    radius = diameter_mm / 2 / ZOOM_MM
    for size, share_of_white in ((radius, signal), (radius / 2, core)):
        if share_of_white is not None:
            share = np.clip(size + 0.5 - away, 0, 1)
            image = image * (1 - share) + share_of_white * level * share
    return np.where(mask, image, 0)


def windowed(judge: Judge, pair: Pair) -> tuple[dict[Contrast, np.ndarray], np.ndarray]:
    """Return the sources of a person and the mask in the window."""
    mask = judge.window.crop(pair.mask.numpy())
    images = {c: judge.window.crop(pair.source[k].numpy()) for k, c in enumerate(SOURCE_CHANNELS)}
    return images, mask


def place_of(judge: Judge, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a voxel of white matter well inside the brain."""
    deep = ndimage.distance_transform_edt(mask) * ZOOM_MM > DEPTH_MM
    places = np.argwhere(deep & (judge.channels[1] > PURE_WHITE))
    return places[rng.integers(len(places))]


def main() -> None:
    """Judge people and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--lesioned", type=int, default=24, help="people with a lesion of each kind")
    parser.add_argument("--seed", type=int, default=1201)
    args = parser.parse_args()
    bundle = load_bundle(shipped_bundle(args.bundle))
    held_out = set(bundle.card["training"]["split"]["names"]["test"])
    files = get_template(args.cache)
    heads = build_anatomies(args.labels, args.cache / "anatomies", load_template(files, RES02_GRID))
    heads = [head for head in heads if head.name in held_out]
    stream = PairStream(heads, args.seed, template=load_template(files, MODEL_GRID), random_contrast=0)
    judge = Judge(bundle, stream.template.numpy())
    odd: dict[tuple[Contrast, Contrast], list[tuple[bool, bool]]] = defaultdict(list)
    found: dict[tuple[tuple, Contrast], list[bool]] = defaultdict(list)
    for index in range(args.people):
        images, mask = windowed(judge, stream.pair(index))
        for given, image in images.items():
            for claimed in SOURCES:
                odd[claimed, given].append(judge.named(image, mask, claimed))
        if index < args.lesioned:
            middle = place_of(judge, mask, np.random.default_rng([args.seed, index]))
            for lesion in LESIONS:
                for contrast, image in images.items():
                    painted = paint(image, mask, judge.channels[1] > PURE_WHITE, lesion, middle)
                    found[lesion, contrast].append(judge.named(painted, mask, contrast)[1])
        print(f"{index + 1} of {args.people}", flush=True)
    print_tables(odd, found)


def print_tables(odd: dict, found: dict) -> None:
    """Print shares in percent as tables of Markdown."""

    def percent(flags: Any) -> str:
        return f"{100 * float(np.mean(flags)):.0f}%"

    print(f"\n| claimed | {' | '.join(str(c) for c in SOURCES)} | right name: whole image | oddest place |")
    print("|---" * (len(SOURCES) + 3) + "|")
    for claimed in SOURCES:
        wrong = [percent([any(f) for f in odd[claimed, c]]) if c != claimed else "" for c in SOURCES]
        own = np.array(odd[claimed, claimed])
        print(f"| {claimed} | {' | '.join(wrong)} | {percent(own[:, 0])} | {percent(own[:, 1])} |")
    print(f"\n| diameter, mm | signal | core | {' | '.join(str(c) for c in SOURCES)} |")
    print("|---" * (len(SOURCES) + 3) + "|")
    for lesion in LESIONS:
        diameter_mm, signal, core = lesion
        shares = " | ".join(percent(found[lesion, contrast]) for contrast in SOURCES)
        print(f"| {diameter_mm} | {signal} | {core or signal} | {shares} |")


if __name__ == "__main__":
    main()
