"""Simulated means for `realism.py`: from the cohort generator and from the training stream."""

import numpy as np
from realism_figures import Look
from realism_scans import tissue_maps

from pds_bids.imaging.grid import Grid, resample
from pds_bids.imaging.masks import rough_brain_mask
from pds_bids.imaging.tissues import Template
from pds_bids.phantom.anatomy import Anatomy
from pds_bids.phantom.person import Person, Scan, draw_person, scan
from pds_bids.phantom.stream import PairStream
from pds_bids.seeds import derive_seed

__all__ = ["model_looks", "native_looks"]


def model_looks(heads: list[Anatomy], template: Template, seed: int, count: int) -> list[Look]:
    """Return the sources of the training stream that obey signal equations."""
    stream = PairStream(heads, seed, template=template, random_contrast=0.0)
    maps = tissue_maps(template)
    looks = []
    for index in range(count):
        pair = stream.pair(index)
        mask = pair.mask.numpy()
        for channel, kind in enumerate(("bold", "dwi", "b0")):
            image = pair.source[channel].numpy()
            looks.append(Look(f"stream {index}", kind, image, mask, maps, template.grid))
    return looks
