import numpy as np
from toy_people import B0, BOLD, DWI

from pds_bids.modalities import CONTRASTS, Contrast
from pds_bids.models.unet import POLYNOMIAL_PAIRS
from pds_bids.training.prior import local_regression

N, T1W = len(CONTRASTS), CONTRASTS.index(Contrast.T1W)


def test_local_regression_finds_a_known_law():
    """``target = atlas + b s + c s^2`` with b, c that change along the first axis."""
    rng = np.random.default_rng(0)
    shape = (24, 8, 8)
    atlas = np.full((N, *shape), 0.5)
    b = np.linspace(-1, 1, shape[0])[:, None, None]
    pairs = []
    for _ in range(20):
        s = rng.normal(size=(N, *shape))
        target = atlas + 0
        target[DWI] += b * s[BOLD] - 0.3 * s[BOLD] ** 2
        target[BOLD] += 0.4 * s[DWI] - 0.7 * s[B0] + 0.2 * s[B0] ** 2
        pairs.append((atlas + s, target, np.ones(shape, bool), np.ones(N, bool)))
    maps = local_regression(pairs, atlas)
    first, squares = (POLYNOMIAL_PAIRS.index((DWI, BOLD)), len(POLYNOMIAL_PAIRS))
    inner = slice(2, -2)
    expected = b[::2, 0, 0] + (b[1, 0, 0] - b[0, 0, 0]) / 2
    np.testing.assert_allclose(maps[first].mean((1, 2))[inner], expected[inner], atol=0.06)
    linear = {(B0, BOLD): 0, (BOLD, DWI): 0.4, (BOLD, B0): -0.7, (BOLD, T1W): 0}
    quadratic = {(DWI, BOLD): -0.3, (B0, BOLD): 0, (BOLD, DWI): 0, (BOLD, B0): 0.2, (DWI, T1W): 0}
    for values, offset in ((linear, 0), (quadratic, squares)):
        for pair, value in values.items():
            found = maps[POLYNOMIAL_PAIRS.index(pair) + offset]
            np.testing.assert_allclose(found.mean((1, 2)), value, atol=0.05)
