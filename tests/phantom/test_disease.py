import numpy as np
import pytest

from pds_bids.imaging.grid import apply_affine
from pds_bids.phantom.demographics import Diagnosis, Sex, Traits, aging
from pds_bids.phantom.disease import EFFECT_SIZES, draw_effects, healthy_effects, no_effects
from pds_bids.phantom.parcels import NETWORKS, parcellate
from pds_bids.phantom.sampling import gather
from pds_bids.phantom.tissue import PROPERTIES, Latent, Tissue, draw_tissue

SEEDS = range(30)


@pytest.fixture(scope="module")
def atlas(atlas_template):
    return parcellate(atlas_template)


@pytest.fixture(scope="module")
def drawn(atlas):
    """Effects of many people of each group, all of the same age."""
    return {
        group: [draw_effects(seed, Traits(group, 70.0, Sex.FEMALE), atlas) for seed in SEEDS]
        for group in Diagnosis
    }


def index(atlas, name):
    return atlas.names.index(name)


@pytest.mark.parametrize("what", ["level", "amplitude"])
def test_function_has_the_planted_mean_where_it_is_planted(drawn, atlas, what):
    site, elsewhere = index(atlas, "Precuneus_L"), index(atlas, "Calcarine_L")
    values = {g: np.array([getattr(e, what) for e in people]) for g, people in drawn.items()}
    # Standard error of the mean over 30 people: 3 percent for amplitudes, 0.4 for levels.
    tolerance = 0.08 if what == "amplitude" else 0.012
    for group, mean in ((Diagnosis.NC, 0), (Diagnosis.MCI, 0.5), (Diagnosis.AD, 1)):
        assert values[group][:, site].mean() == pytest.approx(1 + mean * EFFECT_SIZES[what], abs=tolerance)
        assert values[group][:, elsewhere].mean() == pytest.approx(1, abs=tolerance)


def test_people_of_one_group_differ(drawn):
    severity = np.array([effects.severity for effects in drawn[Diagnosis.AD]])
    assert 0.1 < severity.std() < 0.3
    assert not any(effects.severity for effects in drawn[Diagnosis.NC])


def test_function_and_structure_are_coupled_within_a_group(drawn, atlas):
    # The same severity lowers amplitude and raises water.
    site = index(atlas, "Precuneus_L")
    people = drawn[Diagnosis.AD]
    where = (people[0].latents[..., Latent.WATER] - aging(70).latents[Latent.WATER]).argmax()
    water = [e.latents[..., Latent.WATER].ravel()[where] for e in people]
    assert np.corrcoef(water, [e.amplitude[site] for e in people])[0, 1] < -0.3


def test_only_default_and_limbic_networks_lose_coupling(drawn):
    means = {g: np.mean([e.coupling for e in people], 0) for g, people in drawn.items()}
    change = means[Diagnosis.AD] / np.maximum(means[Diagnosis.NC], 1e-9) - 1
    for k, network in enumerate(NETWORKS):
        if k:
            assert change[k] == pytest.approx(EFFECT_SIZES.get(f"coupling {network}", 0), abs=0.08)
    assert means[Diagnosis.NC][0] == 0


def test_water_rises_in_and_below_the_sites_only(drawn, atlas):
    effects = drawn[Diagnosis.AD][0]
    aged = aging(70).latents[Latent.WATER]

    def water(name):
        inside = apply_affine(atlas.grid.vox2ras, np.argwhere(atlas.parcels == index(atlas, name)))
        at = apply_affine(effects.grid.ras2vox, inside)
        return gather(effects.latents, at)[:, Latent.WATER].mean() - aged

    assert water("Precuneus_L") > 0.5
    assert abs(water("Calcarine_L")) < 0.2 * water("Precuneus_L")


def test_latents_of_a_full_effect_change_md_and_fa_as_the_table_says():
    # docs/phantom.md: in white matter MD + 10%, FA - 13%.
    latent = np.zeros(5)
    for which in (Latent.IRON, Latent.MYELIN, Latent.WATER):
        latent[which] = EFFECT_SIZES[which.name.lower()]
    tissue = draw_tissue()
    change = tissue.at(latent)[Tissue.WHITE] / tissue.base[Tissue.WHITE]
    assert change[PROPERTIES.index("md_um2_ms")] == pytest.approx(1.096, abs=0.01)
    assert change[PROPERTIES.index("fa")] == pytest.approx(0.866, abs=0.01)


@pytest.mark.parametrize("what", ["ventricle_mm", "hippocampus"])
def test_atrophy_is_graded(drawn, what):
    means = [np.mean([getattr(e, what) for e in drawn[g]]) for g in Diagnosis]
    assert means[0] < means[1] < means[2]
    assert all(e.atrophy.max() <= 0.25 for e in drawn[Diagnosis.NC])
    worst = [np.mean([e.atrophy.max() for e in drawn[g]]) for g in Diagnosis]
    assert worst[0] == 0 < worst[1] < worst[2] < 1.5 * EFFECT_SIZES["cortex"]
    assert all(0 <= e.hippocampus <= 0.5 and 0 <= e.cortex <= 0.25 for e in drawn[Diagnosis.AD])


def test_a_person_is_drawn_by_name(atlas):
    ill, well = (draw_effects(5, Traits(g, 70.0, Sex.MALE), atlas) for g in (Diagnosis.AD, Diagnosis.NC))
    site, elsewhere = index(atlas, "Precuneus_L"), index(atlas, "Calcarine_L")
    assert ill.level[elsewhere] == well.level[elsewhere]
    assert ill.level[site] < well.level[site]
    again = draw_effects(5, Traits(Diagnosis.AD, 70.0, Sex.MALE), atlas)
    np.testing.assert_array_equal(again.latents, ill.latents)


def test_neutral_effects_change_nothing(atlas):
    for effects in (no_effects(), healthy_effects(atlas)):
        assert not effects.latents.any()
        assert (effects.level == 1).all()
        assert (effects.amplitude == 1).all()
        assert effects.ventricle_mm == effects.hippocampus == effects.cortex == 0
        assert effects.level.shape == effects.network.shape == (len(effects.names),)
        assert effects.parcels.max() < len(effects.names)
