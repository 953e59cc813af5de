"""Parcel means against nilearn's masker and against a loop."""

import nibabel as nib
import numpy as np
from nilearn.maskers import NiftiLabelsMasker

from pds_bids.imaging.parcels import parcel_means


def test_agrees_with_nilearn():
    rng = np.random.default_rng(0)
    atlas = rng.integers(0, 5, (8, 9, 7)).astype(np.int32)
    mask = rng.random(atlas.shape) > 0.3
    volumes = rng.normal(size=(*atlas.shape, 3)).astype(np.float32)
    masker = NiftiLabelsMasker(
        nib.Nifti1Image(atlas, np.eye(4)), mask_img=nib.Nifti1Image(mask.astype(np.uint8), np.eye(4))
    )
    theirs = masker.fit_transform(nib.Nifti1Image(volumes, np.eye(4)))
    np.testing.assert_allclose(parcel_means(volumes, atlas, mask, [1, 2, 3, 4]), theirs, rtol=1e-4, atol=1e-6)


def test_order_of_labels_and_absent_parcels():
    atlas = np.zeros((2, 2, 2), int)
    atlas[0], atlas[1] = 3, 7
    volumes = np.where(atlas == 3, 1.0, 5.0)[..., None]
    means = parcel_means(volumes, atlas, atlas > 0, [7, 4, 3])
    np.testing.assert_array_equal(means, [[5.0, np.nan, 1.0]])
