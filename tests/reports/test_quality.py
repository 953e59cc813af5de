"""Reading quality files."""

import math

import pytest

from pds_bids.reports.quality import fidelity, format_value, measures, verdicts, warnings
from pds_bids.reports.verdict import GateStatus

ROWS = [
    {"target": "dwi", "predictor": "cohort mean", "psnr_db": 17.5, "ssim": 0.8},
    {"target": "dwi", "predictor": "unet", "is_model": True, "psnr_db": 17.0, "ssim": None},
    {"target": "dwi", "predictor": "source as is", "psnr_db": 12.0, "ssim": 0.9},
]
NESTED = {"dwi": {row["predictor"]: {k: row[k] for k in ("psnr_db", "ssim")} for row in ROWS}}


@pytest.mark.parametrize("entry", [ROWS, NESTED])
def test_model_first_and_beaten_by_the_best_baseline(entry):
    (table,) = fidelity({"fidelity": entry})
    assert table.target == "dwi"
    assert [row.predictor for row in table.rows] == ["unet", "cohort mean", "source as is"]
    assert table.verdict("psnr_db") == "the model is 0.50 dB below the best trivial baseline (cohort mean)"
    assert table.headlines() == [("psnr_db", table.verdict("psnr_db"))]
    # An undefined metric is no verdict, neither good nor bad.
    assert math.isnan(table.rows[0].values["ssim"])
    assert table.verdict("ssim") == ""


def test_targets_are_kept_apart():
    rows = [*ROWS, {"target": "b0", "predictor": "unet", "psnr_db": 1.0}]
    assert [table.target for table in fidelity({"fidelity": rows})] == ["dwi", "b0"]


@pytest.mark.parametrize(
    ("gate", "status"),
    [
        ({"passed": True, "stage": "deformable"}, GateStatus.PASSED),
        ({"passed": True, "stage": "rigid"}, GateStatus.PASSED),
        ({"passed": True, "stage": "affine"}, GateStatus.FALLBACK),
        ({"passed": False, "stage": "affine"}, GateStatus.FAILED),
        ({"status": "fallback"}, GateStatus.FALLBACK),
        ({"mask_dice": 0.9}, GateStatus.UNKNOWN),
    ],
)
def test_gate(gate, status):
    ((name, verdict),) = verdicts({"registration": {**gate, "reason": "why"}})
    assert (name, verdict.status, verdict.reason) == ("", status, "why")


def test_several_gates_have_names():
    content = {"registration": {"passed": True}, "registration_t1w": {"passed": False}}
    assert [name for name, _ in verdicts(content)] == ["", "t1w"]


def test_no_gate_is_no_verdict():
    assert verdicts({"fd_mean": 0.1}) == []


def test_measures_leave_nothing_out_and_nothing_twice():
    content = {
        "registration": {"passed": True, "reason": "r", "mask_dice": 0.95123},
        "warnings": ["w"],
        "fidelity": ROWS,
        "motion": {"fd_mean_mm": 0.25, "censored": [1, 2], "trace": list(range(50))},
        "nan": None,
    }
    assert measures(content) == [
        ("registration.mask_dice", "0.9512"),
        ("motion.fd_mean_mm", "0.25"),
        ("motion.censored", "1, 2"),
        ("motion.trace", "50 values"),
        ("nan", "n/a"),
    ]


def test_values_and_warnings():
    assert [format_value(v) for v in (True, float("inf"), 3, 0.123456)] == ["yes", "n/a", "3", "0.1235"]
    assert warnings({"warnings": "one"}) == ["one"]
    assert warnings({}) == []
