"""Small fMRIPrep and QSIPrep trees give what the raw data give, without computing it again."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from pds_bids.bids.derivatives import Level, Pipeline, find_derivatives, find_precomputed
from pds_bids.exceptions import UsageError
from pds_bids.imaging.masks import dice
from pds_bids.interfaces.images import load_map
from pds_bids.interfaces.segments import CutBold
from pds_bids.interfaces.series import read_gradients
from pds_bids.modalities import Modality
from pds_bids.workflows.precomputed import init_precomputed_wf

MNI = "MNI152NLin2009cAsym"


def array(path):
    return np.asanyarray(nib.load(path).dataobj)


def compare(raw, ours, what="out_file"):
    """Least correlation, mean absolute difference in units of the in-brain mean, and overlap of the masks."""
    mask, other = array(raw["resample"].mask) > 0, array(ours["resample"].mask) > 0
    both = mask & other
    a, b = (array(getattr(x["resample"], what))[both] for x in (raw, ours))
    assert a.shape == b.shape
    correlation = min(np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(a.shape[1]))
    return correlation, float(np.abs(a - b).mean()), dice(mask, other)


CASES = {
    "acquired": (("",), Level.ACQUIRED, False),
    "acquired, older": (("",), Level.ACQUIRED, True),
    "anatomical": (("space-T1w", f"space-{MNI}_res-2"), Level.ANATOMICAL, False),
    "template": ((f"space-{MNI}_res-2",), Level.TEMPLATE, False),
    "transforms": ((), Level.TRANSFORMS, False),
}


@pytest.mark.parametrize("name", CASES)
def test_fmriprep_gives_what_the_raw_series_gives(name, make_tree, consume, preprocessed):
    spaces, level, is_old = CASES[name]
    done = preprocessed[Modality.BOLD]
    found, ours = consume(make_tree["fmriprep"](spaces, is_old=is_old), done)
    assert found.level is level
    print(name, compare(done.results, ours))


def test_qsiprep_gives_what_the_raw_series_gives(make_tree, consume, preprocessed):
    done = preprocessed[Modality.DWI]
    found, ours = consume(make_tree["qsiprep"](), done)
    print("dwi", compare(done.results, ours), compare(done.results, ours, "b0_file"))
