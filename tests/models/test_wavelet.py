import itertools

import numpy as np
import torch

from pds_bids.models.wavelet import haar_forward, haar_inverse


def image(seed=0):
    return torch.randn(2, 3, 4, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_inverse_gives_the_image_back_and_energy_is_kept():
    coefficients = haar_forward(image())
    torch.testing.assert_close(haar_inverse(coefficients), image())
    torch.testing.assert_close(coefficients.square().sum(), image().square().sum())


def test_every_band_by_hand():
    """Sums and differences of neighbours, axis by axis, divided by the root of eight."""
    coefficients = haar_forward(image()).numpy()
    for band, signs in enumerate(itertools.product((1, -1), repeat=3)):
        expected = image().numpy()
        for axis, sign in zip((2, 3, 4), signs, strict=True):
            even, odd = (np.take(expected, range(k, expected.shape[axis], 2), axis) for k in (0, 1))
            expected = (even + sign * odd) / np.sqrt(2)
        for contrast in range(3):
            np.testing.assert_allclose(
                coefficients[:, 8 * contrast + band], expected[:, contrast], atol=1e-12
            )
