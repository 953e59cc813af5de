"""Whole BIDS datasets of virtual people, with the truth beside them on request."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pds_bids.exceptions import UsageError
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.phantom import bidsfiles
from pds_bids.phantom.anatomy import Anatomy, build_anatomies
from pds_bids.phantom.bold import bold_series
from pds_bids.phantom.contrast import BoldProtocol, DwiProtocol
from pds_bids.phantom.dwi import DWI_EPI, dwi_series
from pds_bids.phantom.eddy import draw_eddy
from pds_bids.phantom.epi import EpiOptions
from pds_bids.phantom.fluctuations import BoldOptions, interleaved_slice_times
from pds_bids.phantom.gradients import gradient_table
from pds_bids.phantom.head_motion import draw_motion
from pds_bids.phantom.moving_head import head_lattice
from pds_bids.phantom.person import Person, Scan, draw_person, scan
from pds_bids.phantom.t1w import t1w_image
from pds_bids.phantom.tissue import PROPERTIES, Tissue
from pds_bids.seeds import derive_seed

if TYPE_CHECKING:
    from pds_bids.template import Template

__all__ = ["CohortOptions", "missing_by_participant", "write_cohort"]

_LOGGER = logging.getLogger("pds_bids.phantom")
_BOLD = BoldProtocol(tr_s=2.0, te_ms=30.0, flip_deg=75.0)
_DWI = DwiProtocol(tr_s=6.0, te_ms=80.0, bval_s_mm2=1000.0)
# The template's point that is put at the centre of every field of view, and the field of view.
_CENTRE_MM = np.array([0.0, -18.0, 6.0])
_FOV_MM = (192.0, 192.0, 147.0)
_T1W_FOV_MM = (192.0, 228.0, 192.0)


@dataclass(frozen=True)
class CohortOptions:
    """What a cohort consists of.

    Parameters
    ----------
    participants, sessions : int
        How many; with one session the ``ses-`` level is left out.
    missing : str
        ``none``, ``bold``, ``dwi``, ``random``, or a comma list that participants take turns in.
    seed : int
        Master seed.
    bold_volumes, dwi_directions : int
        Length of the series; a b = 0 volume is added before every ten directions and at the end.
    voxel_size_mm : float
        In plane; BOLD slices are 4/3 as thick.
    with_t1w : bool
        Whether T1w images are written.
    max_motion : float
        Largest translation in mm and rotation in degrees.
    """

    participants: int = 2
    sessions: int = 1
    missing: str = "none"
    seed: int = 0
    bold_volumes: int = 40
    dwi_directions: int = 30
    voxel_size_mm: float = 3.0
    with_t1w: bool = True
    max_motion: float = 1.0

    def __post_init__(self) -> None:
        counts = {"participants": 1, "sessions": 1, "bold_volumes": 2, "dwi_directions": 6}
        for name, least in counts.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; at least {least} is needed")
        if not 1 <= self.voxel_size_mm <= 10:
            raise UsageError(f"voxel size {self.voxel_size_mm} mm; expected 1 to 10")
        missing_by_participant(self.missing, 1, 0)


def missing_by_participant(missing: str, participants: int, seed: int) -> list[str]:
    """Return what every participant misses: ``none``, ``bold`` or ``dwi``.

    Examples
    --------
    >>> missing_by_participant("dwi,bold", 3, 0)
    ['dwi', 'bold', 'dwi']
    """
    if missing == "random":
        draws = [np.random.default_rng(derive_seed(seed, "missing", i)) for i in range(participants)]
        return [str(rng.choice(["none", "bold", "dwi"])) for rng in draws]
    cycle = [item.strip() for item in missing.split(",")]
    wrong = sorted(set(cycle) - {"none", "bold", "dwi"})
    if wrong:
        raise UsageError(f"--missing {missing}: {wrong} unknown; use none, bold, dwi, random or a comma list")
    return [cycle[i % len(cycle)] for i in range(participants)]


def write_cohort(
    out_dir: Path,
    template: "Template",
    options: CohortOptions | None = None,
    *,
    cache_dir: Path,
    label_dir: Path | None = None,
    truth_dir: Path | None = None,
) -> list[str]:
    """Write a BIDS dataset of virtual people; the same options give the same bytes.

    Parameters
    ----------
    out_dir : Path
        New or empty folder.
    template : Template
        On a 2 mm grid.
    options : CohortOptions, optional
        What to write.
    cache_dir : Path
        Where anatomies are kept between calls.
    label_dir : Path, optional
        Whole-head label maps; None: all people come from the template's head.
    truth_dir : Path, optional
        Where motion, pose, warp, tissue properties and tensor maps are written.

    Returns
    -------
    list of str
        Participants, ``sub-01`` and so on.

    Raises
    ------
    UsageError
        If `out_dir` is not empty.
    DataError
        If `label_dir` holds no label maps.
    """
    options = options or CohortOptions()
    out_dir = Path(out_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        raise UsageError(f"{out_dir} is not empty; name a new folder")
    anatomies = _choose_anatomies(options, template, cache_dir, label_dir)
    width = max(2, len(str(options.participants)))
    names = [f"sub-{i + 1:0{width}d}" for i in range(options.participants)]
    bidsfiles.write_dataset_files(out_dir, dict(zip(names, [a.name for a in anatomies], strict=True)))
    lacks = missing_by_participant(options.missing, options.participants, options.seed)
    for name, anatomy, lack in zip(names, anatomies, lacks, strict=True):
        rng = np.random.default_rng(derive_seed(options.seed, name, "person"))
        person = draw_person(rng, anatomy)
        for session in range(1, options.sessions + 1):
            parts = (name,) if options.sessions == 1 else (name, f"ses-{session}")
            _Visit(out_dir, truth_dir, parts, person, options).write(lack)
        _LOGGER.info("%s written, missing: %s", name, lack)
    return names


def _choose_anatomies(
    options: CohortOptions, template: "Template", cache_dir: Path, label_dir: Path | None
) -> list[Anatomy]:
    """Return the anatomy of every participant; only the label maps in use are registered."""
    if label_dir is None:
        return build_anatomies(None, cache_dir, template) * options.participants
    n_maps = len(list(Path(label_dir).glob("*.nii.gz")))
    start = derive_seed(options.seed, "anatomy") % max(n_maps, 1)
    order = [(start + i) % max(n_maps, 1) for i in range(options.participants)]
    built = build_anatomies(label_dir, cache_dir, template, only=order, deformable=False)
    at = dict(zip(sorted(set(order)), built, strict=True))
    return [at[index] for index in order]


@dataclass(frozen=True, eq=False)
class _Visit:
    """One session of one person."""

    out_dir: Path
    truth_dir: Path | None
    parts: tuple[str, ...]
    person: Person
    options: CohortOptions

    def write(self, lack: str) -> None:
        """Write all series but the one that is lacking."""
        if self.options.with_t1w:
            self._t1w()
        if lack != "bold":
            self._bold()
        if lack != "dwi":
            self._dwi()
        if self.truth_dir:
            self._truth()

    def _rng(self, what: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.options.seed, *self.parts, what))

    def _file(self, folder: str, suffix: str, root: Path | None = None) -> Path:
        path = (root or self.out_dir).joinpath(*self.parts, folder, "_".join((*self.parts, suffix)))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _grid(self, fov_mm: Sequence[float], zooms: tuple[float, float, float]) -> Grid:
        """Return the grid of a series, about the middle of the head."""
        shape = [max(4, round(extent / zoom)) for extent, zoom in zip(fov_mm, zooms, strict=True)]
        centre = apply_affine(np.linalg.inv(self.person.scanner2template), _CENTRE_MM)
        vox2ras = np.diag([*zooms, 1.0])
        vox2ras[:3, 3] = np.round(centre - (np.array(shape) - 1) / 2 * zooms, 2)
        return Grid((shape[0], shape[1], shape[2]), vox2ras)

    def _scan(self, grid: Grid) -> Scan:
        """Look at the person; latent fields belong to the person, so their seed has no session."""
        seed = derive_seed(self.options.seed, self.parts[0], "latents")
        return scan(np.random.default_rng(seed), self.person, grid)

    def _t1w(self) -> None:
        size = max(2.0, self.options.voxel_size_mm * 2 / 3)
        seen = self._scan(self._grid(_T1W_FOV_MM, (size, size, size)))
        image = t1w_image(self._rng("t1w"), self.person, seen)
        bidsfiles.write_image(self._file("anat", "T1w.nii.gz"), image, seen.grid)
        bidsfiles.write_json(self._file("anat", "T1w.json"), bidsfiles.T1W_SIDECAR)

    def _bold(self) -> None:
        size = self.options.voxel_size_mm
        grid = self._grid(_FOV_MM, (size, size, size * 4 / 3))
        seen = self._scan(head_lattice(grid))
        motion = self._motion("bold", self.options.bold_volumes)
        sidecar = bidsfiles.bold_sidecar(_BOLD, grid.shape)
        epi = EpiOptions(readout_s=float(str(sidecar["TotalReadoutTime"])))
        options = BoldOptions(slice_times_s=interleaved_slice_times(grid.shape[2], _BOLD.tr_s))
        series, _ = bold_series(self._rng("bold"), self.person, seen, motion, _BOLD, epi, options, grid=grid)
        path = self._file("func", "task-rest_bold.nii.gz")
        bidsfiles.write_image(path, series, grid, _BOLD.tr_s)
        bidsfiles.write_json(self._file("func", "task-rest_bold.json"), sidecar)

    def _dwi(self) -> None:
        size = self.options.voxel_size_mm
        grid = self._grid(_FOV_MM, (size, size, size))
        seen = self._scan(head_lattice(grid))
        bvals, bvecs_ras = gradient_table(self.options.dwi_directions, _DWI.bval_s_mm2)
        motion = self._motion("dwi", len(bvals))
        sidecar = bidsfiles.dwi_sidecar(_DWI, grid.shape)
        epi = replace(DWI_EPI, readout_s=float(str(sidecar["TotalReadoutTime"])))
        series, truth = dwi_series(
            self._rng("dwi"),
            self.person,
            seen,
            motion,
            bvals,
            bvecs_ras,
            _DWI,
            epi,
            eddy=draw_eddy(self._rng("eddy")),
            fibres=np.random.default_rng(derive_seed(self.options.seed, self.parts[0], "fibres")),
            grid=grid,
        )
        bidsfiles.write_image(self._file("dwi", "dwi.nii.gz"), series, grid, _DWI.tr_s)
        bidsfiles.write_json(self._file("dwi", "dwi.json"), sidecar)
        bidsfiles.write_gradients(self._file("dwi", "dwi"), bvals, bvecs_ras)
        if self.truth_dir:
            for name, values in (("fa", truth.fa), ("md", truth.md_um2_ms)):
                path = self._file("dwi", f"{name}.nii.gz", self.truth_dir)
                bidsfiles.write_image(path, values, grid, as_float=True)

    def _motion(self, what: str, n_volumes: int) -> np.ndarray:
        """Draw head motion, and write it beside when truth is asked for."""
        limit = self.options.max_motion
        motion = draw_motion(self._rng(f"motion-{what}"), n_volumes, max_mm=limit, max_deg=limit)
        if self.truth_dir:
            folder = "func" if what == "bold" else "dwi"
            header = "trans_x_mm\ttrans_y_mm\ttrans_z_mm\trot_x_deg\trot_y_deg\trot_z_deg"
            path = self._file(folder, f"desc-{what}_motion.tsv", self.truth_dir)
            np.savetxt(path, motion, "%.6f", "\t", header=header, comments="")
        return motion

    def _truth(self) -> None:
        """Write pose, warp and tissue properties."""
        path = self._file("anat", "person.npz", self.truth_dir)
        person = self.person
        np.savez(
            path,
            scanner2template=person.scanner2template,
            warp_mm=person.warp_mm,
            warp_vox2ras=person.warp_grid.vox2ras,
        )
        table = {
            tissue.name.lower(): dict(zip(PROPERTIES, row.round(6).tolist(), strict=True))
            for tissue, row in zip(Tissue, person.tissue.base, strict=True)
        }
        bidsfiles.write_json(self._file("anat", "tissue.json", self.truth_dir), table)
