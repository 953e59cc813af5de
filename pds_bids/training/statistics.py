"""What is fixed from the people of the training split before training starts."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import torch as safetensors_torch
from torch import Tensor

from pds_bids.bids.write import replacing
from pds_bids.exceptions import WeightsError
from pds_bids.imaging.parcels import parcel_means
from pds_bids.inference.bank import Bank
from pds_bids.inference.familiarity import describe_source, gather_ranges
from pds_bids.inference.prepare import Window, scale_template
from pds_bids.methods import Method, PerceptualMixin
from pds_bids.modalities import CONTRASTS, SOURCES, Contrast
from pds_bids.models.microstructure import LAYERS, load_vgg16, train_projection_encoder
from pds_bids.models.objectives import effect_sizes
from pds_bids.models.perceptual import Perceptual
from pds_bids.seeds import derive_seed
from pds_bids.training.data import PairSource
from pds_bids.training.people import People
from pds_bids.training.prior import local_regression

__all__ = ["Statistics", "gather_statistics", "give_aids", "parcel_weights", "source_ranges"]

LOGGER = logging.getLogger("pds_bids.training")
# Counts voxels that hardly anybody's mask holds towards the in-brain mean of 1.
ATLAS_PRIOR = 1.0
# People whose projections an encoder learns from, and that weights of parcels come from.
ENCODER_PEOPLE = 40
# People per diagnosis: with ten in each of two groups, Cohen's f of no effect at all is about 0.2.
MIN_GROUP = 10
# Rectifier of VGG16 that the adversarial methods compare, as in their papers.
RELU2_2 = (8,)


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is fixed from training people before training starts.

    Parameters
    ----------
    atlas : ndarray
        ``(C, X, Y, Z)`` float32 mean target, averaged with its mirror image about the middle of the window.
    data_range : dict of Contrast to float
        99.9th percentile of the target in the brain, 1 where nobody has it; its other end is zero.
    bank : Bank
        For the baselines.
    prior : ndarray
        ``(2 P, D/2, H/2, W/2)``, see `local_regression`.
    """

    atlas: np.ndarray
    data_range: dict[Contrast, float]
    bank: Bank
    prior: np.ndarray

    def save(self, path: Path) -> None:
        """Write an uncompressed NumPy archive."""
        ranges = np.array([self.data_range[contrast] for contrast in CONTRASTS])
        arrays = {
            "full_atlas": self.atlas,
            "prior": self.prior,
            "data_range": ranges,
        } | self.bank.to_tensors()
        with replacing(path) as scratch:
            np.savez(scratch, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        ranges = dict(zip(CONTRASTS, arrays["data_range"].tolist(), strict=True))
        return cls(arrays["full_atlas"], ranges, Bank.from_tensors(arrays), arrays["prior"])

    def give_to(self, method: Method, window: Window) -> None:
        """Let a method start from the mean person and the local regression."""
        atlas = torch.from_numpy(np.ascontiguousarray(window.crop(self.atlas)))[None]
        method.set_statistics(atlas, torch.from_numpy(self.prior)[None])


def gather_statistics(
    pairs: PairSource, mask: np.ndarray, window: Window, indices: Sequence[int], n_bank: int
) -> Statistics:
    """Average pairs into an atlas and keep the first few as a bank.

    Parameters
    ----------
    pairs : PairSource
        Training people.
    mask : ndarray
        ``(X, Y, Z)`` bool, the template's brain.
    window : Window
        Its middle is the mirror plane.
    indices : sequence of int
        Pairs to average.
    n_bank : int
        Pairs to keep.

    Returns
    -------
    Statistics
        See there.
    """
    total, count = (np.zeros((len(CONTRASTS), *mask.shape)) for _ in range(2))
    tops: dict[Contrast, list[float]] = {contrast: [] for contrast in CONTRASTS}
    sources, targets, kept, has = [], [], [], []
    for number, index in enumerate(indices):
        pair = pairs.pair(index)
        for channel, contrast in enumerate(CONTRASTS):
            if contrast in pair.has_target:
                total[channel] += pair.target[channel] * pair.mask
                count[channel] += pair.mask
                tops[contrast].append(float(np.percentile(pair.target[channel][pair.mask], 99.9)))
        images = (pair.source, pair.target, pair.mask)
        # Half precision keeps 150 people in 800 MB.
        source, target, inside = (window.crop(image) for image in images)
        given = np.array([contrast in pair.has_target for contrast in CONTRASTS])
        kept.append((source.astype(np.float16), target.astype(np.float16), inside, given))
        if number < n_bank:
            sources.append(pair.source)
            targets.append(pair.target)
            has.append([[c in names for c in CONTRASTS] for names in (pair.has_source, pair.has_target)])
    total, count = (_add_mirror(window, image) for image in (total, count))
    atlas = ((total + ATLAS_PRIOR) / (count + ATLAS_PRIOR)).astype(np.float32)
    data_range = {c: round(float(np.mean(top)), 3) if top else 1.0 for c, top in tops.items()}
    there = np.array(has)
    bank = Bank.from_images(mask, np.stack(sources), np.stack(targets), atlas, there[:, 0], there[:, 1])
    prior = local_regression(kept, window.crop(atlas))
    return Statistics(atlas, data_range, bank, prior)


def _add_mirror(window: Window, image: np.ndarray) -> np.ndarray:
    """Add the left-right mirror image about the middle of the window."""
    result = image.copy()
    result[(..., *window.slices)] += np.flip(window.crop(image), -3)
    return result


def parcel_weights(people: People, labels: list[int]) -> Tensor | None:
    """Return how strongly parcels differ between the diagnoses of the training split.

    Groups of fewer than `MIN_GROUP` people are left out: their effect sizes are mostly chance, and would
    make the loss look at parcels drawn by lot.

    Parameters
    ----------
    people : People
        With `groups`, or without, which gives None.
    labels : list of int
        Parcels 1..P of the template's atlas; one that nobody's brain holds gets weight 0.

    Returns
    -------
    Tensor or None
        ``(C, P)`` float32, Cohen's f per contrast, mean 1 over parcels; None, for uniform weights, where
        fewer than two groups are large enough.
    """
    sizes = Counter(people.groups)
    large = {group for group, n in sizes.items() if n >= MIN_GROUP}
    if len(large) < 2:
        if sizes:
            LOGGER.info(
                "uniform weights of parcels: groups %s, at least two of %d needed", dict(sizes), MIN_GROUP
            )
        return None
    chosen = [
        (i, group) for i, group in zip(people.atlas_indices, people.groups, strict=True) if group in large
    ]
    means = []
    for index, _ in chosen:
        pair = people.train.pair(index)
        volumes = np.moveaxis(pair.target, 0, -1)
        table = parcel_means(volumes, people.template.atlas, pair.mask, labels)
        has = np.array([contrast in pair.has_target for contrast in CONTRASTS])
        means.append(np.where(has[:, None], table, np.nan))
    table = np.stack(means)  # (N, C, P)
    # A parcel outside somebody's mask gets the mean over the others; one that nobody has differs in nobody.
    is_there = np.isfinite(table)
    typical = np.where(is_there, table, 0).sum(0) / np.maximum(is_there.sum(0), 1)
    table = np.where(is_there, table, typical)
    codes = torch.from_numpy(np.unique([group for _, group in chosen], return_inverse=True)[1])
    effects = [effect_sizes(torch.from_numpy(table[:, c]), codes) for c in range(len(CONTRASTS))]
    stacked = torch.stack(effects)
    return (stacked / stacked.mean(1, keepdim=True).clamp_min(1e-9)).float()


def source_ranges(pairs: PairSource, window: Window, indices: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Measure the sources of training people, for a model that says when a source is unlike them.

    Parameters
    ----------
    pairs : PairSource
        Training people.
    window : Window
        What the network sees.
    indices : sequence of int
        Pairs to measure.

    Returns
    -------
    dict
        See `gather_ranges`.
    """
    people = []
    for index in indices:
        pair = pairs.pair(index)
        mask = window.crop(pair.mask)
        template = scale_template(window.crop(pair.template), mask)
        sources = {c: window.crop(pair.source[CONTRASTS.index(c)]) for c in SOURCES if c in pair.has_source}
        people.append({c: describe_source(image, mask, template) for c, image in sources.items()})
    return gather_ranges(people)


def give_aids(
    method: Method,
    people: People,
    window: Window,
    folder: Path,
    *,
    seed: int,
    weights: Path | None = None,
    is_download_allowed: bool = False,
    n_encoder_updates: int = 400,
) -> dict[str, str]:
    """Give a method the parcels and the feature network that its losses compare with.

    Parameters
    ----------
    method : Method
        Those without ``set_parcels`` and ``set_perceptual`` are left alone.
    people : People
        Template, and training split for weights of parcels and the encoder.
    window : Window
        What the network sees.
    folder : Path
        Keeps the encoder, for a resumed training.
    seed : int
        Of the encoder.
    weights : Path, optional
        VGG16, or an encoder of its layout.
    is_download_allowed : bool
        Whether VGG16 may be fetched.
    n_encoder_updates : int
        Updates of the encoder that is trained where there is neither.

    Returns
    -------
    dict of str to str
        What was given, for the model card.
    """
    given = {}
    # Which losses a method has is its own matter; not all of them compare with anything.
    taker: Any = method
    if hasattr(method, "set_parcels"):
        atlas = people.template.atlas
        importance = parcel_weights(people, list(range(1, int(window.crop(atlas).max()) + 1)))
        parcels = torch.from_numpy(np.ascontiguousarray(window.crop(atlas))).long()
        taker.set_parcels(parcels.expand(len(CONTRASTS), -1, -1, -1), importance)
        how = "uniform weights" if importance is None else "weights: Cohen's f between training diagnoses"
        given["parcels"] = f"{people.template.atlas_name}, {how}"
    if hasattr(method, "set_perceptual"):
        network, origin = _feature_network(
            method, people, window, folder / "encoder.safetensors", seed, weights, is_download_allowed,
            n_encoder_updates,
        )  # fmt: skip
        taker.set_perceptual(network)
        given["perceptual"] = f"{origin}, SHA-256 {network.sha256}"
    return given


def _feature_network(
    method: Method,
    people: People,
    window: Window,
    path: Path,
    seed: int,
    weights: Path | None,
    is_download_allowed: bool,
    n_updates: int,
) -> tuple[Perceptual, str]:
    layers = RELU2_2 if isinstance(method, PerceptualMixin) else LAYERS
    if weights is not None:
        return Perceptual.load(weights, layers), f"weights from {weights.name}"
    if is_download_allowed:
        network = load_vgg16(is_download_allowed=True)
        return network, "VGG16 of torchvision, ImageNet"
    if not path.exists():
        pairs = [people.train.pair(index) for index in people.atlas_indices[:ENCODER_PEOPLE]]
        volumes = np.concatenate([window.crop(pair.target * pair.mask) for pair in pairs])
        state = _encoder(torch.from_numpy(volumes), n_updates, derive_seed(seed, "encoder"))
        with replacing(path) as scratch:
            scratch.write_bytes(safetensors_torch.save(state))
        LOGGER.info("encoder of projections trained on %d people: %s", len(pairs), path)
    return Perceptual.load(path, layers), "encoder trained on projections of the training split"


def _encoder(volumes: Tensor, n_updates: int, seed: int) -> dict[str, Tensor]:
    """Train an encoder; people who are much alike take longer."""
    try:
        return train_projection_encoder(volumes, n_updates=n_updates, seed=seed)
    except WeightsError as error:
        LOGGER.info("%s; four times as long", error)
        return train_projection_encoder(volumes, n_updates=4 * n_updates, seed=seed)
