from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from pds_bids.imaging.grid import Grid, PointMap, apply_affine
from pds_bids.phantom.anatomy import ANATOMY_GRID
from pds_bids.phantom.demographics import Diagnosis, Sex, Traits
from pds_bids.phantom.disease import healthy_effects
from pds_bids.phantom.fields import random_displacement
from pds_bids.phantom.parcels import parcellate
from pds_bids.phantom.person import _pose, draw_person, flow, scan
from pds_bids.phantom.sampling import gather
from pds_bids.phantom.tissue import BRAIN, Tissue

COARSE = Grid((33, 39, 33), np.array([[6.0, 0, 0, -97], [0, 6.0, 0, -133], [0, 0, 6.0, -79], [0, 0, 0, 1]]))


@pytest.fixture(scope="module")
def atlas(atlas_template):
    return parcellate(atlas_template)


@pytest.fixture(scope="module")
def with_hippocampus(anatomy):
    """The ellipsoid head with limbic tissue, which its grey matter does not reach."""
    fractions = anatomy.fractions.copy()
    points = anatomy.grid.points()
    inside = (np.abs(np.abs(points[..., 0]) - 26) < 8) & (np.abs(points[..., 1] + 20) < 18)
    inside &= np.abs(points[..., 2] + 15) < 8
    fractions[inside] = 0
    fractions[inside, Tissue.LIMBIC] = 255
    return replace(anatomy, fractions=soft(fractions))


def soft(fractions):
    """Blur the edges of tissues: partial volume, without which no cortex shares a voxel with fluid."""
    return np.stack(
        [ndimage.gaussian_filter(fractions[..., k].astype(np.float32), 0.8) for k in range(16)], -1
    ).astype(np.uint8)


def upright(person):
    """Put a person straight into template space, undeformed; without vessels, which take from all fluid."""
    still = {"scanner2template": np.eye(4), "warp_mm": person.warp_mm * 0, "mirrored": False}
    return replace(person, vessels=0.0, **still)


def volume(person, *tissues):
    return scan(np.random.default_rng(0), person, ANATOMY_GRID).share(*tissues).sum()


def test_flow_of_minus_the_velocity_is_the_inverse():
    grid = Grid((40, 40, 40), np.diag([5.0, 5.0, 5.0, 1.0]))
    velocity = random_displacement(
        np.random.default_rng(0), grid.shape, grid.zooms, sd_mm=4.0, spacing_mm=40.0
    )
    there, back = flow(velocity, grid), flow(-velocity, grid)
    points = grid.points()[8:-8, 8:-8, 8:-8].reshape(-1, 3)
    moved = points + gather(there, apply_affine(grid.ras2vox, points))
    returned = moved + gather(back, apply_affine(grid.ras2vox, moved))
    assert np.linalg.norm(moved - points, axis=1).max() > 8
    assert np.linalg.norm(returned - points, axis=1).max() < 0.4


def test_flow_does_not_fold_where_the_velocity_itself_would():
    grid = Grid((40, 40, 40), np.diag([5.0, 5.0, 5.0, 1.0]))
    velocity = random_displacement(
        np.random.default_rng(1), grid.shape, grid.zooms, sd_mm=8.0, spacing_mm=30.0
    )
    folded = PointMap(grid, (grid.points() + velocity).astype(np.float32)).jacobian()[2:-2, 2:-2, 2:-2]
    flown = PointMap(grid, (grid.points() + flow(velocity, grid)).astype(np.float32)).jacobian()
    assert folded.min() < 0
    assert flown[2:-2, 2:-2, 2:-2].min() > 0


def test_warp_and_its_inverse_lead_to_the_same_point(anatomy):
    person = draw_person(np.random.default_rng(3), anatomy)
    scanner = np.random.default_rng(0).uniform(-50, 50, (500, 3))
    template = apply_affine(person.scanner2template, scanner)
    template = template + gather(person.warp_mm, apply_affine(person.warp_grid.ras2vox, template))
    back = template + gather(person.unwarp_mm, apply_affine(person.warp_grid.ras2vox, template))
    back = apply_affine(np.linalg.inv(person.scanner2template), back)
    assert np.abs(back - scanner).max() < 0.1


def test_the_lost_share_of_hippocampus_and_cortex_is_as_planted(with_hippocampus):
    person = upright(draw_person(np.random.default_rng(1), with_hippocampus))
    effects = replace(person.effects, hippocampus=0.2, cortex=0.03)
    thinned = replace(person, effects=effects)
    assert volume(thinned, Tissue.LIMBIC) == pytest.approx(0.8 * volume(person, Tissue.LIMBIC), rel=0.01)
    assert volume(thinned, Tissue.CORTEX) == pytest.approx(0.97 * volume(person, Tissue.CORTEX), rel=0.005)
    assert volume(thinned, *BRAIN) == pytest.approx(volume(person, *BRAIN), rel=1e-4)


def test_cortex_is_lost_where_atrophy_lies(anatomy):
    head = replace(anatomy, fractions=soft(anatomy.fractions))
    person = upright(draw_person(np.random.default_rng(1), head))
    atrophy = 0.03 * (COARSE.points()[..., :1] > 0).astype(np.float32)
    ill = replace(
        person,
        effects=replace(
            person.effects, grid=COARSE, atrophy=atrophy, latents=np.zeros((*COARSE.shape, 5), np.float32)
        ),
    )
    before, after = (
        scan(np.random.default_rng(0), p, ANATOMY_GRID).share(Tissue.CORTEX) for p in (person, ill)
    )
    left, right = (slice(0, 40), slice(57, 97))
    np.testing.assert_array_equal(before[left], after[left])
    # The two halves are alike, so what borders on fluid is the same share of each.
    assert after[right].sum() == pytest.approx(0.97 * before[right].sum(), rel=0.005)


def test_ventricles_grow_at_the_cost_of_what_surrounds_them(anatomy):
    person = upright(draw_person(np.random.default_rng(1), anatomy))
    volumes = [
        volume(replace(person, effects=replace(person.effects, ventricle_mm=mm)), Tissue.VENTRICLE)
        for mm in (-0.5, 0.0, 1.0, 2.0)
    ]
    assert volumes == sorted(volumes)
    assert volumes[3] > 1.15 * volumes[1]


def test_a_mirrored_head_keeps_its_parcels(anatomy, atlas):
    fractions = anatomy.fractions.copy()
    # A mark on the right side.
    x, y, z = np.rint(apply_affine(anatomy.grid.ras2vox, np.array([40.0, -18, 8]))).astype(int)
    fractions[x - 3 : x + 4, y - 3 : y + 4, z - 3 : z + 4] = 0
    fractions[x - 3 : x + 4, y - 3 : y + 4, z - 3 : z + 4, Tissue.EYE] = 255
    person = upright(draw_person(np.random.default_rng(1), replace(anatomy, fractions=fractions)))
    person = replace(person, effects=healthy_effects(atlas))
    seen = [scan(np.random.default_rng(0), replace(person, mirrored=m), ANATOMY_GRID) for m in (False, True)]
    side = [(s.template_points[:, 0] * s.fractions[:, Tissue.EYE]).sum() for s in seen]
    assert side[0] > 0
    assert side[1] == pytest.approx(-side[0], rel=0.1)
    for s in seen:
        left = s.parcels == atlas.names.index("Precuneus_L")
        assert left.any()
        assert s.template_points[left, 0].max() < 8


def test_half_of_all_people_are_mirrored(anatomy):
    sides = [draw_person(np.random.default_rng(seed), anatomy).mirrored for seed in range(8)]
    assert 1 < sum(sides) < 7


def test_parcels_are_where_grey_matter_is(anatomy, atlas):
    person = replace(draw_person(np.random.default_rng(1), anatomy), effects=healthy_effects(atlas))
    seen = scan(np.random.default_rng(0), person, COARSE)
    labelled = seen.parcels > 0
    assert seen.parcels.dtype == np.int32
    assert labelled.any()
    grey = seen.fractions[:, [Tissue.CORTEX, Tissue.LIMBIC, Tissue.CEREBELLAR_GREY, Tissue.CAUDATE]].sum(1)
    assert (seen.share(*BRAIN).ravel()[labelled] > 0).all()
    assert grey[labelled].mean() > 3 * grey[~labelled].mean()


def test_men_have_larger_heads(anatomy, atlas):
    sizes = {}
    for sex in Sex:
        people = [
            draw_person(np.random.default_rng(seed), anatomy, Traits(Diagnosis.NC, 40.0, sex), atlas)
            for seed in range(2)
        ]
        sizes[sex] = np.array([1 / np.linalg.det(p.scanner2template[:3, :3]) for p in people])
    # The same seeds, so all else is equal: 1.036 ** 3.
    np.testing.assert_allclose(sizes[Sex.MALE] / sizes[Sex.FEMALE], 1.112, rtol=1e-3)


def test_latents_of_age_and_disease_are_added(anatomy, atlas):
    person = draw_person(np.random.default_rng(1), anatomy)
    shifted = replace(person.effects, latents=person.effects.latents + np.float32(0.5))
    plain, moved = (
        scan(np.random.default_rng(0), p, COARSE) for p in (person, replace(person, effects=shifted))
    )
    np.testing.assert_allclose(moved.latents[:, 1:] - plain.latents[:, 1:], 0.5, atol=1e-5)


def test_another_grid_shows_the_same_person(anatomy, atlas):
    traits = Traits(Diagnosis.AD, 75.0, Sex.MALE)
    person = draw_person(np.random.default_rng(1), anatomy, traits, atlas)
    whole = scan(np.random.default_rng(0), person, COARSE)
    part = scan(np.random.default_rng(0), person, COARSE.crop((5, 6, 7), (10, 11, 12)))
    box = (slice(5, 15), slice(6, 17), slice(7, 19))
    for name in ("fractions", "latents", "parcels"):
        values = getattr(whole, name)
        values = values.reshape(*COARSE.shape, *values.shape[1:])[box]
        np.testing.assert_allclose(values.reshape(getattr(part, name).shape), getattr(part, name), atol=1e-4)


def test_vessels_darken_fluid_and_never_take_more_than_there_is(anatomy):
    person = replace(draw_person(np.random.default_rng(1), anatomy), vessels=1.4)
    seen, plain = (scan(np.random.default_rng(0), p, COARSE) for p in (person, replace(person, vessels=0.0)))
    assert seen.fractions.min() >= 0
    np.testing.assert_allclose(seen.fractions.sum(1), plain.fractions.sum(1), rtol=1e-5, atol=1e-6)
    fluid = plain.share(Tissue.CSF) > 0.5
    lost = 1 - seen.share(Tissue.CSF)[fluid] / plain.share(Tissue.CSF)[fluid]
    assert 0.1 < lost.mean() < 0.6
    assert lost.std() > 0.1
    # They only change iron in cortex, on average not at all.
    change = (seen.latents - plain.latents)[:, 1]
    assert abs(change.mean()) < 0.2 * change.std()
    assert (change[plain.fractions[:, Tissue.CORTEX] == 0] == 0).all()


def test_heads_are_short_or_long_but_no_smaller_for_it():
    heads = [np.linalg.inv(_pose(seed, None))[:3, :3] for seed in range(400)]
    lengths = np.array([np.linalg.norm(head, axis=0) for head in heads])
    ratio = np.log(lengths[:, 1] / lengths[:, 0])
    # A uniform distribution of +-9% and two axes with a standard deviation of 3.5% each.
    assert ratio.std() == pytest.approx(np.hypot(0.18 / np.sqrt(12), 0.035 * np.sqrt(2)), rel=0.1)
    assert abs(ratio.mean()) < 0.012
    assert np.mean([np.linalg.det(head) for head in heads]) == pytest.approx(0.92**3, rel=0.02)


def test_cord_leaves_the_brainstem_downwards(anatomy):
    person = upright(draw_person(np.random.default_rng(1), anatomy))
    person = replace(person, cord_mm=np.array([0.0, -40.0, -50.0]), sharpness=0.0)
    points = np.array([[0.0, -44.0, -70.0], [7.0, -44.0, -70.0], [0.0, -44.0, -120.0]])
    fractions = person.look(points)[0]
    assert fractions[[0, 2], Tissue.BRAINSTEM].min() > 0.9
    assert fractions[1, Tissue.CSF] > 0.9
