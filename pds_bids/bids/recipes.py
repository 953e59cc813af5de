"""Which files of fMRIPrep and QSIPrep together replace our own preprocessing, in order of preference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pds_bids.modalities import MODALITIES, Modality

__all__ = ["DERIVED_KEYS", "NATIVE_LABELS", "RECIPES", "TEMPLATE", "Level", "Need", "Pipeline"]

TEMPLATE = "MNI152NLin2009cAsym"
# The space of the scan: fMRIPrep 20 to 23.1, 23.2 to 25, and its development version.
NATIVE_LABELS = ("scanner", "boldref", "run")
# Entities that a pipeline adds to those of the acquired series, in the order of BIDS.
DERIVED_KEYS = ("space", "res", "from", "to", "mode", "desc")
# Stands for the space of the series that was found.
SAME_SPACE = "(space of the series)"


class Pipeline(StrEnum):
    """A pipeline whose derivatives can be read."""

    FMRIPREP = "fmriprep"
    QSIPREP = "qsiprep"

    @property
    def official_name(self) -> str:
        """Name as its authors write it."""
        return {"fmriprep": "fMRIPrep", "qsiprep": "QSIPrep"}[self.value]

    @property
    def modality(self) -> Modality:
        """What it preprocesses."""
        return Modality.BOLD if self is Pipeline.FMRIPREP else Modality.DWI


class Level(StrEnum):
    """How much of the preprocessing a set of files replaces.

    ``acquired``, ``anatomical`` and ``template`` are a realigned series in one of three spaces and the
    transforms from there to the template; with ``transforms`` the raw series is read, and its head motion,
    mask and registration are theirs.
    """

    ACQUIRED = "acquired"
    ANATOMICAL = "anatomical"
    TEMPLATE = "template"
    TRANSFORMS = "transforms"

    @property
    def text(self) -> str:
        """What it is, in words."""
        return {
            "acquired": "realigned series in the space of the scan",
            "anatomical": "realigned series in the space of the T1w image",
            "template": f"realigned series in {TEMPLATE}",
            "transforms": "raw series with its head motion and transforms",
        }[self.value]


@dataclass(frozen=True)
class Need:
    """One file of a set.

    Parameters
    ----------
    role : str
        What it is for: ``series``, ``mask``, ``confounds``, ``bval``, ``bvec``, ``hmc``, ``coreg``, ``anat``.
    suffixes : tuple of str
        Accepted suffixes of its name.
    extensions : tuple of str
        Accepted ones.
    labels : Mapping
        Derived entity to the labels that are accepted; None among them stands for its absence. Derived
        entities that are not named must be absent, except ``res``, which is free.
    in_anat : bool
        Whether it belongs to the anatomy, and so perhaps to another session.
    """

    role: str
    suffixes: tuple[str, ...]
    extensions: tuple[str, ...]
    labels: Mapping[str, tuple[str | None, ...]]
    in_anat: bool = False

    def fits(self, entities: Mapping[str, str], suffix: str, extension: str, space: str | None) -> bool:
        """Tell whether a name is of this kind; `space` is that of the series that was found, if any."""
        if suffix not in self.suffixes or extension not in self.extensions:
            return False
        accepted = {key: self.accepted(key, space) for key in DERIVED_KEYS}
        return all(labels is None or entities.get(key) in labels for key, labels in accepted.items())

    def accepted(self, key: str, space: str | None) -> tuple[str | None, ...] | None:
        """Return the labels that an entity may have; None if any."""
        if key == "res":
            return None
        labels = self.labels.get(key, (None,))
        if space is None:
            return labels
        if key == "space" and space in labels:
            return (space,)
        return tuple(space if label == SAME_SPACE else label for label in labels)

    def pattern(self, entities: Mapping[str, str], modality: Modality, space: str | None) -> str:
        """Return the name that was looked for, below the dataset, in the notation of shells.

        Examples
        --------
        >>> need = Need("mask", ("mask",), (".nii.gz",), {"space": ("T1w",), "desc": ("brain",)})
        >>> need.pattern({"sub": "01", "task": "rest"}, Modality.BOLD, None)
        'sub-01/func/sub-01_task-rest_space-T1w[_res-*]_desc-brain_mask.nii.gz'
        """
        folder = f"sub-{entities['sub']}"
        if self.in_anat:
            name, folder = f"{folder}[_*]", f"{folder}/[ses-*/]anat"
        else:
            name = "_".join(f"{key}-{value}" for key, value in entities.items() if key not in DERIVED_KEYS)
            session = f"/ses-{entities['ses']}" if "ses" in entities else ""
            folder = f"{folder}{session}/{MODALITIES[modality].datatype}"
        for key in DERIVED_KEYS:
            if key == "res":
                is_resampled = None not in self.labels.get("space", (None,))
                name += "[_res-*]" if is_resampled else ""
                continue
            accepted = self.accepted(key, space) or ()
            text = _either(["*" if label == SAME_SPACE else label for label in accepted if label])
            name += f"[_{key}-{text}]" if text and None in accepted else f"_{key}-{text}" if text else ""
        return f"{folder}/{name}_{_either(self.suffixes)}{self.extensions[0]}"


def _either(labels: Sequence[str]) -> str:
    """Return one label, or several in braces."""
    return f"{{{'|'.join(labels)}}}" if len(labels) > 1 else "".join(labels)


_IMAGE = (".nii.gz", ".nii")
_TABLE = (".tsv",)


def _series(suffix: str, *spaces: str | None) -> Need:
    return Need("series", (suffix,), _IMAGE, {"space": spaces, "desc": ("preproc",)})


def _mask(*spaces: str | None) -> Need:
    return Need("mask", ("mask",), _IMAGE, {"space": spaces, "desc": ("brain",)})


def _transform(role: str, source: tuple[str, ...], target: tuple[str, ...], desc: str | None) -> Need:
    # ``desc-coreg`` and ``desc-hmc`` came with fMRIPrep 23.2.
    descs = (desc, None) if desc else (None,)
    labels = {"from": source, "to": target, "mode": ("image",), "desc": descs}
    extensions = (".h5", ".txt", ".mat") if role == "anat" else (".txt", ".h5", ".mat")
    return Need(role, ("xfm",), extensions, labels, in_anat=role == "anat")


# ``regressors`` until fMRIPrep 20.1; QSIPrep 0.x wrote ``_confounds.tsv``.
_CONFOUNDS = Need(
    "confounds", ("timeseries", "regressors", "confounds"), _TABLE, {"desc": ("confounds", None)}
)
_COREG = _transform("coreg", NATIVE_LABELS, ("T1w",), "coreg")
_ANAT = _transform("anat", ("T1w",), (TEMPLATE,), None)
_HMC = _transform("hmc", ("orig",), NATIVE_LABELS, "hmc")
_NATIVE_MASK = _mask(None, "run", "boldref")
_GRADIENTS = tuple(
    Need(kind, ("dwi",), (f".{kind}",), {"space": (SAME_SPACE,), "desc": ("preproc",)})
    for kind in ("bval", "bvec")
)

RECIPES: dict[Pipeline, dict[Level, tuple[Need, ...]]] = {
    Pipeline.FMRIPREP: {
        Level.ACQUIRED: (_series("bold", None, "run", "boldref"), _NATIVE_MASK, _CONFOUNDS, _COREG, _ANAT),
        Level.ANATOMICAL: (_series("bold", "T1w"), _mask("T1w"), _CONFOUNDS, _ANAT),
        Level.TEMPLATE: (_series("bold", TEMPLATE), _mask(TEMPLATE), _CONFOUNDS),
        Level.TRANSFORMS: (_NATIVE_MASK, _HMC, _COREG, _ANAT),
    },
    Pipeline.QSIPREP: {
        Level.ANATOMICAL: (
            _series("dwi", "ACPC", "T1w"),
            *_GRADIENTS,
            _mask("ACPC", "T1w"),
            _CONFOUNDS,
            _transform("anat", (SAME_SPACE,), (TEMPLATE,), None),
        ),
        Level.TEMPLATE: (_series("dwi", TEMPLATE), *_GRADIENTS, _mask(TEMPLATE), _CONFOUNDS),
    },
}
