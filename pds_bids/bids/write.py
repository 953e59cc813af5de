"""Write files whole or not at all, so that whatever stands at a final name is complete.

Each writer fills a file beside the final one, with a name that starts with a dot, makes sure that it is on
the disk, and renames it. Two jobs that write the same file leave the whole content of one of them.
"""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from pds_bids.exceptions import DataError

__all__ = ["replacing", "write_json", "write_nifti", "write_text", "write_tsv"]

# NIfTI's "descrip" field holds this many bytes.
DESCRIP_BYTES = 80
ALIGNED_ANAT, MNI = 2, 4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a scratch name beside `path` and rename it to `path` when the block succeeds.

    Parameters
    ----------
    path : Path
        Final name; its folder is made when it is not there.

    Yields
    ------
    Path
        Name to write to, in the same folder, with the same extensions.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as scratch:
    ...     _ = scratch.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stem, dot, extension = path.name.partition(".")
    handle, name = tempfile.mkstemp(prefix=f".{stem}-", suffix=f".part{dot}{extension}", dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        # mkstemp makes files for the owner only; outputs get the permissions that the user's umask grants.
        scratch.chmod(0o666 & ~_umask())
        yield scratch
        with scratch.open("rb") as stream:
            os.fsync(stream.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; nothing is touched when it stands there already."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sidecar; NumPy numbers and paths are converted, NaN becomes null as JSON has no NaN."""
    write_text(path, json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_tsv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a BIDS table; None and NaN become ``n/a``."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    write_text(path, text.getvalue())


def write_nifti(
    path: Path,
    data: np.ndarray,
    vox2ras: np.ndarray,
    *,
    description: str = "",
    is_template_space: bool = False,
    repetition_time_s: float | None = None,
) -> None:
    """Write an image with a header of its own.

    Parameters
    ----------
    path : Path
        Final name, ``.nii`` or ``.nii.gz``.
    data : ndarray
        ``(X, Y, Z)`` or ``(X, Y, Z, N)``; floating point is stored as float32, masks and labels as the
        smallest fitting integer; without slope and intercept.
    vox2ras : ndarray
        ``(4, 4)``; becomes sform and qform.
    description : str
        Text of the header's ``descrip``; of a synthetic image it must contain ``SYNTHETIC``.
    is_template_space : bool
        Sets the code of the affines: MNI (4), or else aligned (2).
    repetition_time_s : float or None
        Spacing along the fourth axis.

    Raises
    ------
    DataError
        If the name says that the image is synthetic but `description` does not, if a value is not finite,
        or if labels do not fit into 32 bits.
    """
    if "desc-synthetic" in path.name and "SYNTHETIC" not in description:
        raise DataError(
            f"{path.name}: the description {description!r} of a synthetic image must say SYNTHETIC"
        )
    array = _storable(path, data)
    image = nib.Nifti1Image(array, vox2ras)
    code = MNI if is_template_space else ALIGNED_ANAT
    image.set_sform(vox2ras, code)
    # A sheared affine has no qform; the nearest rotation would be another grid under the same name.
    image.set_qform(vox2ras, code, strip_shears=True)
    image.header.set_xyzt_units("mm", "sec" if repetition_time_s else None)
    if repetition_time_s and array.ndim == 4:
        image.header["pixdim"][4] = repetition_time_s
    encoded = description.encode("ascii", "replace")[:DESCRIP_BYTES]
    image.header["descrip"] = encoded
    with replacing(path) as scratch:
        image.to_filename(scratch)


def _storable(path: Path, data: np.ndarray) -> np.ndarray:
    """Return `data` in the type it is stored in."""
    if data.dtype == bool:
        return data.astype(np.uint8)
    if np.issubdtype(data.dtype, np.integer):
        for kind in (np.uint8, np.int16, np.int32):
            limits = np.iinfo(kind)
            if not data.size or (data.min() >= limits.min and data.max() <= limits.max):
                return data.astype(kind)
        raise DataError(f"{path.name}: labels up to {data.max()} do not fit into 32 bits")
    if not np.isfinite(data).all():
        raise DataError(f"{path.name}: {np.count_nonzero(~np.isfinite(data))} voxels are not finite")
    return data.astype(np.float32, copy=False)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _plain(value: Any) -> Any:
    """Return `value` in types that JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return "n/a"
    return value
