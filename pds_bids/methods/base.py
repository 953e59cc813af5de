"""What every method of synthesis offers: losses to train it, samples to use it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from pds_bids.exceptions import UsageError
from pds_bids.modalities import CONTRASTS, Direction

__all__ = ["Batch", "Condition", "Method", "SampleResult", "target_weights"]


@dataclass(frozen=True)
class Condition:
    """What is known about `B` subjects before synthesis.

    Intensities are in units of the in-brain mean, maps in those of `pds_bids.modalities.MAP_UNITS`.

    Parameters
    ----------
    source : Tensor
        ``(B, C, D, H, W)`` float32, channels in the order of `CONTRASTS`, zeros where absent.
    present : Tensor
        ``(B, C)`` float32, 1 for the contrasts that `source` holds.
    template : Tensor
        ``(B, 4, D, H, W)`` float32: grey matter, white matter, CSF, T1w; all zeros where withheld.
    mask : Tensor
        ``(B, 1, D, H, W)`` float32, 1 in the brain.
    direction : Tensor
        ``(B,)`` int64, `Direction.code`.
    """

    source: Tensor
    present: Tensor
    template: Tensor
    mask: Tensor
    direction: Tensor

    @property
    def weights(self) -> Tensor:
        """``(B, C)`` float32: `target_weights` of the contrasts that are to be made."""
        return target_weights(self.direction)

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on `device`."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class Batch(Condition):
    """A condition and the truth.

    Parameters
    ----------
    target : Tensor
        ``(B, C, D, H, W)`` float32, all contrasts; only those of the direction's target are learned.
    given : Tensor, optional
        ``(B, C)`` float32, 1 for the contrasts that `target` holds; by default all.
    """

    target: Tensor
    given: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.given is None:
            object.__setattr__(self, "given", torch.ones_like(self.present))

    @property
    def weights(self) -> Tensor:
        """``(B, C)`` float32: `target_weights` of the contrasts whose truth is there."""
        known = target_weights(self.direction) * self.given
        return known / known.sum(1, keepdim=True).clamp_min(1e-6)


@dataclass(frozen=True)
class SampleResult:
    """A synthetic image and how far it may be off.

    Parameters
    ----------
    mean, std : Tensor
        ``(B, C, D, H, W)`` float32, units as in `Condition`, zero outside the mask. Only the channels of
        the direction's target are meaningful.
    """

    mean: Tensor
    std: Tensor


class Method(nn.Module, ABC):
    """A way to synthesise one modality from the other, both directions in one object.

    Attributes
    ----------
    name : str
        Name on the command line and in sidecars.
    calibration : Tensor
        ``(C,)`` buffer, factor per contrast on the standard deviation.
    stages : tuple of str
        Trained one after the other, see `set_stage`.
    stage_shares : tuple of float
        Share of all updates that each stage gets; sums to 1.
    learning_rate : float
        Peak learning rate for this method unless the user says otherwise.
    rate_factors : dict of str to float
        By player: factor on the learning rate, where it is not 1.
    betas : tuple of float
        Momentum coefficients of Adam for this method.
    """

    calibration: Tensor
    name: ClassVar[str]
    stages: ClassVar[tuple[str, ...]] = ("all",)
    stage_shares: ClassVar[tuple[float, ...]] = (1.0,)
    learning_rate: ClassVar[float] = 1.5e-3
    rate_factors: ClassVar[Mapping[str, float]] = {}
    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)

    @classmethod
    @abstractmethod
    def from_architecture(cls, architecture: dict[str, Any], shape: tuple[int, int, int]) -> Self:
        """Build the untrained method for windows of `shape` from the ``architecture`` of a model card."""

    @property
    @abstractmethod
    def sampler(self) -> str:
        """How a sample is drawn, for sidecars."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Network evaluations per sample, for sidecars."""

    @property
    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """JSON-compatible sizes from which `from_architecture` builds the same method."""

    @abstractmethod
    def losses(
        self, batch: Batch, player: str | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return named scalars whose sum one player minimises over its own parameters.

        Parameters
        ----------
        batch : Batch
            Condition and truth.
        player : str, optional
            Key of `players`; by default the first one, which is the one that makes the image.
        generator : torch.Generator, optional
            On the CPU; every random draw comes from it, so that the same seed gives the same bits.

        Returns
        -------
        dict of str to Tensor
            Names differ between players, so that they fit into one row of a log.
        """

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters that each player of the present stage trains, in the order of their turns."""
        return {"model": [parameter for parameter in self.parameters() if parameter.requires_grad]}

    def set_stage(self, name: str) -> None:
        """Freeze and unfreeze what the stage `name` asks for; does nothing where there is one stage.

        Raises
        ------
        UsageError
            If the method has no such stage.
        """
        if name not in self.stages:
            raise UsageError(f"method {self.name!r} has no stage {name!r}; choose from {self.stages}")

    def set_statistics(self, atlas: Tensor, prior: Tensor) -> None:
        """Take over what is known of training people before training starts; by default nothing.

        Parameters
        ----------
        atlas : Tensor
            ``(1, C, D, H, W)`` float32 mean of each contrast over people, units as in `Condition`.
        prior : Tensor
            ``(1, 2 P, D/2, H/2, W/2)`` float32 maps of a local regression of each target on each source.
        """

    @abstractmethod
    def sample(self, condition: Condition, generators: Sequence[torch.Generator]) -> SampleResult:
        """Synthesise; draw whatever is random for the i-th subject from the i-th generator only."""


def target_weights(direction: Tensor) -> Tensor:
    """Return ``(B, C)`` float32: 1 over the number of target contrasts for each of them, 0 for the rest.

    Examples
    --------
    >>> target_weights(torch.tensor([0, 1]))
    tensor([[0.0000, 0.2500, 0.2500, 0.2500, 0.2500, 0.0000],
            [1.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000]])
    """
    table = torch.zeros(len(Direction), len(CONTRASTS))
    for item in Direction:
        table[item.code, [CONTRASTS.index(contrast) for contrast in item.targets]] = 1 / len(item.targets)
    return table.to(direction.device)[direction]
