"""All options of a run in one frozen object; defaults live here and nowhere else."""

import dataclasses
import hashlib
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from pds_bids.devices import available_cpus, available_memory_mb
from pds_bids.exceptions import UsageError
from pds_bids.options import (
    DERIVATIVES,
    METHODS,
    OUTPUT_SPACES,
    TEMPLATE_SPACE,
    AnalysisLevel,
    Classifier,
    DenoiseMethod,
    Device,
    EchoCombination,
    Ignore,
    ModelSize,
    Precision,
    Runs,
    SegmentScheme,
    Synthesize,
    TrainingData,
    UnringingMethod,
)
from pds_bids.options_file import options_from_toml, options_to_toml

__all__ = ["RunConfig"]

# More threads than this in one process cost more in waiting than they gain.
MAX_OMP_NTHREADS = 8


def new_run_uuid() -> str:
    """Return a name for this run that sorts by time and that no other run has."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}_{uuid.uuid4()}"


# Options on which the value of a voxel depends.
IMAGE_OPTIONS = (
    "dummy_scans",
    "fd_spike_threshold",
    "n_segments",
    "segment_scheme",
    "runs",
    "combine_echoes",
    "denoise_method",
    "unringing_method",
    "ignore",
    "derivatives",
    "sloppy",
    "method",
    "model_dir",
    "random_seed",
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Options of one run, validated.

    Paths are made absolute. ``omp_nthreads`` and ``mem_mb`` are filled in from the machine when not given.

    Parameters
    ----------
    bids_dir, output_dir : Path
        Input dataset, never written to, and the derivative dataset to write.
    analysis_level : AnalysisLevel
        ``participant``, ``group`` or ``train``.
    participant_label, session_label, task_id : tuple of str
        What to process, without the ``sub-``, ``ses-`` and ``task-`` prefixes; empty for everything.
    bids_filter_file : Path or None
        JSON file of PyBIDS filters for ``bold``, ``dwi`` and ``t1w``.
    bids_database_dir : Path or None
        Where the index of the dataset is kept between runs.
    derivatives : tuple of str
        ``PACKAGE=PATH``: outputs that replace steps of the preprocessing; packages out of `DERIVATIVES`.
    skip_bids_validation : bool
        Do not run the BIDS validator.
    reports_only, boilerplate_only, dry_run : bool
        Do less than everything.
    stop_on_first_crash, write_graph, resource_monitor, clean_workdir, notrack : bool
        Behaviour of the workflow engine; `notrack` does nothing as nothing is tracked.
    work_dir : Path
        Intermediate files.
    verbose_count : int
        0 quiet, 1 steps, 2 details.
    run_uuid : str
        Name of this run; log files are kept apart by it.
    synthesize : Synthesize
        Which modality is to be written.
    output_spaces : tuple of str
        Out of `OUTPUT_SPACES`.
    dummy_scans : int or None
        Volumes to drop at the start of a BOLD series; None to detect them.
    fd_spike_threshold : float
        Framewise displacement in mm above which a volume is left out of the averages.
    n_segments : int
        How many segments the time or gradient axis is cut into.
    segment_scheme : SegmentScheme
        How gradient directions are dealt out to segments.
    runs : Runs
        Several runs of a modality in a session: use the longest one, all as one series, or each on its own.
    combine_echoes : EchoCombination
        Multi-echo BOLD: weighted by T2*, plain mean, or one echo.
    denoise_method : DenoiseMethod
        For diffusion series.
    unringing_method : UnringingMethod
        For diffusion series.
    ignore : tuple of Ignore
        What is not used although it is there.
    method : str
        Out of `METHODS`.
    model_dir : Path or None
        Model bundle; None for the one that ships with the package.
    device : Device
        Where the network runs.
    sloppy : bool
        Trade quality for speed, for tests only; outputs are marked.
    training_data : TrainingData
        What a method is trained on; all options from here to `tensorboard` are of the level ``train``.
    labels_dir : Path or None
        Label maps that simulated people are made from; None for the template alone.
    splits : Path or None
        JSON with the people of each part; None to draw them.
    model_size : ModelSize
        How large the networks are.
    max_updates : int
        Updates of all stages together.
    max_minutes : float or None
        Time that fixes the number of updates when it allows for fewer.
    batch_size, pass_size : int
        Examples per update, over all processes, and at once.
    learning_rate : float or None
        Peak; None for that of the method.
    precision : Precision
        Of the passes through the networks.
    validate_every, save_every : int
        Updates between looks at held-out people, and between checkpoints.
    weights_from : Path or None
        Model bundle to start from.
    perceptual_weights : Path or None
        Feature network of perceptual losses.
    allow_download : bool
        Fetch VGG16's weights for them.
    resume : bool
        Fail where there is no checkpoint.
    devices : int
        Processes on this machine; under torchrun and srun they decide.
    tensorboard : bool
        Log for TensorBoard as well.
    atlas : str
        Parcels of the level ``group``: ``AAL``, a name of TemplateFlow's, or a file; all options from here to
        `permutations` are of that level.
    group_column : str
        Column of ``participants.tsv`` with the diagnosis.
    covariates : tuple of str or None
        Columns that are regressed out; None for those of age, sex and site that are there.
    person_column : str
        Column that says who is the same person under several labels; empty for none.
    family_column : str
        Column that says who are relatives, who stay in one fold; empty for the first of ``family_id``,
        ``family`` and ``anatomy`` that is there and varies.
    exclude_rejected : bool
        Leave out synthetic images that a reader has rejected.
    regions : tuple of str
        How the names of the parcels begin that tell diagnoses apart; empty for all parcels.
    classifiers : tuple of Classifier
        How diagnoses are told apart; empty for no diagnosis.
    n_folds : int
        Of the cross-validation over people.
    permutations : int
        Orders of permuted labels.
    random_seed : int
        Master seed; every draw derives its own from it by name.
    nprocs : int
        CPUs for the whole run.
    omp_nthreads : int or None
        Threads per process.
    mem_mb : int or None
        Memory for the whole run.
    use_plugin : Path or None
        YAML file with Nipype's ``plugin`` and ``plugin_args``.

    Raises
    ------
    UsageError
        If options are out of range or contradict each other.

    Examples
    --------
    >>> config = RunConfig(bids_dir=Path("/data"), output_dir=Path("/out"), n_segments=4)
    >>> RunConfig.from_toml(config.to_toml()) == config
    True
    """

    bids_dir: Path
    output_dir: Path
    analysis_level: AnalysisLevel = AnalysisLevel.PARTICIPANT
    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    task_id: tuple[str, ...] = ()
    bids_filter_file: Path | None = None
    bids_database_dir: Path | None = None
    derivatives: tuple[str, ...] = ()
    skip_bids_validation: bool = False
    reports_only: bool = False
    boilerplate_only: bool = False
    dry_run: bool = False
    stop_on_first_crash: bool = False
    write_graph: bool = False
    resource_monitor: bool = False
    notrack: bool = False
    work_dir: Path = Path("work")
    clean_workdir: bool = False
    verbose_count: int = 0
    run_uuid: str = field(default_factory=new_run_uuid)

    synthesize: Synthesize = Synthesize.MISSING
    output_spaces: tuple[str, ...] = OUTPUT_SPACES
    dummy_scans: int | None = None
    fd_spike_threshold: float = 0.5
    n_segments: int = 10
    segment_scheme: SegmentScheme = SegmentScheme.BALANCED
    runs: Runs = Runs.ONE
    combine_echoes: EchoCombination = EchoCombination.T2STAR
    denoise_method: DenoiseMethod = DenoiseMethod.NONE
    unringing_method: UnringingMethod = UnringingMethod.NONE
    ignore: tuple[Ignore, ...] = ()
    sloppy: bool = False

    method: str = METHODS[0]
    model_dir: Path | None = None
    device: Device = Device.AUTO

    training_data: TrainingData = TrainingData.COHORT
    labels_dir: Path | None = None
    splits: Path | None = None
    model_size: ModelSize = ModelSize.REDUCED
    max_updates: int = 4000
    max_minutes: float | None = None
    batch_size: int = 2
    pass_size: int = 2
    learning_rate: float | None = None
    precision: Precision = Precision.FP32
    validate_every: int = 300
    save_every: int = 100
    weights_from: Path | None = None
    perceptual_weights: Path | None = None
    allow_download: bool = False
    resume: bool = False
    devices: int = 1
    tensorboard: bool = False

    atlas: str = "AAL"
    group_column: str = "diagnosis"
    covariates: tuple[str, ...] | None = None
    person_column: str = ""
    family_column: str = ""
    exclude_rejected: bool = False
    regions: tuple[str, ...] = ()
    classifiers: tuple[Classifier, ...] = (
        Classifier.LDA,
        Classifier.LOGISTIC,
        Classifier.SVM,
        Classifier.FOREST,
        Classifier.VOXEL_SVM,
    )
    n_folds: int = 5
    permutations: int = 100

    random_seed: int = 0

    nprocs: int = field(default_factory=available_cpus)
    omp_nthreads: int | None = None
    mem_mb: int | None = None
    use_plugin: Path | None = None

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _coerce(name, getattr(self, name), hint))
        object.__setattr__(self, "output_spaces", _normalise_spaces(self.output_spaces))
        object.__setattr__(self, "derivatives", _normalise_derivatives(self.derivatives))
        self._check_numbers()
        self._check_folders()
        if self.method not in METHODS:
            raise UsageError(f"method {self.method!r} is not known; choose from: {', '.join(METHODS)}")
        if self.omp_nthreads is None:
            threads = min(max(self.nprocs - 1, 1), MAX_OMP_NTHREADS)
            object.__setattr__(self, "omp_nthreads", threads)
        if self.mem_mb is None:
            object.__setattr__(self, "mem_mb", available_memory_mb())

    def _check_numbers(self) -> None:
        lowest = {"n_segments": 1, "nprocs": 1, "omp_nthreads": 1, "mem_mb": 1, "dummy_scans": 0}
        lowest |= {"random_seed": 0, "verbose_count": 0, "devices": 1, "n_folds": 2, "permutations": 0}
        lowest |= dict.fromkeys(("max_updates", "batch_size", "pass_size", "validate_every", "save_every"), 1)
        for name, minimum in lowest.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise UsageError(f"{_flag(name)} is {value}; expected {minimum} or more")
        if not self.fd_spike_threshold > 0:
            raise UsageError(f"--fd-spike-threshold is {self.fd_spike_threshold}; expected mm above 0")
        for name in ("max_minutes", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{_flag(name)} is {value}; expected a number above 0")
        if self.batch_size % self.pass_size:
            raise UsageError(
                f"--batch-size {self.batch_size} is not a multiple of --pass-size {self.pass_size}"
            )

    def _check_folders(self) -> None:
        if self.output_dir == self.bids_dir:
            raise UsageError(
                f"the output folder is the input dataset, {self.bids_dir}, which is never written to; "
                "name another folder"
            )
        for name, folder in {"output": self.output_dir, "work": self.work_dir}.items():
            if folder.is_relative_to(self.bids_dir):
                raise UsageError(
                    f"the {name} folder {folder} is inside the input dataset {self.bids_dir}, which is never "
                    "written to; name a folder outside it"
                    + (" (-w/--work-dir)" if name == "work" else f", for example {self.bids_dir}-pds")
                )
        if self.output_dir.is_relative_to(self.work_dir):
            raise UsageError(
                f"the output folder {self.output_dir} is inside the work folder {self.work_dir}, which "
                "--clean-workdir deletes; name a work folder elsewhere with -w/--work-dir"
            )

    def derivatives_dirs(self) -> dict[str, Path]:
        """Return the folders of ``--derivatives`` by package."""
        pairs = (item.split("=", 1) for item in self.derivatives)
        return {package: Path(folder) for package, folder in pairs}

    def fingerprint(self) -> str:
        """Return a short hash of the options that change images.

        Equal hashes mean that finished images can be kept. The number of processes, the device, verbosity
        and folders do not enter; which series are read is a matter of the plan, not of the options.
        """
        options = {name: str(getattr(self, name)) for name in IMAGE_OPTIONS}
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        """Return the options as TOML, one table per section; options that are None are left out."""
        return options_to_toml({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @classmethod
    def from_toml(cls, text: str, **overrides: Any) -> Self:
        """Return the options written by `to_toml`, some of them replaced.

        Parameters
        ----------
        text : str
            TOML; sections and options may be missing.
        **overrides
            Fields of `RunConfig` that win over the file.

        Raises
        ------
        UsageError
            If the text is not TOML, or an option is unknown or not valid.
        """
        return cls(**{**options_from_toml(text), **overrides})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _normalise_spaces(spaces: tuple[str, ...]) -> tuple[str, ...]:
    """Check output spaces; the bare template name stands for its one grid; order does not matter."""
    allowed = ", ".join(OUTPUT_SPACES)
    bare = TEMPLATE_SPACE.split(":")[0]
    asked = {TEMPLATE_SPACE if space == bare else space for space in spaces}
    unknown = sorted(asked - set(OUTPUT_SPACES))
    if unknown:
        raise UsageError(f"output space {', '.join(unknown)} is not offered; choose from: {allowed}")
    if not asked:
        raise UsageError(f"--output-spaces is empty; choose from: {allowed}")
    return tuple(space for space in OUTPUT_SPACES if space in asked)


def _normalise_derivatives(items: tuple[str, ...]) -> tuple[str, ...]:
    """Check ``PACKAGE=PATH`` pairs and make their paths absolute."""
    folders: dict[str, Path] = {}
    for item in items:
        package, equals, folder = item.partition("=")
        if not equals or not folder or package not in DERIVATIVES:
            raise UsageError(
                f"--derivatives {item!r}: expected PACKAGE=PATH with one of the packages "
                f"{', '.join(DERIVATIVES)}, for example fmriprep=/data/derivatives/fmriprep"
            )
        if package in folders:
            raise UsageError(f"--derivatives names {package} twice; give one folder per package")
        folders[package] = Path(folder).expanduser().resolve()
        if not folders[package].is_dir():
            raise UsageError(f"--derivatives {item!r}: there is no folder {folders[package]}")
    return tuple(f"{package}={folder}" for package, folder in sorted(folders.items()))


def _coerce(name: str, value: Any, hint: Any) -> Any:
    """Convert a value from the command line or from TOML to the type of its field."""
    if get_origin(hint) is UnionType:
        if value is None:
            return None
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if hint in (bool, int) and type(value) is not hint:
        raise UsageError(f"{_flag(name)} is {value!r}; expected {hint.__name__}")
    try:
        if get_origin(hint) is tuple:
            items = (value,) if isinstance(value, str) else value
            return tuple(get_args(hint)[0](item) for item in items)
        if hint is Path:
            return Path(value).expanduser().resolve()
        return hint(value)
    except (TypeError, ValueError) as error:
        kind = get_args(hint)[0] if get_origin(hint) is tuple else hint
        expected = f"choose from: {', '.join(kind)}" if issubclass(kind, StrEnum) else f"expected {kind}"
        raise UsageError(f"{_flag(name)} is {value!r}; {expected}") from error
