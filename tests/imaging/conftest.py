"""A head that can be evaluated anywhere, so that motion is known exactly and nothing is interpolated."""

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.rigid import grid_centre, parameters_to_matrices
from pds_bids.phantom.epi import remap
from pds_bids.phantom.moving_head import finer_along


class AnalyticHead:
    """Soft ellipsoids and blobs; `contrast` 0 is like BOLD or b0, 1 like a diffusion-weighted image."""

    def __init__(self, seed=0, n_blobs=12):
        rng = np.random.default_rng(seed)
        self.centres = rng.uniform(-1, 1, (n_blobs, 3)) * [45, 60, 40]
        self.widths = rng.uniform(6, 12, n_blobs)
        self.heights = rng.uniform(-0.35, 0.35, n_blobs)

    def __call__(self, points, contrast=0.0):
        x, y, z = np.moveaxis(np.asarray(points, np.float32), -1, 0)
        radius = np.sqrt((x / 68) ** 2 + (y / 85) ** 2 + (z / 62) ** 2)
        inner = np.sqrt((x / 12) ** 2 + ((y - 5) / 30) ** 2 + ((z - 5) / 14) ** 2)
        image = 1 / (1 + np.exp(np.minimum((radius - 1) / 0.04, 50)))
        image += (1 - 1.7 * contrast) * 0.6 / (1 + np.exp(np.minimum((inner - 1) / 0.12, 50)))
        for centre, width, height in zip(self.centres, self.widths, self.heights, strict=True):
            square = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
            image += height * np.exp(-0.5 / width**2 * square) / (1 + radius**8)
        return np.clip(image, 0, None)


@pytest.fixture(scope="session")
def head():
    return AnalyticHead()


@pytest.fixture(scope="session")
def make_grid():
    """Grids around the head, in any storage order, oblique or not."""

    def make(codes="RAS", zooms=(5.0, 5.0, 5.0), extent=(190.0, 220.0, 160.0), turn_deg=(0, 0, 0)):
        order = nib.orientations.axcodes2ornt(codes)
        along = order[:, 0].astype(int)
        shape = tuple(round(extent[a] / z) for a, z in zip(along, zooms, strict=True))
        axes = nib.orientations.inv_ornt_aff(order, shape)[:3, :3]
        vox2ras = np.eye(4)
        turn = Rotation.from_euler("XYZ", turn_deg, degrees=True).as_matrix()
        # inv_ornt_aff leads from the reoriented array to the stored one; its transpose leads back.
        vox2ras[:3, :3] = turn @ axes.T @ np.diag(zooms)
        vox2ras[:3, 3] = -apply_affine(vox2ras, (np.asarray(shape) - 1) / 2)
        return Grid(shape, vox2ras)

    return make


@pytest.fixture(scope="session")
def make_series(head):
    """A series with known motion: ``(X, Y, Z, N)`` float32 and ``(N, 4, 4)`` maps from the reference."""

    def make(grid, parameters, noise=0.0, contrasts=None, gains=None, seed=0):
        rng = np.random.default_rng(seed)
        ref2volume = parameters_to_matrices(parameters, grid_centre(grid))
        points = grid.points()
        volumes = np.empty((*grid.shape, len(parameters)), np.float32)
        for k, matrix in enumerate(ref2volume):
            volume = head(
                apply_affine(np.linalg.inv(matrix), points), 0 if contrasts is None else contrasts[k]
            )
            volume = volume * (1 if gains is None else gains[k]) + noise * rng.normal(size=grid.shape)
            volumes[..., k] = 1000 * volume
        return volumes, ref2volume

    return make


@pytest.fixture(scope="session")
def displacement(head):
    """Mean distance in the head between two sets of maps, ``(N,)`` mm."""
    points = np.stack(np.meshgrid(*[np.arange(-60, 61, 20.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    points = points[head(points) > 0.5]

    def measure(one, other):
        return np.array(
            [
                np.linalg.norm(apply_affine(a, points) - apply_affine(b, points), axis=1).mean()
                for a, b in zip(one, other, strict=True)
            ]
        )

    return measure


def off_resonance_hz(points):
    """A field as above air: a peak of 100 Hz over the nose, 60 Hz over the ears, and a slope."""
    x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
    nose = np.exp(-0.5 * ((x / 22) ** 2 + ((y - 62) / 22) ** 2 + ((z + 25) / 20) ** 2))
    ears = sum(
        np.exp(-0.5 * (((x - s * 52) / 14) ** 2 + ((y + 5) / 16) ** 2 + ((z + 30) / 14) ** 2))
        for s in (1, -1)
    )
    return 100 * nose + 60 * ears - 0.15 * z


@pytest.fixture(scope="session")
def off_resonance():
    return off_resonance_hz


@pytest.fixture(scope="session")
def rich_head():
    """A head with enough in it for registration across contrasts to tell up from down."""
    return AnalyticHead(seed=3, n_blobs=60)


@pytest.fixture(scope="session")
def make_epi(head):
    """The image of a head whose voxels a field has moved along an array axis, signal conserved."""

    def make(grid, axis, readout_s, matrix=None, noise=0.0, seed=0, field=off_resonance_hz, shown=head):
        matrix = np.eye(4) if matrix is None else matrix
        back = np.linalg.inv(matrix)

        def hz(points):
            return field(apply_affine(back, points))

        cells, edges = finer_along(grid, axis, 4), finer_along(grid, axis, 4, edges=True)
        signal = shown(apply_affine(back, cells.points())) / 4
        place = np.arange(edges.shape[axis]) / 4 - 0.5
        landing = readout_s * hz(edges.points()) + place.reshape([-1 if k == axis else 1 for k in range(3)])
        moved = remap(np.moveaxis(signal, axis, -1), np.moveaxis(landing, axis, -1), grid.shape[axis])
        rng = np.random.default_rng(seed)
        noisy = np.moveaxis(moved, -1, axis) + noise * rng.normal(size=grid.shape)
        return (1000 * np.abs(noisy)).astype(np.float32)

    return make
