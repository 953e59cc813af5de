import numpy as np
import pytest

from pds_bids.exceptions import UsageError
from pds_bids.imaging.distortion import phase_encoding
from pds_bids.phantom import bidsfiles
from pds_bids.phantom.protocols import SITES, direction_label, opposite, slice_times_s, stored_direction

LAS = np.diag([-3.0, 3.0, 3.0, 1.0])


@pytest.mark.parametrize("direction", ["i", "i-", "j", "j-"])
def test_what_is_written_is_read_as_what_was_simulated(direction):
    series = SITES[0].bold_series
    shape = (60, 64, 30)
    series = type(series)(series.zooms, 0.0005, direction, 0.0)
    sidecar = bidsfiles.fieldmap_sidecar(SITES[0], series, SITES[0].dwi, shape)
    simulated = series.epi(shape, 1.0, 0.4).encoding
    assert phase_encoding(sidecar, LAS) == simulated
    assert simulated.readout_s != 0
    assert opposite(opposite(direction)) == direction
    assert stored_direction(direction)[0] == direction[0]


def test_labels_say_where_the_direction_leads():
    # Of the RAS+ array j- runs from anterior to posterior, i from left to right.
    assert [direction_label(d) for d in ("j-", "j", "i", "i-")] == ["AP", "PA", "LR", "RL"]


@pytest.mark.parametrize(("n_slices", "bands"), [(36, 1), (36, 4), (37, 4), (9, 9)])
def test_slices_are_excited_once_per_band(n_slices, bands):
    times = np.array(slice_times_s(n_slices, 1.2, bands))
    assert times.shape == (n_slices,)
    assert 0 == times.min() <= times.max() < 1.2
    _, counts = np.unique(times, return_counts=True)
    assert counts.max() <= bands
    # Neighbours are never excited together, nor one right after the other where there is a choice.
    if n_slices // bands > 3:
        assert np.abs(np.diff(times)).min() > 0


def test_more_bands_than_slices_are_refused():
    with pytest.raises(UsageError, match="5 bands"):
        slice_times_s(4, 1.0, 5)


def test_sites_differ_in_what_they_say():
    assert len({site.name for site in SITES}) == len(SITES)
    assert len({site.bold for site in SITES}) == len(SITES)
    assert len({site.dwi for site in SITES}) == len(SITES)
    assert {site.field_t for site in SITES} == {1.5, 3.0}
    assert {site.bold_series.phase_encoding for site in SITES} == {"j", "j-"}
    for site in SITES:
        assert site.bold.field_t == site.dwi.field_t == site.mprage.field_t
