"""Model cards and checksums, without torch: plans and graphs need to know which weights a bundle holds."""

import hashlib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pds_bids.exceptions import WeightsError

__all__ = [
    "BASELINES",
    "CARD",
    "FORMAT",
    "MODELS",
    "SHIPPED",
    "TRAINING",
    "WEIGHTS",
    "baselines_folder",
    "checked_weights_sha256",
    "default_model_dir",
    "read_card",
    "read_checked",
    "shipped_bundle",
]

WEIGHTS = "weights.safetensors"
BASELINES = "baselines.safetensors"
CARD = "model.json"
FORMAT = 1
#: Folders that the level train writes in an output folder, one below each for a method.
TRAINING, MODELS = "training", "models"
#: Bundles of the package: the best one, and one for slow machines and demonstrations; of which method.
SHIPPED = ("default", "small")
SHIPPED_METHOD = "unet"
PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}


def default_model_dir(method: str = "unet") -> Path:
    """Return the folder of the weights of a method that ship with the package."""
    return shipped_bundle(SHIPPED[0] if method == SHIPPED_METHOD else method)


def shipped_bundle(name: str) -> Path:
    """Return the folder of a bundle of the package, one of `SHIPPED`."""
    return Path(str(resources.files("pds_bids"))) / "data" / "models" / name


def baselines_folder(folder: Path) -> Path:
    """Return where a bundle's baselines lie: those of all bundles of the package are one file."""
    is_shipped = folder.resolve() == shipped_bundle(folder.name).resolve()
    return default_model_dir() if is_shipped else folder


def read_card(folder: Path) -> dict[str, Any]:
    """Read ``model.json`` and check that its checksums are the ones the package knows, where it knows any."""
    if not folder.is_dir() and folder.parent == default_model_dir().parent:
        raise WeightsError(
            f"method {folder.name!r}: no weights for it ship with the package; train it "
            f"(`pds-bids BIDS_DIR OUT_DIR train --method {folder.name}`) and name its folder with --model-dir"
        )
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
    if folder.resolve() == shipped_bundle(folder.name).resolve():
        known = tomllib.loads((resources.files("pds_bids") / "data" / "models.toml").read_text())
        if known.get(folder.name) != checksums:
            raise WeightsError(f"{path}: checksums differ from those of the package; install it again")
    return card


def read_checked(folder: Path, name: str, card: dict[str, Any]) -> bytes:
    """Read a file of a bundle whose checksum is that of the card.

    Parameters
    ----------
    folder : Path
        Bundle.
    name : str
        File in it.
    card : dict
        From `read_card`.

    Returns
    -------
    bytes
        The whole file.

    Raises
    ------
    WeightsError
        If it cannot be read, is pickled, or is not the file that the card describes.
    """
    path = folder / name
    expected = card["sha256"].get(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    # A pickle starts with its protocol byte, torch's format is a zip archive; safetensors have "{" at byte 8.
    if content[8:9] != b"{" and (content[:2] == b"PK" or content[:1] == b"\x80"):
        raise WeightsError(f"{path}: pickled weights can run code and are refused; store them as safetensors")
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise WeightsError(
            f"{path}: SHA-256 is {found[:12]}…, the model card says {str(expected)[:12]}…; "
            "the file is truncated or altered, fetch it again"
        )
    return content


def checked_weights_sha256(folder: Path) -> str:
    """Return the checksum of a bundle's weights after checking it.

    Raises
    ------
    WeightsError
        As `read_card` and `read_checked`.
    """
    card = read_card(folder)
    read_checked(folder, WEIGHTS, card)
    return str(card["sha256"][WEIGHTS])
