import dataclasses
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pds_bids import __version__
from pds_bids.cli.parser import build_parser, parse_args
from pds_bids.cli.validate import check_device
from pds_bids.config import RunConfig
from pds_bids.exceptions import DeviceError
from pds_bids.options import (
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

POSITIONAL = ["/data", "/out", "participant"]


@pytest.fixture(autouse=True)
def _no_model_variable(monkeypatch):
    monkeypatch.delenv("PDS_BIDS_MODEL_DIR", raising=False)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "file"
    path.write_text("")
    return path


def parse(*arguments) -> RunConfig:
    return parse_args([*POSITIONAL, *map(str, arguments)])


# Every spelling of every option with a value, the field that it sets, and to what.
OPTIONS = [
    ("--participant-label 01 sub-02", "participant_label", ("01", "02")),
    ("--session-label ses-1 b", "session_label", ("1", "b")),
    ("--session-id ses-1", "session_label", ("1",)),
    ("--task-id rest task-nback", "task_id", ("rest", "nback")),
    ("-t rest", "task_id", ("rest",)),
    ("--bids-filter-file FILE", "bids_filter_file", "FILE"),
    ("--bids-database-dir /db", "bids_database_dir", Path("/db")),
    ("--skip-bids-validation", "skip_bids_validation", True),
    ("--skip-bids-validator", "skip_bids_validation", True),
    ("--synthesize both", "synthesize", Synthesize.BOTH),
    ("--output-spaces native", "output_spaces", ("native",)),
    ("--n-segments 4", "n_segments", 4),
    ("--segment-scheme contiguous", "segment_scheme", SegmentScheme.CONTIGUOUS),
    ("-d qsiprep=/tmp fmriprep=/", "derivatives", ("fmriprep=/", "qsiprep=/tmp")),
    ("--derivatives fmriprep=/", "derivatives", ("fmriprep=/",)),
    ("--runs separate", "runs", Runs.SEPARATE),
    ("--combine-echoes mean", "combine_echoes", EchoCombination.MEAN),
    ("--denoise-method patch2self", "denoise_method", DenoiseMethod.PATCH2SELF),
    ("--unringing-method gibbs", "unringing_method", UnringingMethod.GIBBS),
    ("--ignore fieldmaps", "ignore", (Ignore.FIELDMAPS,)),
    ("--method unet", "method", "unet"),
    ("--model-dir FOLDER", "model_dir", "FOLDER"),
    ("--weights FOLDER", "model_dir", "FOLDER"),
    ("--random-seed 7", "random_seed", 7),
    ("--training-data phantom", "training_data", TrainingData.PHANTOM),
    ("--labels-dir FOLDER", "labels_dir", "FOLDER"),
    ("--splits FILE", "splits", "FILE"),
    ("--model-size paper", "model_size", ModelSize.PAPER),
    ("--max-updates 9", "max_updates", 9),
    ("--max-minutes 1.5", "max_minutes", 1.5),
    ("--batch-size 4", "batch_size", 4),
    ("--pass-size 1", "pass_size", 1),
    ("--learning-rate 1e-3", "learning_rate", 1e-3),
    ("--precision bf16", "precision", Precision.BF16),
    ("--validate-every 7", "validate_every", 7),
    ("--save-every 7", "save_every", 7),
    ("--weights-from FOLDER", "weights_from", "FOLDER"),
    ("--perceptual-weights FILE", "perceptual_weights", "FILE"),
    ("--allow-download", "allow_download", True),
    ("--resume", "resume", True),
    ("--devices 2", "devices", 2),
    ("--tensorboard", "tensorboard", True),
    ("--atlas Schaefer2018", "atlas", "Schaefer2018"),
    ("--group-column group", "group_column", "group"),
    ("--covariates age sex", "covariates", ("age", "sex")),
    ("--covariates", "covariates", ()),
    ("--person-column person", "person_column", "person"),
    ("--family-column twins", "family_column", "twins"),
    ("--exclude-rejected", "exclude_rejected", True),
    ("--regions Hippocampus Angular", "regions", ("Hippocampus", "Angular")),
    ("--classifiers svm cnn", "classifiers", (Classifier.SVM, Classifier.CNN)),
    ("--n-folds 4", "n_folds", 4),
    ("--permutations 9", "permutations", 9),
    ("--dummy-scans 2", "dummy_scans", 2),
    ("--fd-spike-threshold 0.3", "fd_spike_threshold", 0.3),
    ("--nprocs 3", "nprocs", 3),
    ("--nthreads 3", "nprocs", 3),
    ("--n-cpus 3", "nprocs", 3),
    ("--n-jobs 3", "nprocs", 3),
    ("--omp-nthreads 2", "omp_nthreads", 2),
    ("--mem-mb 800", "mem_mb", 800),
    ("--mem-mb 800000K", "mem_mb", 800),
    ("--mem 0.5g", "mem_mb", 500),
    ("--mem 1T", "mem_mb", 1_000_000),
    ("--device cpu", "device", Device.CPU),
    ("--use-plugin FILE", "use_plugin", "FILE"),
    ("--nipype-plugin-file FILE", "use_plugin", "FILE"),
    ("--resource-monitor", "resource_monitor", True),
    ("--sloppy", "sloppy", True),
    ("--dry-run", "dry_run", True),
    ("--reports-only", "reports_only", True),
    ("--boilerplate-only", "boilerplate_only", True),
    ("--work-dir /scratch", "work_dir", Path("/scratch")),
    ("-w /scratch", "work_dir", Path("/scratch")),
    ("--clean-workdir", "clean_workdir", True),
    ("--stop-on-first-crash", "stop_on_first_crash", True),
    ("--write-graph", "write_graph", True),
    ("--notrack", "notrack", True),
    ("-v", "verbose_count", 1),
    ("-vv", "verbose_count", 2),
    ("--verbose", "verbose_count", 1),
]


@pytest.mark.parametrize(("text", "field", "value"), OPTIONS)
@pytest.mark.parametrize("separator", ["-", "_"])
def test_option(text, field, value, separator, file):
    flag, *values = text.split()
    if flag.startswith("--"):
        flag = "--" + flag[2:].replace("-", separator)
    named = {"FILE": file, "FOLDER": file.parent}
    config = parse(flag, *(named.get(item, item) for item in values))
    default = parse()
    assert getattr(config, field) == named.get(value, value)
    changed = {
        name
        for name in (option.name for option in dataclasses.fields(RunConfig))
        if getattr(config, name) != getattr(default, name)
    }
    # The number of threads follows the number of processes.
    assert changed - {field, "run_uuid", "omp_nthreads" if field == "nprocs" else field} == set()


def test_every_option_is_tested_and_has_help():
    tested = {text.split()[0] for text, _, _ in OPTIONS}
    for action in build_parser()._actions:
        assert action.help, action
        untested = set(action.option_strings) - tested - {"-h", "--help", "--version", "--config-file"}
        assert not untested


def test_every_field_can_be_set():
    destinations = {action.dest for action in build_parser()._actions}
    assert {field.name for field in dataclasses.fields(RunConfig)} - destinations == {"run_uuid"}


def test_defaults_are_those_of_the_dataclass(tmp_path):
    plain = RunConfig(bids_dir=Path("/data"), output_dir=Path("/out"), run_uuid="x")
    assert dataclasses.replace(parse(), run_uuid="x") == plain


def test_help_shows_the_defaults_of_the_dataclass(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_args(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: 10)" in text
    assert "(default: missing)" in text


def test_values_with_underscores_stay(tmp_path):
    assert parse(f"--work_dir={tmp_path}/a_b").work_dir == tmp_path / "a_b"


def test_config_file_and_command_line(tmp_path):
    saved = parse("--n-segments", 3, "--random-seed", 9, "--participant-label", "01")
    file = tmp_path / "pds-bids.toml"
    file.write_text(saved.to_toml())
    config = parse_args(["/data", "/other", "participant", "--config-file", str(file), "--random-seed", "1"])
    assert (config.n_segments, config.random_seed, config.participant_label) == (3, 1, ("01",))
    assert config.output_dir == Path("/other")
    assert config.run_uuid != saved.run_uuid


def test_model_dir_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PDS_BIDS_MODEL_DIR", str(tmp_path))
    assert parse().model_dir == tmp_path
    (tmp_path / "own").mkdir()
    assert parse("--model-dir", tmp_path / "own").model_dir == tmp_path / "own"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: bids_dir, output_dir, analysis_level"),
        (["/data", "/out"], "required: analysis_level"),
        (
            ["/data", "/out", "groups"],
            "invalid choice: 'groups' (choose from 'participant', 'group', 'train')",
        ),
        (["/data", "/data", "participant"], "is the input dataset"),
        (["/data", "/data/out", "participant"], "is inside the input dataset"),
        ([*POSITIONAL, "-w", "/data/work"], "work folder /data/work is inside the input dataset"),
        (
            [*POSITIONAL, "--output-spaces", "fsaverage"],
            "output space fsaverage is not offered; choose from: MNI",
        ),
        (
            [*POSITIONAL, "--method", "vae"],
            "argument --method: invalid choice: 'vae' (choose from 'unet', 'gan'",
        ),
        ([*POSITIONAL, "--batch-size", "3"], "--batch-size 3 is not a multiple of --pass-size 2"),
        ([*POSITIONAL, "--max-minutes", "0"], "--max-minutes is 0.0; expected a number above 0"),
        ([*POSITIONAL, "--weights-from", "/nowhere"], "--weights-from: there is no folder /nowhere"),
        ([*POSITIONAL, "--synthesize", "t1w"], "invalid choice: 't1w'"),
        ([*POSITIONAL, "--device", "tpu"], "invalid choice: 'tpu' (choose from 'auto', 'cpu', 'cuda')"),
        ([*POSITIONAL, "--n-segments", "0"], "--n-segments is 0; expected 1 or more"),
        ([*POSITIONAL, "--n-segments", "many"], "invalid int value: 'many'"),
        ([*POSITIONAL, "--mem-mb", "lots"], "'lots' is not a size"),
        ([*POSITIONAL, "--participant-label", "a/b"], "'a/b' is not a BIDS label"),
        ([*POSITIONAL, "--bids-filter-file", "/no/such"], "there is no file /no/such"),
        ([*POSITIONAL, "--config-file", "/no/such"], "there is no file /no/such"),
        ([*POSITIONAL, "--model-dir", "/no/such"], "there is no folder /no/such"),
        ([*POSITIONAL, "-d", "fmriprep=/no/such"], "there is no folder /no/such"),
        ([*POSITIONAL, "--n-seg", "3"], "unrecognized arguments: --n-seg"),
    ],
)
def test_usage_error(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_args(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_bad_config_file(tmp_path, capsys):
    (tmp_path / "x.toml").write_text("[workflow]\nmagic = 1\n")
    with pytest.raises(SystemExit) as caught:
        parse("--config-file", tmp_path / "x.toml")
    assert caught.value.code == 2
    assert "unknown option 'magic' in [workflow]" in capsys.readouterr().err


def test_more_memory_than_there_is_warns(caplog):
    parse("--mem", "900T")
    assert "more than the" in caplog.text
    caplog.clear()
    parse("--mem", "1M")
    assert not caplog.text


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_args(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == f"pds-bids {__version__}"


def children_cpu_s():
    """Return what ended child processes have computed, which a busy machine does not change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_fast_and_loads_nothing_heavy():
    code = (
        "import sys; from pds_bids.cli.parser import parse_args\n"
        "try: parse_args(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'bids', 'nipype', 'nibabel', 'numpy', 'scipy', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    before_s = children_cpu_s()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert children_cpu_s() - before_s < 1


def test_absent_gpu_fails_only_when_asked_for(driver):
    driver("No devices were found", 6)
    check_device(Device.AUTO)
    check_device(Device.CPU)
    with pytest.raises(DeviceError, match="--device cuda: no GPU is visible") as caught:
        check_device(Device.CUDA)
    assert caught.value.exit_code == 75
