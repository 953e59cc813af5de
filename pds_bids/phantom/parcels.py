"""Parcels of the brain and the resting-state network that each belongs to."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import Grid

if TYPE_CHECKING:
    from pds_bids.template import Template

__all__ = ["NETWORKS", "NETWORK_OF_REGION", "Parcellation", "parcellate", "region"]

#: Index 0 is no network.
NETWORKS = (
    "none",
    "default",
    "visual",
    "somatomotor",
    "attention",
    "salience",
    "limbic",
    "frontoparietal",
    "subcortical",
    "cerebellar",
)

# Regions of AAL2 by the network that most of each lies in, after Yeo et al. 2011, doi:10.1152/jn.00338.2011.
_REGIONS = {
    "default": "Frontal_Sup_Medial Frontal_Med_Orb Cingulate_Ant Cingulate_Post Precuneus Angular "
    "Temporal_Mid",
    "visual": "Calcarine Cuneus Lingual Occipital_Sup Occipital_Mid Occipital_Inf Fusiform",
    "somatomotor": "Precentral Postcentral Paracentral_Lobule Supp_Motor_Area Rolandic_Oper Heschl "
    "Temporal_Sup",
    "attention": "Parietal_Sup Frontal_Sup_2",
    "salience": "Insula Cingulate_Mid SupraMarginal Frontal_Inf_Oper",
    "limbic": "Hippocampus ParaHippocampal Amygdala Temporal_Pole_Sup Temporal_Pole_Mid Temporal_Inf "
    "Olfactory Rectus OFCmed OFCant OFCpost OFClat",
    "frontoparietal": "Frontal_Mid_2 Parietal_Inf Frontal_Inf_Tri Frontal_Inf_Orb_2",
    "subcortical": "Caudate Putamen Pallidum Thalamus",
    "cerebellar": "Cerebelum Vermis",
}
NETWORK_OF_REGION: dict[str, int] = {
    name: NETWORKS.index(network) for network, names in _REGIONS.items() for name in names.split()
}
# Grey matter of a person lies beside the parcels of the atlas; up to so far it takes the nearest one's index.
_REACH_MM = 8.0


@dataclass(frozen=True, eq=False)
class Parcellation:
    """The atlas of the phantom, parcels numbered 1 to P.

    Parameters
    ----------
    grid : Grid
        Lattice in template space.
    parcels : ndarray
        ``(X, Y, Z)`` int32, 1 to P, 0 further than 8 mm from any parcel.
    nearest : ndarray
        ``(X, Y, Z)`` int32, the nearest parcel of every voxel (0 if there are no parcels).
    distance_mm : ndarray
        ``(X, Y, Z)`` float32, distance from it.
    names : tuple of str
        ``P + 1`` names; the first is ``none``.
    atlas_index : ndarray
        ``(P + 1,)`` int, numbers of the atlas file.
    network : ndarray
        ``(P + 1,)`` int, index in `NETWORKS`.
    """

    grid: Grid
    parcels: np.ndarray
    nearest: np.ndarray
    distance_mm: np.ndarray
    names: tuple[str, ...]
    atlas_index: np.ndarray
    network: np.ndarray


def region(name: str) -> str:
    """Return the name of a parcel without its side and, in the cerebellum, without its lobule.

    Examples
    --------
    >>> region("Cingulate_Post_L"), region("Cerebelum_4_5_R"), region("Vermis_3")
    ('Cingulate_Post', 'Cerebelum', 'Vermis')
    """
    for whole in ("Cerebelum", "Vermis"):
        if name.startswith(whole):
            return whole
    return name.removesuffix("_L").removesuffix("_R")


def parcellate(template: "Template") -> Parcellation:
    """Number the parcels of a template's atlas and look up their networks.

    Parameters
    ----------
    template : Template
        With an atlas whose regions have the names of AAL2; others have no network.

    Returns
    -------
    Parcellation
    """
    present = [int(index) for index in np.unique(template.atlas) if index > 0]
    names = ("none", *(template.atlas_labels.get(index, str(index)) for index in present))
    atlas_index = np.array([0, *present])
    numbered = np.searchsorted(atlas_index, np.maximum(template.atlas, 0)).astype(np.int32)
    shape = template.grid.shape
    nearest, distance = numbered, np.zeros(shape, np.float32)
    if present:
        away, where = ndimage.distance_transform_edt(
            numbered == 0, sampling=template.grid.zooms, return_indices=True
        )
        nearest, distance = numbered[tuple(where)], away.astype(np.float32)
    network = np.array([NETWORK_OF_REGION.get(region(name), 0) for name in names])
    parcels = np.where(distance <= _REACH_MM, nearest, 0).astype(np.int32)
    return Parcellation(template.grid, parcels, nearest, distance, names, atlas_index, network)
