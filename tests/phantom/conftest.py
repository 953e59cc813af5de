"""A small head that takes no registration: nested ellipsoids on the template's lattice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pds_bids.imaging.grid import Grid
from pds_bids.imaging.tissues import Template
from pds_bids.phantom.anatomy import ANATOMY_GRID, Anatomy, build_anatomies
from pds_bids.phantom.moving_head import head_lattice
from pds_bids.phantom.person import Person, Scan, draw_person, scan, thinning

MODEL_LIKE = Grid(
    (33, 39, 33), np.array([[6.0, 0, 0, -97], [0, 6.0, 0, -133], [0, 0, 6.0, -79], [0, 0, 0, 1]])
)


def ellipsoid_template(grid: Grid) -> Template:
    """Paint ventricles, white matter, cortex and fluid as shells."""
    points = grid.points() - [0, -18, 8]
    radius = np.sqrt(((points / [66, 84, 66]) ** 2).sum(-1)) * 66
    folds = 4 * np.sin(points[..., 0] / 9) * np.sin(points[..., 1] / 9) * np.sin(points[..., 2] / 9)
    inner = np.sqrt(((points / [14, 30, 12]) ** 2).sum(-1)) < 1
    mask = radius < 66
    gm = (mask & (radius > 48 + folds) & (radius < 61 + folds / 2)).astype(np.float32)
    csf = (mask & ((radius >= 61 + folds / 2) | inner)).astype(np.float32)
    wm = (mask & (gm + csf == 0)).astype(np.float32)
    t1w = (0.9 * wm + 0.6 * gm + 0.2 * csf).astype(np.float32)
    atlas = np.zeros(grid.shape, np.int32)
    return Template(grid, t1w, mask, gm, wm, csf, atlas, {}, "none", "ellipsoids")


@pytest.fixture(scope="session")
def fine_template() -> Template:
    """Template on the lattice of the anatomies."""
    return ellipsoid_template(ANATOMY_GRID)


@pytest.fixture(scope="session")
def model_template() -> Template:
    """Template on a coarse lattice for pairs."""
    return ellipsoid_template(MODEL_LIKE)


@pytest.fixture(scope="session")
def anatomy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that keeps anatomies for the session."""
    return tmp_path_factory.mktemp("anatomies")


@pytest.fixture(scope="session")
def anatomy(fine_template: Template, anatomy_cache: Path) -> Anatomy:
    """Head around the ellipsoids."""
    return build_anatomies(None, anatomy_cache, fine_template)[0]


# Boxes that stand for parcels: AAL2's index of the left one, name without side, centre (right), half axes.
_BOXES = (
    (6301, "Precuneus", (12, -62, 40), (14, 16, 18)),
    (4021, "Cingulate_Post", (8, -42, 24), (10, 12, 12)),
    (4101, "Hippocampus", (26, -20, -15), (12, 20, 12)),
    (5001, "Calcarine", (14, -88, 0), (16, 16, 16)),
    (2001, "Precentral", (44, -6, 46), (16, 16, 18)),
    (2201, "Frontal_Mid_2", (34, 44, 24), (18, 18, 18)),
)


@pytest.fixture(scope="session")
def atlas_template(fine_template: Template) -> Template:
    """Ellipsoids with a few parcels of AAL2, on both sides."""
    points = fine_template.grid.points()
    atlas = np.zeros(fine_template.grid.shape, np.int32)
    labels = {}
    for number, name, centre, half in _BOXES:
        for side, letter in ((-1, "L"), (1, "R")):
            index = number + (letter == "R")
            inside = (np.abs(points - np.array(centre) * [side, 1, 1]) < half).all(-1)
            atlas[inside & fine_template.mask & (points[..., 0] * side > 0)] = index
            labels[index] = f"{name}_{letter}"
    return replace(fine_template, atlas=atlas, atlas_labels=labels)


@pytest.fixture(scope="session")
def person(anatomy: Anatomy) -> Person:
    """Somebody with that head."""
    # Grain as fine as the voxels would be blurred by every interpolation that a test compares with.
    return replace(
        draw_person(np.random.default_rng(1), anatomy),
        vessels=0.0,
        sharpness=0.0,
        thinning=thinning(anatomy, 0.0),
    )


@pytest.fixture(scope="session")
def epi_grid() -> Grid:
    """Voxels of a quick series."""
    return Grid((38, 44, 32), np.array([[5.0, 0, 0, -92], [0, 5.0, 0, -126], [0, 0, 5.0, -72], [0, 0, 0, 1]]))


@pytest.fixture(scope="session")
def seen(person: Person, epi_grid: Grid) -> Scan:
    """The person on the lattice from which series are made."""
    return scan(np.random.default_rng(2), person, head_lattice(epi_grid, 2.5))


@pytest.fixture(scope="session", params=[0.4, 1.0], ids=["smooth", "lifelike"])
def scanned(
    request: pytest.FixtureRequest, person: Person, seen: Scan, anatomy: Anatomy, epi_grid: Grid
) -> tuple[Person, Scan, float]:
    """A person, a scan and a receive field: without grain; with vessels and sharp folds, by a raw array.

    Voxels here are 5 mm: grain and folds are finer, so what is resampled is found less exactly.
    """
    if request.param < 1:
        return person, seen, request.param
    lifelike = draw_person(np.random.default_rng(1), anatomy)
    return lifelike, scan(np.random.default_rng(2), lifelike, head_lattice(epi_grid, 2.5)), request.param


@pytest.fixture(scope="session")
def coarse(person: Person) -> Scan:
    """The person on large voxels, for long series."""
    grid = Grid((22, 25, 19), np.array([[9.0, 0, 0, -94], [0, 9.0, 0, -126], [0, 0, 9.0, -78], [0, 0, 0, 1]]))
    return scan(np.random.default_rng(2), person, grid)


@pytest.fixture(scope="session")
def seen_voxels(person: Person, epi_grid: Grid) -> Scan:
    """The person on the voxels themselves."""
    return scan(np.random.default_rng(2), person, epi_grid)


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded draws."""
    return np.random.default_rng(0)
