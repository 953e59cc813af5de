import dataclasses
import tomllib
from pathlib import Path

import pytest

from pds_bids import config as config_module
from pds_bids.config import RunConfig
from pds_bids.exceptions import UsageError
from pds_bids.options import (
    OUTPUT_SPACES,
    DenoiseMethod,
    Device,
    EchoCombination,
    Ignore,
    Runs,
    SegmentScheme,
    Synthesize,
    UnringingMethod,
)
from pds_bids.options_file import SECTIONS

# One value other than the default for every option that has one.
OTHER = {
    "participant_label": ("01", "02"),
    "session_label": ("1",),
    "task_id": ("rest",),
    "bids_filter_file": Path("/filter.json"),
    "bids_database_dir": Path("/db"),
    "derivatives": ("fmriprep=/",),
    "skip_bids_validation": True,
    "reports_only": True,
    "boilerplate_only": True,
    "dry_run": True,
    "stop_on_first_crash": True,
    "write_graph": True,
    "resource_monitor": True,
    "notrack": True,
    "work_dir": Path("/elsewhere"),
    "clean_workdir": True,
    "verbose_count": 2,
    "run_uuid": "a-name",
    "synthesize": Synthesize.BOTH,
    "output_spaces": ("native",),
    "dummy_scans": 3,
    "fd_spike_threshold": 0.25,
    "n_segments": 7,
    "segment_scheme": SegmentScheme.CONTIGUOUS,
    "runs": Runs.AVERAGE,
    "combine_echoes": EchoCombination.MEAN,
    "denoise_method": DenoiseMethod.MPPCA,
    "unringing_method": UnringingMethod.GIBBS,
    "ignore": (Ignore.FIELDMAPS,),
    "sloppy": True,
    "method": "other",
    "model_dir": Path('/a "quoted" \\ folder'),
    "device": Device.CPU,
    "training_data": "phantom",
    "labels_dir": Path("/labels"),
    "splits": Path("/splits.json"),
    "model_size": "paper",
    "max_updates": 7,
    "max_minutes": 1.5,
    "batch_size": 6,
    "pass_size": 1,
    "learning_rate": 0.01,
    "precision": "bf16",
    "validate_every": 3,
    "save_every": 3,
    "weights_from": Path("/bundle"),
    "perceptual_weights": Path("/vgg"),
    "allow_download": True,
    "resume": True,
    "devices": 2,
    "tensorboard": True,
    "atlas": "Schaefer2018",
    "group_column": "group",
    "covariates": ("age",),
    "person_column": "person",
    "family_column": "family",
    "exclude_rejected": True,
    "regions": ("Hippocampus",),
    "classifiers": ("svm", "cnn"),
    "n_folds": 4,
    "permutations": 9,
    "random_seed": 5,
    "nprocs": 3,
    "omp_nthreads": 2,
    "mem_mb": 4000,
    "use_plugin": Path("/plugin.yml"),
}
ALL_METHODS = config_module.METHODS
# Options on which a voxel may depend, written down a second time on purpose.
CHANGES_IMAGES = {
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
}


@pytest.fixture(autouse=True)
def _two_methods(monkeypatch):
    monkeypatch.setattr(config_module, "METHODS", ("unet", "other"))


def test_methods_are_those_of_the_registry():
    """The list of the command line needs no torch; it must not drift from the one that does."""
    from pds_bids.methods import METHODS as REGISTRY

    assert tuple(REGISTRY) == ALL_METHODS


def make(**options) -> RunConfig:
    return RunConfig(**{"bids_dir": Path("/data"), "output_dir": Path("/out")} | options)


def test_every_option_has_another_value_here():
    names = {field.name for field in dataclasses.fields(RunConfig)}
    assert names - OTHER.keys() == {"bids_dir", "output_dir", "analysis_level"}


def test_every_option_stands_in_one_section():
    standing = [name for names in SECTIONS.values() for name in names]
    assert sorted(standing) == sorted(field.name for field in dataclasses.fields(RunConfig))


def test_toml_round_trip_of_every_option():
    config = make(**OTHER)
    text = config.to_toml()
    assert RunConfig.from_toml(text) == config
    sections = tomllib.loads(text)
    written = {name: value for table in sections.values() for name, value in table.items()}
    assert written["model_dir"] == '/a "quoted" \\ folder'
    assert written["participant_label"] == ["01", "02"]
    assert sections["workflow"]["n_segments"] == 7
    assert sections["seeds"] == {"random_seed": 5}
    assert sections["execution"]["bids_dir"] == "/data"


def test_toml_overrides_win():
    config = RunConfig.from_toml(make(n_segments=3, random_seed=4).to_toml(), n_segments=8)
    assert (config.n_segments, config.random_seed) == (8, 4)


@pytest.mark.parametrize("name", OTHER)
def test_fingerprint_follows_what_changes_images(name):
    base = make(run_uuid="one")
    changed = make(**{"run_uuid": "one", name: OTHER[name]})
    assert (changed.fingerprint() != base.fingerprint()) == (name in CHANGES_IMAGES)


def test_fingerprint_does_not_depend_on_the_process():
    # Written down from another process; a change invalidates the finished images of every user.
    assert make().fingerprint() == make(run_uuid="x").fingerprint()
    assert len(make().fingerprint()) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_dir": "/data"}, "the output folder is the input dataset, /data"),
        ({"output_dir": "/data/out"}, "output folder /data/out is inside the input dataset"),
        ({"output_dir": "/x/../data/out"}, "output folder /data/out is inside the input dataset"),
        ({"work_dir": "/data/work"}, "work folder /data/work is inside the input dataset"),
        ({"work_dir": "/out/..", "output_dir": "/out"}, "output folder /out is inside the work folder"),
        (
            {"output_spaces": ["MNI152Lin"]},
            "MNI152Lin is not offered; choose from: MNI152NLin2009cAsym:res-3, native",
        ),
        ({"output_spaces": ["MNI152NLin2009cAsym:res-1"]}, "res-1 is not offered"),
        ({"output_spaces": []}, "--output-spaces is empty"),
        ({"n_segments": 0}, "--n-segments is 0; expected 1 or more"),
        ({"nprocs": 0}, "--nprocs is 0"),
        ({"omp_nthreads": 0}, "--omp-nthreads is 0"),
        ({"mem_mb": 0}, "--mem-mb is 0"),
        ({"dummy_scans": -1}, "--dummy-scans is -1; expected 0 or more"),
        ({"random_seed": -1}, "--random-seed is -1"),
        ({"fd_spike_threshold": 0.0}, "--fd-spike-threshold is 0"),
        ({"fd_spike_threshold": float("nan")}, "--fd-spike-threshold is nan"),
        ({"fd_spike_threshold": "wide"}, "--fd-spike-threshold is 'wide'"),
        ({"synthesize": "everything"}, "choose from: missing, bold, dwi, both"),
        ({"device": "tpu"}, "choose from: auto, cpu, cuda"),
        ({"segment_scheme": "random"}, "choose from: balanced, contiguous"),
        ({"ignore": ["slices"]}, "choose from: fieldmaps"),
        ({"derivatives": ["afni=/"]}, "one of the packages fmriprep, qsiprep"),
        ({"derivatives": ["fmriprep"]}, "expected PACKAGE=PATH"),
        ({"derivatives": ["fmriprep=/no/such"]}, "there is no folder /no/such"),
        ({"derivatives": ["fmriprep=/", "fmriprep=/tmp"]}, "names fmriprep twice"),
        ({"method": "magic"}, "method 'magic' is not known; choose from: unet"),
        ({"analysis_level": "groups"}, "choose from: participant"),
        ({"n_segments": 2.5}, "--n-segments is 2.5; expected int"),
        ({"sloppy": "yes"}, "--sloppy is 'yes'; expected bool"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        make(**options)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[execution", "is not TOML"),
        ("n_segments = 3", "outside of a section"),
        ("[workflow]\nn_segmnets = 3", r"unknown option 'n_segmnets' in \[workflow\]"),
        ("[seeds]\nn_segments = 3", r"unknown option 'n_segments' in \[seeds\]"),
    ],
)
def test_bad_toml(text, message):
    with pytest.raises(UsageError, match=message):
        RunConfig.from_toml(text, bids_dir="/data", output_dir="/out")


def test_paths_are_absolute_and_links_are_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    config = make(bids_dir="link", output_dir="out")
    assert config.bids_dir == tmp_path.resolve() / "data"
    assert config.work_dir == tmp_path.resolve() / "work"
    with pytest.raises(UsageError, match="inside the input dataset"):
        make(bids_dir="data", output_dir="link/out")


def test_default_spaces_and_the_bare_template_name():
    assert make().output_spaces == OUTPUT_SPACES
    both = make(output_spaces=["native", "MNI152NLin2009cAsym", "MNI152NLin2009cAsym:res-3"])
    assert both.output_spaces == OUTPUT_SPACES


@pytest.mark.parametrize(("nprocs", "threads"), [(1, 1), (2, 1), (4, 3), (64, 8)])
def test_threads_per_process(nprocs, threads):
    assert make(nprocs=nprocs).omp_nthreads == threads


def test_two_runs_have_two_names():
    assert make().run_uuid != make().run_uuid


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().n_segments = 3
