"""Model bundles: a folder with safetensors weights and a model card; nothing in it can run code."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from pds_bids.exceptions import PDSError, WeightsError
from pds_bids.imaging.grid import Grid
from pds_bids.inference.bank import Bank
from pds_bids.inference.card import (
    BASELINES,
    CARD,
    FORMAT,
    WEIGHTS,
    baselines_folder,
    read_card,
    read_checked,
)
from pds_bids.inference.prepare import Window
from pds_bids.methods import METHODS, Method
from pds_bids.modalities import CONTRASTS, Contrast

__all__ = ["Bundle", "load_bundle", "save_bundle"]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained method and what is needed to use it.

    Parameters
    ----------
    folder : Path
        Where it was loaded from.
    method : Method
        In evaluation mode, float32.
    card : dict
        ``model.json``.
    grid : Grid
        Model grid: the grid of all inputs and outputs.
    window : Window
        The part of the grid that the network sees.
    data_range : dict of Contrast to float
        Range of intensities for PSNR and SSIM, fixed by the training people.
    """

    folder: Path
    method: Method
    card: dict[str, Any]
    grid: Grid
    window: Window
    data_range: dict[Contrast, float]

    @property
    def weights_sha256(self) -> str:
        """Checksum of the weights, for sidecars."""
        return str(self.card["sha256"][WEIGHTS])

    @property
    def interval_widths(self) -> dict[str, dict[str, float]]:
        """By contrast and percent of voxels, half widths of intervals in standard deviations.

        From people that were not trained on, see `pds_bids.training.metrics.calibrate`; empty for bundles
        that do not say. ``{"bold": {"95": 2.5}}``: in 95% of the voxels, the truth lies within 2.5 standard
        deviations of the mean.
        """
        widths: dict[str, dict[str, float]] = {}
        for name, value in self.card.get("uncertainty", {}).items():
            kind, _, rest = str(name).partition("_")
            if kind == "interval":
                level, _, contrast = rest.partition("_")
                widths.setdefault(contrast, {})[level] = float(value)
        return widths

    @cached_property
    def bank(self) -> Bank:
        """Bank of simulated people for the baselines; read and checked on first use.

        Raises
        ------
        WeightsError
            If the file is missing or corrupt.
        """
        return Bank.from_tensors(_read_tensors(baselines_folder(self.folder), BASELINES, self.card))

    def people(self, contrast: Contrast) -> list[np.ndarray]:
        """Return the sources of one contrast in the bank, in the window; none for a bundle without a bank."""
        if BASELINES not in self.card.get("sha256", {}):
            return []
        bank = self.bank
        return [
            self.window.crop(bank.volume(bank.person(index, contrast, is_source=True)))
            for index in bank.people_with((contrast,), ())
        ]


def load_bundle(folder: Path, device: torch.device | str = "cpu") -> Bundle:
    """Load a model bundle after checking every checksum.

    Parameters
    ----------
    folder : Path
        Holds ``model.json`` and ``weights.safetensors``.
    device : torch.device or str
        Where the network shall run.

    Returns
    -------
    Bundle
        Ready to sample.

    Raises
    ------
    WeightsError
        If a file is missing, pickled, truncated, altered, or of another model.
    """
    card = read_card(Path(folder))
    if card.get("channels") != list(CONTRASTS):
        raise WeightsError(f"{folder}: channels {card.get('channels')}, expected {list(CONTRASTS)}")
    try:
        grid = Grid(tuple(card["grid"]["shape"]), np.array(card["grid"]["vox2ras"]))
        window = Window(tuple(card["window"]["start"]), tuple(card["window"]["shape"]))
        window.check(grid)
        method = METHODS[card["method"]].from_architecture(card["architecture"], window.shape)
        data_range = {contrast: float(card["data_range"][contrast]) for contrast in CONTRASTS}
    except (KeyError, TypeError, ValueError, PDSError) as error:
        raise WeightsError(
            f"{Path(folder) / CARD}: not a model card this version can read: {error!r}"
        ) from error
    tensors = _read_tensors(Path(folder), WEIGHTS, card)
    try:
        method.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in tensors.items()})
    except RuntimeError as error:
        raise WeightsError(f"{Path(folder) / WEIGHTS}: weights of another model: {error}") from error
    return Bundle(Path(folder), method.eval().to(device), card, grid, window, data_range)


def save_bundle(
    folder: Path,
    method: Method,
    card: dict[str, Any],
    *,
    grid: Grid,
    window: Window,
    data_range: dict[Contrast, float],
    bank: Bank | None = None,
) -> None:
    """Write a bundle; weights are stored in float16.

    Parameters
    ----------
    folder : Path
        Made when missing; files of an older bundle are replaced.
    method : Method
        Trained.
    card : dict
        Further fields of the model card, for example ``training``, ``evaluation``, ``limits``.
    grid, window, data_range
        See `Bundle`.
    bank : Bank, optional
        Raw material of the baselines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().numpy().astype(np.float16) for k, v in method.state_dict().items()}
    files = {WEIGHTS: _serialise(state)}
    if bank is not None:
        files[BASELINES] = _serialise(bank.to_tensors())
    own = {
        "format": FORMAT,
        "method": method.name,
        "architecture": method.architecture,
        "channels": list(CONTRASTS),
        "grid": {"shape": list(grid.shape), "vox2ras": grid.vox2ras.tolist()},
        "window": {"start": list(window.start), "shape": list(window.shape)},
        "data_range": {str(contrast): value for contrast, value in data_range.items()},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    # What the files say wins over what the card of another bundle said.
    full = own | card | own
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / CARD).write_text(json.dumps(full, indent=2) + "\n")


def _serialise(arrays: dict[str, np.ndarray]) -> bytes:
    # safetensors writes the memory of an array as it lies, whatever its strides.
    return safetensors_numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _read_tensors(folder: Path, name: str, card: dict[str, Any]) -> dict[str, np.ndarray]:
    """Read one safetensors file; the bytes that are checked are the bytes that are used."""
    try:
        return safetensors_numpy.load(read_checked(folder, name, card))
    except (SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{folder / name}: not a safetensors file: {error}") from error
