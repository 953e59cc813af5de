"""What the baselines of Table II share: standardised images, one condition, several draws per subject."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from pds_bids.exceptions import UsageError
from pds_bids.methods.base import Batch, Condition, Method, SampleResult
from pds_bids.modalities import CONTRASTS, Direction
from pds_bids.models.unet import TEMPLATE_CHANNELS

__all__ = ["N_INPUTS", "N_KNOWN", "Baseline", "mean_over", "repeat_condition"]

#: Channels of `Baseline.inputs`: source and atlas of every contrast, template, mask.
N_INPUTS = 2 * len(CONTRASTS) + TEMPLATE_CHANNELS + 1
#: Width of `Baseline.known`: direction, contrasts that are present, whether there is a template.
N_KNOWN = len(Direction) + len(CONTRASTS) + 1
# Between people, images differ by 14 to 25% of the in-brain mean.
SCALE = 0.2
# Draws that agree do not make a voxel known exactly: 1% of the in-brain mean.
SPREAD_FLOOR = 0.01


class Baseline(Method):
    """A method that sees the source and makes images as often as asked.

    Networks see intensities minus the mean over people, divided by a fixed scale: the same for all baselines.

    Parameters
    ----------
    config : dataclass
        Sizes; holds at least ``n_samples``, the draws per subject.
    shape : tuple of int
        ``(D, H, W)`` of the window.

    Attributes
    ----------
    sizes : dict
        Named configurations: ``reduced`` trains on a CPU, ``paper`` is close to the original.
    atlas : Tensor
        ``(1, C, D, H, W)`` buffer, mean over people; 1 until training sets it.
    scale : Tensor
        ``(C,)`` buffer, what a standardised unit is worth.
    """

    sizes: ClassVar[dict[str, Any]]
    atlas: Tensor
    scale: Tensor

    def __init__(self, config: Any, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.register_buffer("calibration", torch.ones(len(CONTRASTS)))
        self.register_buffer("atlas", torch.ones(1, len(CONTRASTS), *shape))
        self.register_buffer("scale", torch.full((len(CONTRASTS),), SCALE))

    @classmethod
    def from_architecture(cls, architecture: dict[str, Any], shape: tuple[int, int, int]) -> Self:
        """Build the untrained method."""
        return cls(_from_json(type(cls.sizes["reduced"]), architecture), shape)

    @classmethod
    def of_size(cls, size: str, shape: tuple[int, int, int]) -> Self:
        """Build the untrained method from a named configuration.

        Raises
        ------
        UsageError
            If there is no such size.
        """
        if size not in cls.sizes:
            raise UsageError(f"method {cls.name!r} has no size {size!r}; choose from {', '.join(cls.sizes)}")
        return cls(cls.sizes[size], shape)

    @property
    def architecture(self) -> dict[str, Any]:
        """Fields of the configuration, lists for tuples."""
        return _as_json(asdict(self.config))

    def set_statistics(self, atlas: Tensor, prior: Tensor) -> None:
        """Keep the mean person; local regressions are no part of these methods."""
        del prior
        self.atlas.copy_(atlas)

    @torch.no_grad()
    def sample(self, condition: Condition, generators: Sequence[torch.Generator]) -> SampleResult:
        """Return mean and calibrated spread over ``config.n_samples`` draws."""
        was_training = self.training
        # In training mode, spectral norms change at every pass.
        self.eval()
        try:
            draws = torch.stack([self.draw(condition, generators) for _ in range(self.config.n_samples)])
        finally:
            self.train(was_training)
        images = self.restore(draws, condition)
        spread = images.std(0, correction=1) if len(images) > 1 else torch.zeros_like(images[0])
        std = self.calibration.view(-1, 1, 1, 1) * torch.sqrt(spread.square() + SPREAD_FLOOR**2)
        return SampleResult(images.mean(0), std * condition.mask)

    @abstractmethod
    def draw(self, condition: Condition, generators: Sequence[torch.Generator]) -> Tensor:
        """Return one standardised ``(B, C, D, H, W)`` image per subject."""

    def inputs(self, condition: Condition) -> Tensor:
        """Return ``(B, N_INPUTS, D, H, W)``: what the networks see of the subject."""
        source = (condition.source - self.atlas) / self._scale
        source = source * condition.present[..., None, None, None] * condition.mask
        atlas = self.atlas.expand_as(source) * condition.mask
        return torch.cat([source, atlas, condition.template, condition.mask], 1)

    def known(self, condition: Condition) -> Tensor:
        """Return ``(B, N_KNOWN)``: direction (one-hot), what is present, whether there is a template."""
        direction = functional.one_hot(condition.direction, len(Direction)).to(condition.source)
        has_template = condition.template.flatten(1).any(1, keepdim=True).to(condition.source)
        return torch.cat([direction, condition.present, has_template], 1)

    def support(self, condition: Condition) -> Tensor:
        """Return ``(B, C, D, H, W)``: 1 in the brain of the target contrasts, the part that is learned."""
        is_target = condition.weights > 0
        return is_target[..., None, None, None].to(condition.mask) * condition.mask

    def standardise(self, batch: Batch) -> Tensor:
        """Return the standardised truth, zero where nothing is learned."""
        return (batch.target - self.atlas) / self._scale * self.support(batch)

    def restore(self, values: Tensor, condition: Condition) -> Tensor:
        """Undo `standardise` in the brain."""
        return (values * self._scale + self.atlas) * condition.mask

    @property
    def _scale(self) -> Tensor:
        return self.scale.view(-1, 1, 1, 1)


def repeat_condition(condition: Condition, n: int) -> Condition:
    """Return a condition of ``n B`` subjects, all of them `n` times: draws in one call are faster."""
    names = [item.name for item in fields(Condition)]
    values = {name: getattr(condition, name) for name in names}
    return Condition(**{name: value.repeat(n, *[1] * (value.ndim - 1)) for name, value in values.items()})


def mean_over(values: Tensor, support: Tensor) -> Tensor:
    """Average over the support of each subject, then over subjects.

    Examples
    --------
    >>> values = torch.tensor([[1.0, 5.0], [2.0, 4.0]])
    >>> float(mean_over(values, torch.tensor([[1.0, 0.0], [1.0, 1.0]])))
    2.0
    """
    axes = tuple(range(1, values.ndim))
    return ((values * support).sum(axes) / support.sum(axes).clamp_min(1)).mean()


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _from_json(kind: Any, values: dict[str, Any]) -> Any:
    """Undo `_as_json`: the default of a field says what it is."""
    defaults = kind()
    unknown = set(values) - {item.name for item in fields(defaults)}
    if unknown:
        raise UsageError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    given = {}
    for name, value in values.items():
        default = getattr(defaults, name)
        if is_dataclass(default):
            given[name] = _from_json(type(default), value)
        else:
            given[name] = tuple(value) if isinstance(value, list) else value
    return kind(**given)
