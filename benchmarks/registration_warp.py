"""Registration of simulated heads whose way to the template is known, against peers.

Virtual persons, built from the template's tissue maps, are moved, scaled and bent smoothly, then scanned as
T1w image, mean BOLD and b0, with coil shading, noise and dropout. Every tool registers it to the template, in
a process of its own, one thread. Scored: overlap of grey and of white matter after warping, and how far
points of the brain land from where they should. "truth" warps by the known map, and is the ceiling.

The peers get the brain cut out along the true mask and an image of the template in the same contrast, which
flatters them; pds-bids gets the whole T1w head, and for EPI the mask that it makes itself.

    python benchmarks/registration_warp.py OUT [--peers-python PYTHON] [--cases T1w,bold] [--tools pds-bids]
        [--seeds 0,1,2]
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from registration_peers import TOOLS
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pds_bids.imaging.grid import Grid, PointMap, apply_affine, resample
from pds_bids.imaging.intensity import n4_bias
from pds_bids.imaging.masks import dice, rough_brain_mask
from pds_bids.imaging.tissues import Template, paint_epi
from pds_bids.modalities import Contrast
from pds_bids.phantom.anatomy import ANATOMY_GRID, build_anatomies
from pds_bids.phantom.bold import bold_series
from pds_bids.phantom.contrast import BoldProtocol, DwiProtocol
from pds_bids.phantom.dwi import DWI_EPI, dwi_series
from pds_bids.phantom.epi import EpiOptions
from pds_bids.phantom.fields import random_displacement
from pds_bids.phantom.moving_head import head_lattice
from pds_bids.phantom.person import Person, Scan, scan
from pds_bids.phantom.sampling import AnatomySampler
from pds_bids.phantom.t1w import t1w_image
from pds_bids.phantom.tissue import draw_tissue
from pds_bids.template import RES02_GRID, get_template, load_template

__all__ = ["run"]

CASES = ("T1w", "bold", "b0")
WARP_SD_MM, WARP_SPACING_MM = 2.2, 32.0
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


def run(
    out_dir: Path,
    peers_python: str | None,
    *,
    cases: tuple[str, ...] = CASES,
    tools: tuple[str, ...] = tuple(TOOLS),
    seeds: tuple[int, ...] = (0,),
) -> list[dict]:
    """Run every tool on every case.

    Parameters
    ----------
    out_dir : Path
        Where phantoms, template and results are kept.
    peers_python : str or None
        Interpreter of an environment with antspyx; None: without ANTs.
    cases, tools : tuple of str
        What to run.
    seeds : tuple of int
        Of the persons.

    Returns
    -------
    list of dict
        One of every tool, case and person: ``step``, ``tool``, ``case``, ``seed``, ``dice`` (grey matter),
        ``wm_dice``, ``ceiling`` (grey matter by the known map), ``error`` (mean distance in the brain),
        ``unit`` (of it), ``cpu_s``, ``wall_s``, ``peak_mb``; ``failed`` where a tool did.
    """
    out_dir = Path(out_dir).resolve()
    out_dir.mkdir(parents=True, exist_ok=True)
    files = get_template(out_dir / "template")
    # The lattice that the app registers on.
    fine = load_template(files, RES02_GRID)
    rows = []
    for seed in seeds:
        rows += _run_person(fine, out_dir, peers_python, cases, tools, seed)
    return rows


def _run_person(
    fine: Template,
    out_dir: Path,
    peers_python: str | None,
    cases: tuple[str, ...],
    tools: tuple[str, ...],
    seed: int,
) -> list[dict]:
    """Run every tool on every case of one person."""
    person = _person(fine, out_dir, seed)
    rows = []
    for kind in cases:
        case, seen = _case(kind, person, fine, seed)
        np.savez(out_dir / f"{kind}.npz", **case)
        truth = _truth(person, fine)
        score = _Score(fine, seen, truth)
        ceiling = score(truth)
        rows.append(_row("truth", kind, ceiling, ceiling, {"cpu_s": 0.0, "wall_s": 0.0, "peak_mb": 0.0}))
        for tool in tools:
            python = peers_python if tool.startswith("ANTs") else sys.executable
            if python is None:
                continue
            result = out_dir / f"{kind}_{list(TOOLS).index(tool)}.npy"
            cost = _measure(python, tool, out_dir / f"{kind}.npz", result)
            scores = score(np.load(result)) if "failed" not in cost else dict.fromkeys(ceiling, float("nan"))
            rows.append(_row(tool, kind, scores, ceiling, cost))
            print(markdown(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    return [row | {"seed": seed} for row in rows]


def means(rows: list[dict]) -> list[dict]:
    """Average over persons; a tool that failed once stays failed."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["tool"]), []).append(row)
    figures = ("dice", "wm_dice", "ceiling", "error", "cpu_s", "wall_s", "peak_mb")
    return [
        {"failed": "; ".join(r["failed"] for r in group if "failed" in r)}
        | group[0]
        | {key: float(np.mean([r[key] for r in group])) for key in figures}
        for group in groups.values()
    ]


def _row(tool: str, kind: str, scores: dict, ceiling: dict, cost: dict) -> dict:
    return {
        "step": "registration to the template", "tool": tool, "case": kind, **scores,
        "ceiling": ceiling["dice"], "unit": "mm", **cost,
    }  # fmt: skip


def _measure(python: str, tool: str, case: Path, result: Path) -> dict:
    """Run one tool and return what it cost, or the last line of its complaint."""
    environment = os.environ | dict.fromkeys(_ONE_THREAD, "1") | {"OMP_WAIT_POLICY": "PASSIVE"}
    command = [python, str(Path(__file__).with_name("registration_peers.py")), tool, str(case), str(result)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": line, "cpu_s": float("nan"), "wall_s": float("nan"), "peak_mb": float("nan")}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _person(template: Template, cache: Path, seed: int) -> Person:
    """Build a person from the template's tissues: another pose, size and shape."""
    anatomy = build_anatomies(None, cache / "anatomy", template)[0]
    rng = np.random.default_rng(seed)
    corner = apply_affine(ANATOMY_GRID.vox2ras, np.array(ANATOMY_GRID.shape) - 1.0)
    sampler = AnatomySampler(anatomy, ANATOMY_GRID.vox2ras[:3, 3], corner)
    scanner2template = np.eye(4)
    turn = Rotation.from_euler("xyz", [-8, 4, -6], degrees=True).as_matrix()
    scanner2template[:3, :3] = turn @ np.diag([1.06, 0.95, 1.03])
    scanner2template[:3, 3] = (4, -9, 7)
    coarse = Grid((52, 61, 52), np.array([[4.0, 0, 0, -100], [0, 4, 0, -136], [0, 0, 4, -82], [0, 0, 0, 1]]))
    warp = random_displacement(rng, coarse.shape, coarse.zooms, sd_mm=WARP_SD_MM, spacing_mm=WARP_SPACING_MM)
    return Person(sampler, draw_tissue(rng), scanner2template, np.ascontiguousarray(warp), coarse)


def _case(kind: str, person: Person, fine: Template, seed: int) -> tuple[dict[str, np.ndarray], Scan]:
    """Scan the person and lay out what the tools read."""
    rng = np.random.default_rng(seed + 1)
    zooms = (1.5, 1.5, 1.5) if kind == "T1w" else (3.0, 3.0, 3.0)
    extent = (186.0, 225.0, 189.0) if kind == "T1w" else (192.0, 210.0, 150.0)
    shape = [round(e / z) for e, z in zip(extent, zooms, strict=True)]
    vox2ras = np.diag([*zooms, 1.0])
    vox2ras[:3, :3] = Rotation.from_euler("xyz", [5, -3, 2], degrees=True).as_matrix() @ vox2ras[:3, :3]
    centre = apply_affine(
        np.linalg.inv(person.scanner2template), np.array([0.0, -18, 2 if kind == "T1w" else 8])
    )
    vox2ras[:3, 3] = centre - vox2ras[:3, :3] @ ((np.array(shape) - 1) / 2)
    grid = Grid((shape[0], shape[1], shape[2]), vox2ras)
    seen = scan(rng, person, grid)
    if kind == "T1w":
        head = t1w_image(rng, person, seen)
    else:
        # True to shape: what a tool finds is compared with where the head is, not with where EPI shows it.
        inside = scan(np.random.default_rng(seed + 1), person, head_lattice(grid))
        if kind == "bold":
            still, epi = np.zeros((12, 6)), EpiOptions(readout_s=0)
            head = bold_series(rng, person, inside, still, BoldProtocol(), epi, grid=grid)[0][..., 2:].mean(
                -1
            )
        else:
            still, epi, none = np.zeros((4, 6)), replace(DWI_EPI, readout_s=0), np.zeros((4, 3))
            protocol = DwiProtocol()
            series, _ = dwi_series(rng, person, inside, still, np.zeros(4), none, protocol, epi, grid=grid)
            head = series.mean(-1)
    true_mask = resample(fine.mask.astype(np.float32), fine.grid.vox2ras, _native(seen), order=1) > 0.5
    flat = head / n4_bias(head, grid, true_mask)
    own_mask = true_mask if kind == "T1w" else rough_brain_mask(head, grid)
    fixed = fine.t1w * fine.mask if kind == "T1w" else paint_epi(fine, Contrast(kind))
    case = {
        "kind": np.array(kind), "fixed": fixed, "fixed_vox2ras": fine.grid.vox2ras,
        "moving": np.where(true_mask, flat, 0), "native_vox2ras": grid.vox2ras,
        "native_head": head if kind == "T1w" else head / n4_bias(head, grid, own_mask),
        "native_mask": own_mask, "template_vox2ras": fine.grid.vox2ras, "template_mask": fine.mask,
        **{f"template_{name}": getattr(fine, name) for name in ("t1w", "gm", "wm", "csf")},
    }  # fmt: skip
    return case, seen


def _native(seen: Scan) -> np.ndarray:
    """Return where in the template every voxel lies, ``(X, Y, Z, 3)`` mm."""
    return seen.template_points.reshape(*seen.grid.shape, 3)


def _truth(person: Person, fine: Template) -> np.ndarray:
    """Invert the person's map by fixed-point iteration: where the template's voxels lie in the scanner."""
    target = fine.grid.points()
    back = np.linalg.inv(person.scanner2template)
    shift = PointMap(person.warp_grid, (person.warp_grid.points() + person.warp_mm).astype(np.float32))
    place = target.copy()
    for _ in range(30):
        moved = PointMap(fine.grid, place.astype(np.float32)).then(shift).points
        place += 0.8 * (target - moved)
    return apply_affine(back, place).astype(np.float32)


class _Score:
    """Warps the person's tissue to the template and compares with the template's."""

    def __init__(self, fine: Template, seen: Scan, truth: np.ndarray) -> None:
        self.fine, self.grid, self.truth = fine, seen.grid, truth
        self.native = {
            name: resample(getattr(fine, name), fine.grid.vox2ras, _native(seen), order=1)
            for name in ("gm", "wm")
        }

    def __call__(self, points: np.ndarray) -> dict[str, float]:
        inside = resample(np.ones(self.grid.shape, np.float32), self.grid.vox2ras, self.truth, order=0) > 0
        inside &= ndimage.binary_dilation(self.fine.mask, iterations=3)
        overlap = {}
        for name, native in self.native.items():
            warped = resample(native, self.grid.vox2ras, points, order=1) > 0.5
            overlap[name] = dice(warped & inside, (getattr(self.fine, name) > 0.5) & inside)
        brain = self.fine.mask & inside
        error_mm = np.linalg.norm(points[brain] - self.truth[brain], axis=-1)
        return {"dice": overlap["gm"], "wm_dice": overlap["wm"], "error": float(error_mm.mean())}


def markdown(rows: list[dict]) -> str:
    """Lay the rows out as a table."""
    lines = [
        "| case | tool | GM Dice | WM Dice | error mm | CPU s | wall s | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['case']} | {r['tool']} | {r['dice']:.3f} | {r['wm_dice']:.3f} | {r['error']:.2f} | "
        f"{r['cpu_s']:.1f} | {r['wall_s']:.1f} | {r['peak_mb']:.0f} |{r.get('failed', '')}"
        for r in rows
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--peers-python", metavar="PYTHON", help="interpreter with antspyx")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--seeds", default="0", help="persons, for example 0,1,2; the table is their mean")
    args = parser.parse_args(argv)
    rows = run(
        args.out, args.peers_python, cases=tuple(args.cases.split(",")), tools=tuple(args.tools.split(",")),
        seeds=tuple(int(seed) for seed in args.seeds.split(",")),
    )  # fmt: skip
    print(markdown(means(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
