"""Head motion of BOLD and DWI against its peers, on simulated heads whose motion is known exactly."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from peers import ToolError, estimate
from phantoms import Case, bold_case, dwi_case, load_person

# Tools of an own environment.
IN_PEERS = {"ANTs"}
# The slowest see fewer volumes still.
FEWER = {"dipy": 6}
# Shift (mm) and slopes (mm per mm) for a gradient along R, A and S: up to 3 mm at the edge of the head.
EDDY = np.array([[0.9, 0.012, -0.004, 0.008], [-0.7, 0.006, 0.018, -0.005], [1.1, -0.007, 0.006, 0.015]])
BOLD_TOOLS = ("none", "pds-bids", "SimpleITK", "ANTs")
DWI_TOOLS = ("none", "pds-bids", "SimpleITK", "ANTs", "dipy")


def run_bold(
    out_dir: Path, peers_python: str | None, labels: Path | None, *, n_volumes: int, n_peer_volumes: int
) -> list[dict[str, Any]]:
    """Return rows for a walk of 2 mm and 2 degrees, and for the same with five spikes of 5 mm."""
    rows = []
    for seed, spikes in ((11, 0), (12, 5)):
        person = load_person(labels, out_dir / "cache", seed)
        case = bold_case(person, seed, n_volumes=n_volumes, spikes=spikes)
        reference = case.series[..., n_volumes // 2]
        name = "2 mm / 2 deg" + (f", {spikes} spikes of 5 mm" if spikes else "")
        rows += _compare("motion", name, case, reference, BOLD_TOOLS, out_dir, peers_python, n_peer_volumes)
    return rows


def run_dwi(
    out_dir: Path, peers_python: str | None, labels: Path | None, *, n_volumes: int, n_peer_volumes: int
) -> list[dict[str, Any]]:
    """Return rows for b = 1000 and b = 3000, signal-to-noise ratio 25, and b = 1000 with eddy currents."""
    rows = []
    for seed, bval, eddy in ((21, 1000.0, None), (22, 3000.0, None), (21, 1000.0, EDDY)):
        person = load_person(labels, out_dir / "cache", seed)
        n_b0 = max(1, round(n_volumes / 11))
        case = dwi_case(person, seed, bval, n_directions=n_volumes - n_b0, n_b0=n_b0, eddy=eddy)
        name = f"b = {bval:.0f}, {n_volumes} volumes" + (", eddy currents" if eddy is not None else "")
        rows += _compare(
            "dwi-motion", name, case, case.series[..., 0], DWI_TOOLS, out_dir, peers_python, n_peer_volumes
        )
    return rows


def _compare(
    step: str,
    name: str,
    case: Case,
    reference: np.ndarray,
    tools: tuple[str, ...],
    out_dir: Path,
    peers_python: str | None,
    n_peer_volumes: int,
) -> list[dict[str, Any]]:
    """Run all tools on one case; slow peers see its first volumes only, as the table says."""
    folder = out_dir / step
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "series.npy", case.series)
    rows = []
    for tool in tools:
        python = peers_python if tool in IN_PEERS else sys.executable
        if python is None:
            print(f"SKIPPED {step}: {tool} needs --peers-python", flush=True)
            continue
        n = case.series.shape[3]
        if tool not in ("none", "pds-bids"):
            n = min(n, n_peer_volumes, FEWER.get(tool, n) if n_peer_volumes < n else n)
        _write_meta(folder / "meta.npz", case, reference, n)
        try:
            found, cost = estimate(python, tool, folder, folder / "found.npy")
        except ToolError as error:
            print(f"SKIPPED {step}: {tool}: {error}", flush=True)
            continue
        errors = replace(case, ref2volume=case.ref2volume[:n]).errors_mm(found)
        row = {
            "step": step,
            "tool": tool,
            "case": name,
            "error": float(errors.mean()),
            "error_p95": float(np.percentile(errors, 95)),
            "error_same": float(errors[:n_peer_volumes].mean()),
            "unit": "mm",
            "cpu_s": cost.cpu_s,
            "wall_s": cost.wall_s,
            "peak_mb": cost.peak_mb,
            "n": n,
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def _write_meta(path: Path, case: Case, reference: np.ndarray, n_volumes: int) -> None:
    gradients = {}
    if case.bvals is not None and case.bvecs_ras is not None:
        gradients = {"bvals": case.bvals[:n_volumes], "bvecs_ras": case.bvecs_ras[:n_volumes]}
    np.savez(path, vox2ras=case.vox2ras, reference=reference, n_volumes=n_volumes, **gradients)
