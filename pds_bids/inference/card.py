"""Model cards: which weights a bundle holds. Read without torch, as plans and graphs need the checksum too."""

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pds_bids.exceptions import WeightsError

__all__ = ["BASELINES", "CARD", "FORMAT", "WEIGHTS", "default_model_dir", "read_card"]

WEIGHTS = "weights.safetensors"
BASELINES = "baselines.safetensors"
CARD = "model.json"
FORMAT = 1
PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}


def default_model_dir(method: str = "unet") -> Path:
    """Return the folder of the weights that ship with the package."""
    return Path(str(resources.files("pds_bids"))) / "data" / "models" / method


def read_card(folder: Path) -> dict[str, Any]:
    """Read ``model.json`` and check that its checksums are the ones the package knows, where it knows any."""
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such model folder; leave --model-dir out for the default weights")
    path = folder / CARD
    if not path.is_file():
        pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLE_SUFFIXES)
        why = f"; {', '.join(pickles)}: pickled weights can run code and are refused" if pickles else ""
        raise WeightsError(f"{folder}: no {CARD}{why}; expected a folder with {CARD} and {WEIGHTS}")
    try:
        card = json.loads(path.read_text())
        checksums = dict(card["sha256"])
        card_format = card["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a model card: {error!r}") from error
    if card_format != FORMAT:
        raise WeightsError(f"{path}: format {card_format}, this version reads {FORMAT}")
    if folder.resolve() == default_model_dir(folder.name).resolve():
        known = tomllib.loads((resources.files("pds_bids") / "data" / "models.toml").read_text())
        if known.get(folder.name) != checksums:
            raise WeightsError(f"{path}: checksums differ from those of the package; install it again")
    return card
