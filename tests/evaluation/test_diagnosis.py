"""Planted effects are found, permuted labels are not, and nothing of the test fold reaches the training."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.metrics import f1_score, roc_auc_score

from pds_bids.evaluation.classification import area_under_curve, measure
from pds_bids.evaluation.classifiers import RegressOut, fit_nested
from pds_bids.evaluation.diagnosis import Cohort, Prediction, make_folds, predict, source_only
from pds_bids.evaluation.discriminant import ShrunkenDiscriminant, ledoit_wolf
from pds_bids.evaluation.schemes import Blocks, Imputation, Input, Origin, Scheme, default_schemes
from pds_bids.evaluation.statistics import exact_interval, mcnemar_p
from pds_bids.exceptions import DataError, LeakageError
from pds_bids.modalities import Modality
from pds_bids.options import Classifier

BOLD, DWI = Modality.BOLD, Modality.DWI
ACQUIRED, SYNTHETIC = Origin.ACQUIRED, Origin.SYNTHETIC
N, N_FEATURES = 60, 30
SCHEMES = {scheme.name: scheme for scheme in default_schemes()}


def _blocks(effect, seed=0, lacking=True):
    """Return features of three groups; synthetic ones are a linear function of the other modality."""
    rng = np.random.default_rng(seed)
    labels = np.array(["NC", "MCI", "AD"] * (N // 3))
    severity = np.array([0.0, 0.5, 1.0] * (N // 3))
    direction = rng.normal(size=N_FEATURES)
    shared = rng.normal(size=(N, N_FEATURES)) + effect * severity[:, None] * direction
    bold, dwi = (shared + 0.7 * rng.normal(size=shared.shape) for _ in range(2))
    tables = {(BOLD, ACQUIRED): bold, (DWI, ACQUIRED): dwi}
    tables |= {(BOLD, SYNTHETIC): 0.8 * dwi, (DWI, SYNTHETIC): 0.8 * bold}
    if lacking:
        for modality, part in ((BOLD, slice(0, 20)), (DWI, slice(20, 40))):
            tables[modality, ACQUIRED][part] = np.nan
            tables[modality.other, SYNTHETIC][part] = np.nan
    people = tuple(f"sub-{k:02d}" for k in range(N))
    return Blocks(people, {key: table.copy() for key, table in tables.items()}), labels


def _cohort(effect, seed=0, covariates=None, **more):
    blocks, labels = _blocks(effect, seed, **more)
    folds = make_folds(blocks.people, labels, 5, seed)
    return Cohort(blocks, labels, folds, np.zeros((N, 0)) if covariates is None else covariates)


@pytest.mark.parametrize("kind", [Classifier.LDA, Classifier.LOGISTIC, Classifier.SVM, Classifier.FOREST])
def test_a_planted_effect_is_found(kind):
    cohort = _cohort(2.0, lacking=False)
    found = predict(cohort, SCHEMES["acquired both"], kind, seed=1)
    assert len(found.people) == N
    assert exact_interval(int(found.is_right.sum()), N).low > 1 / 3


def test_permuted_labels_are_at_chance():
    cohort = _cohort(2.0, lacking=False)
    shuffled = np.random.default_rng(5).permutation(cohort.labels)
    folds = make_folds(cohort.blocks.people, shuffled, 5, 0)
    mixed = Cohort(cohort.blocks, shuffled, folds, cohort.covariates)
    found = predict(mixed, SCHEMES["acquired both"], Classifier.LOGISTIC, seed=1)
    interval = exact_interval(int(found.is_right.sum()), N)
    assert interval.low < 1 / 3 < interval.high


@pytest.mark.parametrize(
    ("name", "n_tested", "inputs"),
    [
        ("acquired bold", 40, {"acquired"}),
        ("train synthetic, test acquired bold", 40, {"acquired"}),
        ("train acquired, test synthetic dwi", 40, {"synthetic"}),
        ("hybrid acquired bold + synthetic dwi", 40, {"mixed"}),
        ("hybrid: missing modality synthetic", 60, {"acquired", "mixed"}),
        ("missing modality by mean", 60, {"acquired"}),
    ],
)
def test_who_is_tested_on_what(name, n_tested, inputs):
    found = predict(_cohort(2.0), SCHEMES[name], Classifier.LOGISTIC, seed=1)
    assert len(found.people) == n_tested
    assert set(found.inputs) == inputs
    assert found.is_right.mean() > 0.45


def test_nobody_is_trained_on_and_tested():
    # Features that name the person: only who has seen him or her can know the random label.
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat(["NC", "MCI", "AD"], 20))
    people = tuple(f"sub-{k:02d}" for k in range(60) for _ in range(4))
    rows = np.repeat(rng.normal(size=(60, 80)), 4, 0) + 0.01 * rng.normal(size=(240, 80))
    labels = np.repeat(labels, 4)
    blocks = Blocks(people, {(BOLD, ACQUIRED): rows})
    folds = make_folds(people, labels, 5, 0)
    found = predict(
        Cohort(blocks, labels, folds, np.zeros((240, 0))), SCHEMES["acquired bold"], Classifier.SVM, seed=0
    )
    assert len(found.people) == 60
    assert exact_interval(int(found.is_right.sum()), 60).low < 1 / 3
    with pytest.raises(LeakageError, match="Split by person"):
        Cohort(blocks, labels, np.arange(240) % 5, np.zeros((240, 0)))


def test_relatives_are_not_on_both_sides():
    # Twenty families of three who look alike and, by chance, have one diagnosis; nothing else is planted.
    rng = np.random.default_rng(5)
    families = tuple(f"head-{k // 3:02d}" for k in range(N))
    labels = np.repeat(rng.permutation(["NC", "MCI", "AD"] * 6 + ["NC", "AD"]), 3)
    pattern = np.repeat(rng.normal(size=(N // 3, N_FEATURES)), 3, axis=0)
    people = tuple(f"sub-{k:02d}" for k in range(N))
    rows = pattern + 0.3 * rng.normal(size=pattern.shape)
    blocks, scheme = Blocks(people, {(BOLD, ACQUIRED): rows}), SCHEMES["acquired bold"]
    none = np.zeros((N, 0))

    def accuracy(folds, families=()):
        cohort = Cohort(blocks, labels, folds, none, families=families)
        return predict(cohort, scheme, Classifier.LDA, seed=0).is_right.mean()

    apart, together = (make_folds(people, labels, 5, 0, families=kin) for kin in ((), families))
    assert all(len(set(together[3 * k : 3 * k + 3])) == 1 for k in range(N // 3))
    assert accuracy(apart) > 0.7
    assert accuracy(together, families) < 0.45
    # Folds of sites may part them: then relatives of who is tested are not trained on.
    assert accuracy(np.arange(N) % 5, families) < 0.45
    with pytest.raises(DataError, match="relatives"):
        make_folds(people, labels, 5, 0, families=["one"] * N)


def test_source_only_sees_the_sources_of_each_test_input():
    cohort = _cohort(2.0)
    singles = {m: predict(cohort, SCHEMES[f"acquired {m}"], Classifier.LOGISTIC, seed=1) for m in (BOLD, DWI)}
    hybrid = SCHEMES["hybrid acquired bold + synthetic dwi"]
    beside = source_only(hybrid, predict(cohort, hybrid, Classifier.LOGISTIC, seed=1), singles)
    alone = dict(zip(singles[BOLD].people, singles[BOLD].scores, strict=True))
    assert beside.people == singles[BOLD].people
    assert all(np.allclose(row, alone[p]) for p, row in zip(beside.people, beside.scores, strict=True))
    whole = SCHEMES["hybrid: missing modality synthetic"]
    beside = source_only(whole, predict(cohort, whole, Classifier.LOGISTIC, seed=1), singles)
    scores = dict(zip(beside.people, beside.scores, strict=True))
    diffusion = dict(zip(singles[DWI].people, singles[DWI].scores, strict=True))
    assert len(beside.people) == N
    assert scores["sub-00"] == pytest.approx(diffusion["sub-00"])
    assert scores["sub-45"] == pytest.approx((alone["sub-45"] + diffusion["sub-45"]) / 2)


def test_synthetic_features_add_nothing_to_their_source():
    cohort = _cohort(1.5)
    hybrid = SCHEMES["hybrid acquired bold + synthetic dwi"]
    found = predict(cohort, hybrid, Classifier.LOGISTIC, seed=1)
    source = predict(cohort, SCHEMES["acquired bold"], Classifier.LOGISTIC, seed=1)
    assert mcnemar_p(found.is_right, source.is_right) > 0.05


def test_covariates_are_regressed_out_on_training_people():
    rng = np.random.default_rng(0)
    ages, features = rng.normal(size=(50, 1)), rng.normal(size=(50, 3))
    rows = np.concatenate([features + 2 * ages, ages], 1)
    model = RegressOut(1).fit(rows[:30])
    slope = np.linalg.lstsq(np.c_[np.ones(30), ages[:30]], rows[:30, :3], rcond=None)[0][1]
    expected = rows[30:, :3] - (ages[30:] - ages[:30].mean()) * slope
    assert model.transform(rows[30:]) == pytest.approx(expected)
    # What is transformed does not change what was learned.
    rows[30:] += 100
    assert RegressOut(1).fit(rows[:30]).coefficients_ == pytest.approx(model.coefficients_)


def test_a_confounded_diagnosis_is_not_found_once_the_covariate_is_out():
    rng = np.random.default_rng(4)
    labels = np.array(["NC", "AD"] * 40)
    age = (labels == "AD") + 0.3 * rng.normal(size=80)
    features = rng.normal(size=(80, 10)) + 3 * age[:, None]
    people = tuple(map(str, range(80)))
    blocks = Blocks(people, {(BOLD, ACQUIRED): features})
    folds = make_folds(people, labels, 5, 0)
    scheme = SCHEMES["acquired bold"]
    plain = predict(Cohort(blocks, labels, folds, np.zeros((80, 0))), scheme, Classifier.LOGISTIC, seed=0)
    out = predict(Cohort(blocks, labels, folds, age[:, None]), scheme, Classifier.LOGISTIC, seed=0)
    assert plain.is_right.mean() > 0.85
    assert out.is_right.mean() < 0.65


def test_imputation_uses_training_people_alone():
    rows = np.random.default_rng(0).normal(size=(30, 4))
    rows[:10, 2:] = np.nan
    y = np.array(["a", "b"] * 15)
    fitted = fit_nested(Classifier.LOGISTIC, rows, y, [str(k) for k in range(30)], imputation=Imputation.MEAN)
    filled = fitted.named_steps["fill"].transform(np.full((1, 4), np.nan))
    assert filled[0] == pytest.approx(np.nanmean(rows, 0))


def test_nearest_neighbours_are_near_in_the_image_not_in_age():
    # Two kinds of people; ages are noise in years, features have a spread of a hundredth.
    rng = np.random.default_rng(0)
    kind = np.repeat([0.0, 1.0], 20)
    rows = kind[:, None] * np.ones(6) + 0.05 * rng.normal(size=(40, 6))
    ages = rng.uniform(50, 90, size=(40, 1))
    y = np.array(["a", "b"] * 20)
    table = np.concatenate([0.01 * rows, ages], 1)
    table[:5, 3:6] = table[20:25, 3:6] = np.nan
    fitted = fit_nested(
        Classifier.LDA, table, y, list(map(str, range(40))), n_covariates=1, imputation=Imputation.NEIGHBOURS
    )
    steps = list(fitted.named_steps)
    filled = fitted[: steps.index("fill") + 1].transform(table)[:, 3:6]
    # The two kinds are two standard deviations apart.
    apart = (filled[20:25] - filled[:5]) / filled.std(0)
    assert np.all(apart > 1.5)


def test_figures_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=90)
    scores = rng.dirichlet(np.ones(3), 90)
    scores[np.arange(90), truth] += 0.3
    scores /= scores.sum(1, keepdims=True)
    expected = roc_auc_score(truth, scores, multi_class="ovr", average="macro")
    assert area_under_curve(truth, scores) == pytest.approx(expected)
    names = np.array(["AD", "MCI", "NC"])
    people = tuple(map(str, range(90)))
    found = measure(Prediction(people, names[truth], scores, 70, ("acquired",) * 90, tuple(names)), seed=0)
    assert found.f1.estimate == pytest.approx(f1_score(truth, scores.argmax(1), average="macro"))
    assert found.balanced_accuracy.estimate == pytest.approx(np.mean(list(found.recall.values())))
    assert found.auc.low < found.auc.estimate < found.auc.high


def test_mcnemar_and_exact_interval():
    first = np.array([True] * 20 + [False] * 10)
    second = np.array([True] * 12 + [False] * 8 + [True] * 2 + [False] * 8)
    # 8 against 2: twice the binomial tail P(X <= 2 | 10, 1/2) = 56/1024.
    assert mcnemar_p(first, second) == pytest.approx(2 * 56 / 1024)
    interval = exact_interval(0, 20)
    assert (interval.low, interval.high) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))


def test_too_few_groups_and_people_are_told():
    blocks, labels = _blocks(1.0)
    with pytest.raises(DataError, match="two groups are needed"):
        Cohort(blocks, np.full(N, "NC"), np.arange(N) % 5, np.zeros((N, 0)))
    labels[:] = "NC"
    labels[0] = "AD"
    with pytest.raises(DataError, match="fewer than 2 people with images in AD"):
        make_folds(blocks.people, labels, 5, 0)


def test_a_network_finds_a_planted_place():
    from pds_bids.evaluation.network import VolumeNetwork

    mask = np.zeros((12, 12, 12), bool)
    mask[1:-1, 1:-1, 1:-1] = True
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(48, 2 * int(mask.sum())))
    y = np.array(["AD", "NC"] * 24)
    place = np.zeros(mask.shape)
    place[3:8, 3:8, 3:8] = 1.5
    rows[y == "AD", : int(mask.sum())] += place[mask]
    model = VolumeNetwork(mask, n_epochs=12, seed=1).fit(rows[:32], y[:32])
    assert (model.predict(rows[32:]) == y[32:]).mean() > 0.8
    again = VolumeNetwork(mask, n_epochs=12, seed=1).fit(rows[:32], y[:32])
    assert np.array_equal(again.predict_proba(rows[32:]), model.predict_proba(rows[32:]))


def test_the_network_runs_through_the_cross_validation():
    mask = np.ones((12, 12, 12), bool)
    rng = np.random.default_rng(1)
    labels = np.array(["AD", "NC"] * 12)
    rows = rng.normal(size=(24, 12**3)) + 2.0 * (labels == "AD")[:, None]
    people = tuple(map(str, range(24)))
    blocks = Blocks(people, {(BOLD, ACQUIRED): rows})
    folds = make_folds(people, labels, 2, 0)
    cohort = Cohort(blocks, labels, folds, np.zeros((24, 0)), mask)
    found = predict(cohort, SCHEMES["acquired bold"], Classifier.CNN, seed=0)
    assert found.is_right.mean() > 0.75


def test_schemes_cover_the_paper_and_its_critics():
    names = set(SCHEMES)
    assert {s.paper for s in SCHEMES.values()} >= {"S1", "S2", "S3", "S4", "S5", "S6", "S7-S9"}
    assert {"acquired bold", "acquired dwi", "missing modality by nearest neighbours"} <= names
    parts = (Input(BOLD, ACQUIRED),)
    assert not Scheme("x", parts, parts).has_synthetic


def test_the_discriminant_is_that_of_the_dense_shrunken_covariance():
    rng = np.random.default_rng(3)
    y = np.repeat(["a", "b", "c"], [7, 11, 5])
    rows = rng.normal(size=(23, 40)) @ rng.normal(size=(40, 40)) + 2.0 * (y == "b")[:, None]
    means = np.stack([rows[y == name].mean(0) for name in "abc"])
    residuals = rows - means[np.searchsorted(["a", "b", "c"], y)]
    covariance, shrinkage = sklearn_ledoit_wolf(residuals, assume_centered=True)
    assert ledoit_wolf(residuals)[0] == pytest.approx(shrinkage)
    new = rng.normal(size=(9, 40))
    weights = np.linalg.solve(covariance, means.T)
    margins = new @ weights - 0.5 * np.einsum("kf,fk->k", means, weights)
    model = ShrunkenDiscriminant().fit(rows, y)
    assert model.predict_proba(new) == pytest.approx(softmax(margins, 1))
    assert model.predict(new).tolist() == np.array(["a", "b", "c"])[margins.argmax(1)].tolist()


def test_the_discriminant_weighs_down_what_people_share_in_all_features():
    # Sixty people, a strong variation common to all features, a weak effect in a tenth of them.
    rng = np.random.default_rng(8)
    labels = np.repeat(["NC", "MCI", "AD"], 20)
    severity = np.repeat([0.0, 0.5, 1.0], 20)[:, None]
    rows = rng.normal(size=(60, 200)) + 4 * rng.normal(size=(60, 1)) * rng.normal(size=200)
    rows[:, :20] += 1.5 * severity
    people = tuple(map(str, range(60)))
    folds = make_folds(people, labels, 5, 0)
    cohort = Cohort(Blocks(people, {(BOLD, ACQUIRED): rows}), labels, folds, np.zeros((60, 0)))
    lda, logistic = (
        predict(cohort, SCHEMES["acquired bold"], kind, seed=0).is_right.mean()
        for kind in (Classifier.LDA, Classifier.LOGISTIC)
    )
    assert lda > logistic
    assert exact_interval(round(60 * lda), 60).low > 1 / 3
