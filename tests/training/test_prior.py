import numpy as np
from toy_people import B0, BOLD, DWI

from pds_bids.training.prior import local_regression


def test_local_regression_finds_a_known_law():
    """``target = atlas + b s + c s^2`` with b, c that change along the first axis."""
    rng = np.random.default_rng(0)
    shape = (24, 8, 8)
    atlas = np.full((3, *shape), 0.5)
    b = np.linspace(-1, 1, shape[0])[:, None, None]
    pairs = []
    for _ in range(20):
        s = rng.normal(size=(3, *shape))
        target = atlas + 0
        target[DWI] += b * s[BOLD] - 0.3 * s[BOLD] ** 2
        target[BOLD] += 0.4 * s[DWI] - 0.7 * s[B0] + 0.2 * s[B0] ** 2
        pairs.append((atlas + s, target, np.ones(shape, bool)))
    maps = local_regression(pairs, atlas)
    # Order of pairs: dwi<-bold, b0<-bold, bold<-dwi, bold<-b0; b first, then c.
    inner = slice(2, -2)
    expected = b[::2, 0, 0] + (b[1, 0, 0] - b[0, 0, 0]) / 2
    np.testing.assert_allclose(maps[0].mean((1, 2))[inner], expected[inner], atol=0.06)
    for index, value in {1: 0, 2: 0.4, 3: -0.7, 4: -0.3, 5: 0, 6: 0, 7: 0.2}.items():
        np.testing.assert_allclose(maps[index].mean((1, 2)), value, atol=0.05)
