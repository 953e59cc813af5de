"""What a simulated dataset was made from, written beside it."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pds_bids.imaging.grid import Grid
from pds_bids.phantom import bidsfiles
from pds_bids.phantom.bold import BoldTruth
from pds_bids.phantom.disease import EFFECT_SIZES, SEVERITY, SITES
from pds_bids.phantom.dwi import DwiTruth
from pds_bids.phantom.parcels import NETWORKS, Parcellation, region
from pds_bids.phantom.person import Person, Scan
from pds_bids.phantom.tissue import FLUID, GREY, PROPERTIES, WHITE, Tissue

__all__ = ["TruthFolder", "write_planted"]

_MOTION = "trans_x_mm\ttrans_y_mm\ttrans_z_mm\trot_x_deg\trot_y_deg\trot_z_deg"
_EDDY = "offset_hz\tslope_x_hz_mm\tslope_y_hz_mm\tslope_z_hz_mm"


def write_planted(folder: Path, atlas: Parcellation) -> None:
    """Write what is planted in everybody: parcels, networks, sites and sizes of the effects."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{k}\t{atlas.atlas_index[k]}\t{name}\t{NETWORKS[atlas.network[k]]}\t{SITES.get(region(name), 0.0)}"
        for k, name in enumerate(atlas.names)
        if k > 0
    ]
    table = "\n".join(["index\tatlas_index\tname\tnetwork\tsite_weight", *rows])
    (folder / "parcels.tsv").write_text(table + "\n", encoding="utf-8")
    severity = {
        group.value: dict(zip(("mean", "sd", "low", "high"), values, strict=True))
        for group, values in SEVERITY.items()
    }
    bidsfiles.write_json(folder / "effects.json", {"at_severity_1": EFFECT_SIZES, "severity": severity})


@dataclass(frozen=True)
class TruthFolder:
    """Where the truth of one visit is written.

    Parameters
    ----------
    root : Path
        Side folder of the dataset.
    parts : tuple of str
        ``sub-01`` and, with several sessions, ``ses-1``.
    """

    root: Path
    parts: tuple[str, ...]

    def path(self, folder: str, suffix: str) -> Path:
        """Return a path with the names of the visit; its folder is made."""
        path = self.root.joinpath(*self.parts, folder, "_".join((*self.parts, suffix)))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def person(self, person: Person, participant: bidsfiles.Participant) -> None:
        """Write pose, shape, tissues and effects."""
        unwarp_mm = person.warp_mm * 0 if person.unwarp_mm is None else person.unwarp_mm
        np.savez(
            self.path("anat", "person.npz"),
            scanner2template=person.scanner2template,
            warp_mm=person.warp_mm,
            unwarp_mm=unwarp_mm,
            warp_vox2ras=person.warp_grid.vox2ras,
        )
        table = {
            tissue.name.lower(): dict(zip(PROPERTIES, row.round(6).tolist(), strict=True))
            for tissue, row in zip(Tissue, person.tissue.base, strict=True)
        }
        bidsfiles.write_json(self.path("anat", "tissue.json"), table)
        effects = person.effects
        coupling = {NETWORKS[k]: round(float(value), 6) for k, value in enumerate(effects.coupling) if k > 0}
        summary = {
            **asdict(participant.traits),
            "site": participant.site,
            "anatomy": participant.anatomy,
            "mirrored": person.mirrored,
            "severity": effects.severity,
            "ventricle_mm": effects.ventricle_mm,
            "hippocampus": effects.hippocampus,
            "cortex": effects.cortex,
            "coupling": coupling,
        }
        bidsfiles.write_json(self.path("anat", "effects.json"), summary)
        rows = [
            f"{k}\t{name}\t{effects.level[k]:.6f}\t{effects.amplitude[k]:.6f}"
            for k, name in enumerate(effects.names)
            if k > 0
        ]
        table_text = "\n".join(["index\tname\tlevel\tamplitude", *rows])
        self.path("anat", "parcels.tsv").write_text(table_text + "\n", encoding="utf-8")

    def anatomy(self, folder: str, seen: Scan) -> None:
        """Write parcels, tissue fractions and template points on the grid of a series, head at rest."""
        shape = seen.grid.shape
        maps = {
            "label-GM_probseg": seen.share(*GREY),
            "label-WM_probseg": seen.share(*WHITE),
            "label-CSF_probseg": seen.share(*FLUID),
            "label-hippocampus_probseg": seen.share(Tissue.LIMBIC),
            "desc-parcels_dseg": seen.parcels.reshape(shape),
            "desc-template_points": seen.template_points.reshape(*shape, 3),
        }
        self._maps(folder, maps, seen.grid)

    def bold(self, truth: BoldTruth, motion: np.ndarray, grid: Grid) -> None:
        """Write what a BOLD series was made from."""
        self._moves("func", "bold", motion, truth.rest2volume)
        self._maps("func", {"mean": truth.mean, "field_hz": truth.field_hz}, grid)
        n_parcels = truth.fluctuations.shape[1]
        header = "\t".join(f"parcel_{k}" for k in range(n_parcels))
        path = self.path("func", "desc-bold_fluctuations.tsv")
        np.savetxt(path, truth.fluctuations, "%.6f", "\t", header=header, comments="")

    def dwi(self, truth: DwiTruth, motion: np.ndarray, grid: Grid) -> None:
        """Write what a diffusion series was made from."""
        self._moves("dwi", "dwi", motion, truth.rest2volume)
        maps = {
            "fa": truth.fa,
            "md": truth.md_um2_ms,
            "b0": truth.b0,
            "axis": truth.axis_ras,
            "free_water": truth.free_water,
            "field_hz": truth.field_hz,
        }
        self._maps("dwi", maps, grid)
        path = self.path("dwi", "desc-dwi_eddy.tsv")
        np.savetxt(path, truth.eddy_hz, "%.6f", "\t", header=_EDDY, comments="")

    def _moves(self, folder: str, what: str, motion: np.ndarray, rest2volume: np.ndarray) -> None:
        """Write the poses of a series, as parameters and as matrices."""
        path = self.path(folder, f"desc-{what}_motion.tsv")
        np.savetxt(path, motion, "%.6f", "\t", header=_MOTION, comments="")
        np.save(self.path(folder, f"desc-{what}_rest2volume.npy"), rest2volume)

    def _maps(self, folder: str, maps: dict[str, np.ndarray], grid: Grid) -> None:
        """Write images on the grid of a series."""
        for name, values in maps.items():
            bidsfiles.write_image(self.path(folder, f"{name}.nii.gz"), values, grid, as_float=True)
