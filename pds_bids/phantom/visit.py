"""One session of one virtual person at one site: simulated, and written as BIDS."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.phantom import bidsfiles
from pds_bids.phantom.bold import bold_series
from pds_bids.phantom.dwi import dwi_series
from pds_bids.phantom.eddy import draw_eddy
from pds_bids.phantom.epi import EpiOptions
from pds_bids.phantom.fluctuations import BoldOptions
from pds_bids.phantom.gradients import gradient_table
from pds_bids.phantom.head_motion import draw_motion
from pds_bids.phantom.moving_head import head_lattice
from pds_bids.phantom.person import Person, Scan, scan
from pds_bids.phantom.protocols import Series, Site, direction_label, opposite, slice_times_s
from pds_bids.phantom.t1w import t1w_image
from pds_bids.phantom.truth import TruthFolder
from pds_bids.seeds import derive_seed

__all__ = ["Visit", "VisitOptions"]

# The template's point that is put at the centre of every field of view, and the field of view.
_CENTRE_MM = np.array([0.0, -18.0, 6.0])
_FOV_MM = (192.0, 192.0, 147.0)
_T1W_FOV_MM = (192.0, 228.0, 192.0)
# The lattice of a head is at least so fine, mm; for coarse voxels it may be coarser.
_LATTICE_MM, _LATTICE_SHARE = 2.0, 0.6
# Spin-echo volumes of each direction of a fieldmap.
_FIELDMAP_VOLUMES = 3


@dataclass(frozen=True)
class VisitOptions:
    """What is acquired in a visit.

    Parameters
    ----------
    seed : int
        Master seed of the cohort.
    bold_volumes : int
        Length of BOLD.
    dwi_directions : tuple of int
        Directions of each shell; one number: of every shell.
    bvals_s_mm2 : tuple of float, optional
        Shells; None: those of the site.
    voxel_size_mm : float
        What voxel sizes of a site are relative to.
    with_t1w, with_fieldmaps : bool
        Whether a T1w image and spin-echo pairs of opposite phase encoding are acquired.
    max_motion : float
        Largest translation in mm and rotation in degrees of slow motion.
    spikes : int
        Sudden movements per series.
    """

    seed: int
    bold_volumes: int
    dwi_directions: tuple[int, ...]
    bvals_s_mm2: tuple[float, ...] | None
    voxel_size_mm: float
    with_t1w: bool
    with_fieldmaps: bool
    max_motion: float
    spikes: int


@dataclass(frozen=True, eq=False)
class Visit:
    """One session of one person.

    Parameters
    ----------
    out_dir : Path
        Root of the dataset.
    truth_dir : Path, optional
        Root of the truth; None: it is not written.
    parts : tuple of str
        ``sub-01`` and, with several sessions, ``ses-1``.
    person : Person
        Who.
    site : Site
        Where.
    options : VisitOptions
        What.
    """

    out_dir: Path
    truth_dir: Path | None
    parts: tuple[str, ...]
    person: Person
    site: Site
    options: VisitOptions

    def write(self, lack: str) -> None:
        """Write all series but the one that is lacking: ``none``, ``bold`` or ``dwi``."""
        if self.options.with_t1w:
            self._t1w()
        if lack != "bold":
            self._bold()
        if lack != "dwi":
            self._dwi()

    @property
    def truth(self) -> TruthFolder | None:
        """Where the truth of the visit goes."""
        return TruthFolder(self.truth_dir, self.parts) if self.truth_dir else None

    def _rng(self, *what: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.options.seed, *self.parts, *what))

    def _file(self, folder: str, suffix: str) -> Path:
        path = self.out_dir.joinpath(*self.parts, folder, "_".join((*self.parts, suffix)))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _grid(self, fov_mm: Sequence[float], zooms: Sequence[float]) -> Grid:
        """Return the grid of a series, about the middle of the head."""
        shape = [max(4, round(extent / zoom)) for extent, zoom in zip(fov_mm, zooms, strict=True)]
        centre = apply_affine(np.linalg.inv(self.person.scanner2template), _CENTRE_MM)
        vox2ras = np.diag([*zooms, 1.0])
        vox2ras[:3, 3] = np.round(centre - (np.array(shape) - 1) / 2 * zooms, 2)
        return Grid((shape[0], shape[1], shape[2]), vox2ras)

    def _series_grid(self, series: Series) -> Grid:
        size = self.options.voxel_size_mm
        return self._grid(_FOV_MM, [round(zoom * size, 3) for zoom in series.zooms])

    def _lattice(self, grid: Grid) -> Grid:
        return head_lattice(grid, max(_LATTICE_MM, _LATTICE_SHARE * min(grid.zooms)))

    def _scan(self, grid: Grid) -> Scan:
        """Look at the person; latent fields belong to the person, so their seed has no session."""
        seed = derive_seed(self.options.seed, self.parts[0], "latents")
        return scan(np.random.default_rng(seed), self.person, grid)

    def _fibres(self) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.options.seed, self.parts[0], "fibres"))

    def _motion(self, what: str, n_volumes: int) -> np.ndarray:
        limit, spikes = self.options.max_motion, min(self.options.spikes, n_volumes - 1)
        return draw_motion(self._rng(f"motion-{what}"), n_volumes, max_mm=limit, max_deg=limit, spikes=spikes)

    def _epi(self, series: Series, grid: Grid) -> EpiOptions:
        return series.epi(grid.shape, self.site.coil, self.site.shim)

    def _t1w(self) -> None:
        size = max(2.0, self.options.voxel_size_mm * 2 / 3)
        seen = self._scan(self._grid(_T1W_FOV_MM, (size, size, size)))
        image = t1w_image(self._rng("t1w"), self.person, seen, self.site.mprage, coil=self.site.coil)
        bidsfiles.write_image(self._file("anat", "T1w.nii.gz"), image, seen.grid)
        bidsfiles.write_json(self._file("anat", "T1w.json"), bidsfiles.t1w_sidecar(self.site))
        if self.truth:
            self.truth.anatomy("anat", seen)

    def _bold(self) -> None:
        site, series = self.site, self.site.bold_series
        grid = self._series_grid(series)
        seen = self._scan(self._lattice(grid))
        motion = self._motion("bold", self.options.bold_volumes)
        times_s = slice_times_s(grid.shape[2], site.bold.tr_s, min(series.bands, grid.shape[2]))
        image, truth = bold_series(
            self._rng("bold"),
            self.person,
            seen,
            motion,
            site.bold,
            self._epi(series, grid),
            BoldOptions(slice_times_s=times_s),
            grid=grid,
        )
        path = self._file("func", "task-rest_bold.nii.gz")
        bidsfiles.write_image(path, image, grid, site.bold.tr_s)
        sidecar = bidsfiles.bold_sidecar(site, grid.shape, times_s)
        if self.options.with_fieldmaps:
            self._fieldmaps("bold", series, grid, seen, path)
            sidecar["B0FieldSource"] = "pepolar_bold"
        bidsfiles.write_json(self._file("func", "task-rest_bold.json"), sidecar)
        if self.truth:
            self.truth.bold(truth, motion, grid)
            self.truth.anatomy("func", self._scan(grid))

    def _dwi(self) -> None:
        site, series = self.site, self.site.dwi_series
        grid = self._series_grid(series)
        seen = self._scan(self._lattice(grid))
        shells = self.options.bvals_s_mm2 or site.bvals_s_mm2
        directions = self.options.dwi_directions
        counts = directions * len(shells) if len(directions) == 1 else directions
        bvals, bvecs_ras = gradient_table(counts, shells)
        motion = self._motion("dwi", len(bvals))
        image, truth = dwi_series(
            self._rng("dwi"),
            self.person,
            seen,
            motion,
            bvals,
            bvecs_ras,
            site.dwi,
            self._epi(series, grid),
            eddy=draw_eddy(self._rng("eddy")),
            kurtosis=True,
            fibres=self._fibres(),
            grid=grid,
        )
        path = self._file("dwi", "dwi.nii.gz")
        bidsfiles.write_image(path, image, grid, site.dwi.tr_s)
        bidsfiles.write_gradients(self._file("dwi", "dwi"), bvals, bvecs_ras)
        sidecar = bidsfiles.dwi_sidecar(site, grid.shape)
        if self.options.with_fieldmaps:
            self._fieldmaps("dwi", series, grid, seen, path)
            sidecar["B0FieldSource"] = "pepolar_dwi"
        bidsfiles.write_json(self._file("dwi", "dwi.json"), sidecar)
        if self.truth:
            self.truth.dwi(truth, motion, grid)
            self.truth.anatomy("dwi", self._scan(grid))

    def _fieldmaps(self, what: str, series: Series, grid: Grid, seen: Scan, target: Path) -> None:
        """Write spin-echo volumes of both phase encodings for a series, with its grid and readout."""
        intended = "bids::" + target.relative_to(self.out_dir).as_posix()
        protocol = replace(self.site.dwi, te_ms=60.0)
        for direction in (series.phase_encoding, opposite(series.phase_encoding)):
            blip = replace(series, phase_encoding=direction, bands=1)
            label = direction_label(direction)
            image, _ = dwi_series(
                self._rng("fieldmap", what, label),
                self.person,
                seen,
                self._motion(f"fieldmap-{what}-{label}", _FIELDMAP_VOLUMES),
                np.zeros(_FIELDMAP_VOLUMES),
                np.zeros((_FIELDMAP_VOLUMES, 3)),
                protocol,
                self._epi(blip, grid),
                fibres=self._fibres(),
                grid=grid,
            )
            name = f"acq-{what}_dir-{label}_epi"
            bidsfiles.write_image(self._file("fmap", f"{name}.nii.gz"), image, grid, protocol.tr_s)
            sidecar = bidsfiles.fieldmap_sidecar(self.site, blip, protocol, grid.shape)
            sidecar |= {"B0FieldIdentifier": f"pepolar_{what}", "IntendedFor": [intended]}
            bidsfiles.write_json(self._file("fmap", f"{name}.json"), sidecar)
