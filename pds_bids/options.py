"""The options that are a choice of several, and what there is to choose from."""

from enum import StrEnum

__all__ = [
    "DERIVATIVES",
    "METHODS",
    "NATIVE_SPACE",
    "OUTPUT_SPACES",
    "TEMPLATE_SPACE",
    "AnalysisLevel",
    "Classifier",
    "DenoiseMethod",
    "Device",
    "EchoCombination",
    "Ignore",
    "ModelSize",
    "Precision",
    "Runs",
    "SegmentScheme",
    "Synthesize",
    "TrainingData",
    "UnringingMethod",
]

TEMPLATE_SPACE = "MNI152NLin2009cAsym:res-3"
NATIVE_SPACE = "native"
# The networks run on one grid of the template; another resolution would be interpolated twice.
OUTPUT_SPACES = (TEMPLATE_SPACE, NATIVE_SPACE)
#: As in `pds_bids.methods.METHODS`, which needs torch; the first one has weights that ship with the package.
METHODS = (
    "unet",
    "gan",
    "pgan",
    "sagan",
    "psagan",
    "ddim",
    "sa-ddpm",
    "ldm",
    "dit",
    "adm",
    "pds",
    "pds-paper",
    "residual-flow",
)
# Packages whose outputs can replace steps of the preprocessing.
DERIVATIVES = ("fmriprep", "qsiprep")
#: Columns of ``participants.tsv`` that say who are relatives; `pds-bids-phantom` makes several people of one
#: head, and names it.
FAMILY_COLUMNS = ("family_id", "family", "anatomy")


class AnalysisLevel(StrEnum):
    """What is processed in one call."""

    PARTICIPANT = "participant"
    GROUP = "group"
    TRAIN = "train"


class Classifier(StrEnum):
    """How the level ``group`` tells diagnoses apart."""

    LDA = "lda"
    LOGISTIC = "logistic"
    SVM = "svm"
    FOREST = "forest"
    VOXEL_SVM = "voxel-svm"
    CNN = "cnn"

    @property
    def reads_voxels(self) -> bool:
        """Whether the features are voxels, not parcel means."""
        return self in (Classifier.VOXEL_SVM, Classifier.CNN)


class TrainingData(StrEnum):
    """What a method is trained on."""

    COHORT = "cohort"
    PHANTOM = "phantom"


class ModelSize(StrEnum):
    """How large the networks of a method are."""

    REDUCED = "reduced"
    PAPER = "paper"


class Precision(StrEnum):
    """Number format of the passes through a network in training."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Synthesize(StrEnum):
    """Which modality is to be synthesised."""

    MISSING = "missing"
    BOLD = "bold"
    DWI = "dwi"
    BOTH = "both"


class Device(StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class SegmentScheme(StrEnum):
    """How the gradient directions of a diffusion series are cut into segments."""

    BALANCED = "balanced"
    CONTIGUOUS = "contiguous"


class Runs(StrEnum):
    """What happens when a session has several runs of a modality."""

    ONE = "one"
    AVERAGE = "average"
    SEPARATE = "separate"


class EchoCombination(StrEnum):
    """What is made of the echoes of a multi-echo BOLD series."""

    T2STAR = "t2star"
    MEAN = "mean"
    ONE = "one"


class UnringingMethod(StrEnum):
    """How Gibbs ringing is removed from a diffusion series."""

    NONE = "none"
    GIBBS = "gibbs"


class Ignore(StrEnum):
    """What of a dataset is not used, or not corrected, although it is there."""

    FIELDMAPS = "fieldmaps"
    EDDY = "eddy"


class DenoiseMethod(StrEnum):
    """How noise is removed from a diffusion series before anything else."""

    NONE = "none"
    MPPCA = "mppca"
    PATCH2SELF = "patch2self"
