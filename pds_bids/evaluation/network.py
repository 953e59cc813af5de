"""A small 3D network that tells diagnoses apart, with the interface of scikit-learn."""

from collections.abc import Iterator

import numpy as np
import torch
from monai.networks.nets import Classifier as ResidualClassifier
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from pds_bids.exceptions import GeometryError

__all__ = ["VolumeNetwork"]

CHANNELS, STRIDES = (8, 16, 32), (2, 2, 2)
BATCH = 8
HELD_OUT_SHARE = 0.2
LEARNING_RATE, WEIGHT_DECAY, NOISE = 2e-3, 1e-2, 0.1


class VolumeNetwork(ClassifierMixin, BaseEstimator):
    """Three residual stages and a linear layer (MONAI), on coarse volumes.

    The number of epochs is the one with the smallest loss on a fifth of the training people, who are held out
    for that; then the weights of that epoch are used.

    Parameters
    ----------
    mask : ndarray
        ``(X, Y, Z)`` bool: where the columns of a row lie, contrast after contrast.
    n_epochs : int
        At most.
    seed : int
        Of weights, order and noise.
    """

    def __init__(self, mask: np.ndarray | None = None, n_epochs: int = 15, seed: int = 0) -> None:
        self.mask = mask
        self.n_epochs = n_epochs
        self.seed = seed

    def fit(self, rows: np.ndarray, y: np.ndarray) -> "VolumeNetwork":
        """Train on ``(N, contrasts * voxels)`` rows."""
        self.classes_, target = np.unique(y, return_inverse=True)
        volumes, labels = self._volumes(rows), torch.from_numpy(target)
        rng = np.random.default_rng(self.seed)
        held_out = _held_out(target, rng)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed % 2**63)
            self.network_ = ResidualClassifier(
                tuple(volumes.shape[1:]), len(self.classes_), CHANNELS, STRIDES, dropout=0.2
            )
            self._train(volumes, labels, torch.from_numpy(held_out), rng)
        return self

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Return ``(N, K)`` probabilities."""
        self.network_.eval()
        with torch.no_grad():
            scores = [self.network_(part) for part in self._volumes(rows).split(BATCH)]
        return torch.softmax(torch.cat(scores), 1).numpy().astype(np.float64)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the most likely diagnosis."""
        return self.classes_[self.predict_proba(rows).argmax(1)]

    def _train(self, volumes: Tensor, labels: Tensor, held_out: Tensor, rng: np.random.Generator) -> None:
        optimiser = torch.optim.AdamW(self.network_.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        counts = torch.bincount(labels[~held_out], minlength=len(self.classes_)).clamp(min=1)
        loss_of = nn.CrossEntropyLoss(weight=counts.sum() / (len(counts) * counts))
        best, kept = float("inf"), {k: v.clone() for k, v in self.network_.state_dict().items()}
        train = torch.where(~held_out)[0].numpy()
        for _ in range(self.n_epochs):
            self.network_.train()
            for batch in _batches(train, rng):
                noisy = volumes[batch] + NOISE * torch.randn(volumes[batch].shape)
                optimiser.zero_grad()
                loss_of(self.network_(noisy), labels[batch]).backward()
                optimiser.step()
            self.network_.eval()
            with torch.no_grad():
                loss = float(loss_of(self.network_(volumes[held_out]), labels[held_out]))
            if loss < best:
                best, kept = loss, {k: v.clone() for k, v in self.network_.state_dict().items()}
        self.network_.load_state_dict(kept)

    def _volumes(self, rows: np.ndarray) -> Tensor:
        """Put rows back into volumes, ``(N, C, X, Y, Z)``."""
        if self.mask is None or rows.shape[1] % int(self.mask.sum()):
            raise GeometryError(f"network: {rows.shape[1]} columns do not fill the voxels of the mask")
        n_contrasts = rows.shape[1] // int(self.mask.sum())
        volumes = np.zeros((len(rows), n_contrasts, *self.mask.shape), np.float32)
        volumes[:, :, self.mask] = rows.reshape(len(rows), n_contrasts, -1)
        return torch.from_numpy(volumes)


def _held_out(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a fifth of each class, at least one person."""
    held_out = np.zeros(len(target), bool)
    for label in np.unique(target):
        own = rng.permutation(np.flatnonzero(target == label))
        held_out[own[: max(1, round(HELD_OUT_SHARE * len(own)))]] = len(own) > 1
    return held_out


def _batches(rows: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    order = rng.permutation(rows)
    for start in range(0, len(order), BATCH):
        # Instance norm and dropout do not mind one example alone.
        yield order[start : start + BATCH]
