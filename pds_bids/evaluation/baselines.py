"""The bar: what a synthetic image is compared with, from simulated people alone.

All baselines see what the model saw in training (simulated pairs) and the source of the person at hand, never
the acquired target. They are fitted when they are needed, from the bank that travels with the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingRegressor

from pds_bids.inference.bank import Bank
from pds_bids.modalities import MAP_UNITS, MODALITIES, TARGETS, Contrast, Direction

__all__ = ["Baselines", "fit_baselines"]

# Voxels per simulated person for fitting; more did not change the scores and took longer.
N_VOXELS = 4000
TREES = {"max_iter": 150, "learning_rate": 0.1, "max_leaf_nodes": 31, "min_samples_leaf": 40}
BLURS_VOXELS = (1.0, 2.5)

Images = Mapping[Contrast, np.ndarray]


@dataclass(frozen=True, eq=False)
class Baselines:
    """Fitted baselines of one direction for one set of source contrasts.

    Parameters
    ----------
    bank : Bank
        Simulated people.
    tissues : ndarray
        ``(4, X, Y, Z)`` template channels.
    sources, targets : tuple of Contrast
        What is read and what is predicted.
    cubics : dict of Contrast to ndarray
        Coefficients of `cubic_features`.
    trees : dict of Contrast to HistGradientBoostingRegressor
        Fitted on `tree_features`.
    """

    bank: Bank
    tissues: np.ndarray
    sources: tuple[Contrast, ...]
    targets: tuple[Contrast, ...]
    cubics: dict[Contrast, np.ndarray] = field(default_factory=dict)
    trees: dict[Contrast, HistGradientBoostingRegressor] = field(default_factory=dict)

    def predict(self, source: Images, mask: np.ndarray) -> dict[str, dict[Contrast, np.ndarray]]:
        """Predict the targets of one person in every way.

        Parameters
        ----------
        source : mapping of Contrast to ndarray
            ``(X, Y, Z)``, in-brain mean 1.
        mask : ndarray
            ``(X, Y, Z)`` bool, within ``bank.mask``.

        Returns
        -------
        dict of str to dict of Contrast to ndarray
            ``source-<contrast>`` (no maps), ``atlas``, ``cubic``, ``nearest``, ``trees``; zero outside of the
            mask.
        """
        atlas = {target: self._atlas(target) for target in self.targets}
        nearest = self.nearest(source, mask)
        features = tree_features(source, mask, self.bank, self.tissues, self.sources)
        rows: dict[str, dict[Contrast, np.ndarray]] = {
            f"source-{name}": {target: source[name] for target in self.targets if target not in MAP_UNITS}
            for name in self.sources
        }
        rows["atlas"] = atlas
        rows["cubic"] = {
            target: _fill(mask, cubic_features(source, mask, atlas[target], self.sources) @ coefficients)
            for target, coefficients in self.cubics.items()
        }
        rows["nearest"] = {target: self._person(nearest, target) for target in self.targets}
        rows["trees"] = {target: _fill(mask, model.predict(features)) for target, model in self.trees.items()}
        return {
            row: {name: np.where(mask, image, 0) for name, image in images.items()}
            for row, images in rows.items()
        }

    def nearest(self, source: Images, mask: np.ndarray) -> int:
        """Return which person of the bank has the source with the smallest mean square difference."""
        people = self.bank.people_with(self.sources, self.targets)
        distances = np.zeros(len(people))
        for place, index in enumerate(people):
            for name in self.sources:
                other = self._person(int(index), name, is_source=True)
                distances[place] += np.mean((other[mask] - source[name][mask]) ** 2)
        return int(people[distances.argmin()])

    def _atlas(self, contrast: Contrast) -> np.ndarray:
        return self.bank.volume(self.bank.atlas[TARGETS.index(contrast)])

    def _person(self, index: int, contrast: Contrast, *, is_source: bool = False) -> np.ndarray:
        return self.bank.volume(self.bank.person(index, contrast, is_source=is_source))


def fit_baselines(
    bank: Bank, template: np.ndarray, direction: Direction, sources: tuple[Contrast, ...] | None = None
) -> Baselines:
    """Fit the cubic and the boosted trees on the bank; takes seconds.

    Parameters
    ----------
    bank : Bank
        Simulated people.
    template : ndarray
        ``(X, Y, Z, 4)``: grey matter, white matter, cerebrospinal fluid, T1w of the template.
    direction : Direction
        What is predicted from what.
    sources : tuple of Contrast, optional
        Source contrasts that are there; default all of the direction.

    Returns
    -------
    Baselines
        Fitted; the same every time.
    """
    chosen = sources or MODALITIES[direction.source].sources
    targets = tuple(target for target in direction.targets if len(bank.people_with(chosen, (target,))))
    baselines = Baselines(bank, np.moveaxis(template, -1, 0), chosen, targets)

    def person_source(index: int) -> dict[Contrast, np.ndarray]:
        return {name: baselines._person(index, name, is_source=True) for name in chosen}

    @lru_cache
    def tree_rows(index: int) -> np.ndarray:
        features = tree_features(person_source(index), bank.mask, bank, baselines.tissues, chosen)
        return features[_picked(index, len(features))]

    for target in targets:
        atlas = baselines._atlas(target)
        people = [int(index) for index in bank.people_with(chosen, (target,))]
        cubic, truths = [], []
        for index in people:
            features = cubic_features(person_source(index), bank.mask, atlas, chosen)
            picked = _picked(index, len(features))
            cubic.append(features[picked])
            truths.append(bank.person(index, target, is_source=False)[picked])
        known = np.concatenate(truths)
        baselines.cubics[target] = np.linalg.lstsq(np.concatenate(cubic), known, rcond=None)[0]
        model = HistGradientBoostingRegressor(**TREES, early_stopping=False, random_state=0)
        baselines.trees[target] = model.fit(np.concatenate([tree_rows(index) for index in people]), known)
    return baselines


def cubic_features(
    source: Images, mask: np.ndarray, atlas: np.ndarray, names: tuple[Contrast, ...]
) -> np.ndarray:
    """Return ``(V, 2 + 3 S)``: one, the atlas mean, and three powers of every source."""
    columns = [np.ones(int(mask.sum())), atlas[mask]]
    columns += [source[name][mask] ** power for name in names for power in (1, 2, 3)]
    return np.stack(columns, 1).astype(np.float64)


def tree_features(
    source: Images, mask: np.ndarray, bank: Bank, tissues: np.ndarray, names: tuple[Contrast, ...]
) -> np.ndarray:
    """Return ``(V, F)`` float32 features: sources, their blurs and gradients, atlas, tissues, position."""
    columns = []
    for name in names:
        image = np.where(mask, source[name], 0).astype(np.float32)
        columns.append(image[mask])
        for sigma in BLURS_VOXELS:
            weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
            columns.append(ndimage.gaussian_filter(image, sigma)[mask] / weight[mask])
        columns.append(ndimage.gaussian_gradient_magnitude(image, 1.0)[mask])
    columns += [bank.volume(values)[mask] for values in bank.atlas]
    columns += [channel[mask] for channel in tissues]
    columns += list(np.argwhere(mask).T)
    return np.stack(columns, 1).astype(np.float32)


def _picked(index: int, n_voxels: int) -> np.ndarray:
    """Return random voxels of person `index`, the same ones for every table."""
    return np.random.default_rng((0, index)).permutation(n_voxels)[:N_VOXELS]


def _fill(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    full = np.zeros(mask.shape, np.float32)
    full[mask] = values
    return full
