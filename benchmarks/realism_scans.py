"""Real means for `realism.py`: as acquired, and on the model grid after this app's preprocessing."""

from pathlib import Path

import numpy as np
from realism_figures import Look
from registration_cases import find_scans

from pds_bids.imaging.bold import check_series, detect_non_steady_state, reference_volume
from pds_bids.imaging.dwi import check_gradients, fsl_to_ras_bvecs
from pds_bids.imaging.grid import Grid, resample
from pds_bids.imaging.intensity import n4_bias
from pds_bids.imaging.masks import rough_brain_mask
from pds_bids.imaging.motion import estimate_dwi_motion, estimate_motion, realigned_mean
from pds_bids.imaging.registration import (
    Registration,
    agreed_mask,
    mask_in_native,
    register_epi_to_template,
)
from pds_bids.imaging.tissues import Template
from pds_bids.interfaces.images import load, stored_affine
from pds_bids.modalities import Contrast

__all__ = ["real_looks", "tissue_maps"]

# Diffusion-weighted volumes that a test looks at.
SLOPPY_VOLUMES = 6


def tissue_maps(template: Template) -> np.ndarray:
    """Return grey matter, white matter, fluid and pallidum of the template, ``(4, X, Y, Z)`` float32."""
    pallidum = [index for index, name in template.atlas_labels.items() if name.startswith("Pallidum")]
    maps = (template.gm, template.wm, template.csf, np.isin(template.atlas, pallidum))
    return np.stack(maps).astype(np.float32)


def registered(
    image: np.ndarray, mask: np.ndarray, grid: Grid, template: Template, kind: str, *, sloppy: bool = False
) -> tuple[np.ndarray, Registration]:
    """Correct and register a mean image as the app does; return its bias field and the registration."""
    bias = n4_bias(image, grid, mask)
    return bias, register_epi_to_template(image / bias, mask, grid, template, Contrast(kind), sloppy=sloppy)


def carried_over(maps: np.ndarray, template: Template, found: Registration) -> np.ndarray:
    """Return maps of the template on the grid of a registered image, ``(N, X, Y, Z)``."""
    back = found.native2template.points
    return np.stack([resample(one, template.grid.vox2ras, back, order=1) for one in maps])


def real_looks(
    datasets: list[Path], template: Template, cache: Path, *, sloppy: bool = False
) -> dict[str, list[Look]]:
    """Prepare every BOLD and DWI series of BIDS folders, kept in `cache`; `sloppy`: less work for tests.

    Returns
    -------
    dict
        ``native``: the mean of the realigned volumes as acquired; ``model``: on the template's grid, without
        its bias field.
    """
    looks: dict[str, list[Look]] = {"native": [], "model": []}
    maps = tissue_maps(template)
    for name, kind, path in find_scans(datasets):
        if kind == "T1w":
            continue
        kept = cache / f"{name}{'_sloppy' if sloppy else ''}.npz"
        if not kept.exists():
            cache.mkdir(parents=True, exist_ok=True)
            np.savez(kept, allow_pickle=False, **_prepare(kind, path, template, maps, sloppy=sloppy))
        with np.load(kept) as stored:
            images = {key: stored[key] for key in ("bold", "b0", "dwi") if key in stored}
            for contrast, image in images.items():
                grid = Grid(image.shape, stored["vox2ras"])
                look = Look(name, contrast, image, stored["rough"], stored["tissues"], grid)
                looks["native"].append(look)
                on_model, mask = stored[f"model_{contrast}"], stored["model_mask"]
                looks["model"].append(Look(name, contrast, on_model, mask, maps, template.grid))
    return looks


def _prepare(
    kind: str, path: Path, template: Template, maps: np.ndarray, *, sloppy: bool
) -> dict[str, np.ndarray]:
    """Average, mask, correct and register one series, as the app does."""
    means, grid = _means(kind, path, sloppy=sloppy)
    rough = rough_brain_mask(means[kind], grid)
    bias, found = registered(means[kind], rough, grid, template, kind, sloppy=sloppy)
    mask = agreed_mask(rough, grid, mask_in_native(found, template))
    points = found.template2native.points
    model_mask = template.mask & (resample(mask.astype(np.float32), grid.vox2ras, points, order=1) > 0.5)
    tissues = carried_over(maps, template, found)
    result = {"vox2ras": grid.vox2ras, "rough": rough, "tissues": tissues, "model_mask": model_mask}
    for contrast, image in means.items():
        on_model = resample(image / bias, grid.vox2ras, points, order=1)
        scale = on_model[model_mask].mean()
        result |= {contrast: image, f"model_{contrast}": np.where(model_mask, on_model / scale, 0)}
    return result


def _means(kind: str, path: Path, *, sloppy: bool) -> tuple[dict[str, np.ndarray], Grid]:
    """Return the means of the realigned volumes: BOLD, or b = 0 and b > 0."""
    data, grid = load(path)
    check_series(data, name=path.name)
    if kind == "bold":
        n_dummy = detect_non_steady_state(data)
        reference = reference_volume(data, n_dummy, grid.vox2ras)
        motion = estimate_motion(data, grid.vox2ras, reference)
        kept = range(n_dummy, data.shape[3])
        return {"bold": realigned_mean(data, grid.vox2ras, motion.ref2volume, kept)}, grid
    stem = path.name.split(".")[0]
    bvals, bvecs = (np.loadtxt(path.with_name(f"{stem}.{end}")) for end in ("bval", "bvec"))
    vox2ras, shape = stored_affine(path)
    table = check_gradients(shape[3], bvals, bvecs, name=path.name)
    kept = np.arange(shape[3])
    if sloppy:
        weighted = np.setdiff1d(kept, table.b0_volumes)
        kept = np.union1d(table.b0_volumes[:1], weighted[:: max(1, len(weighted) // SLOPPY_VOLUMES)])
        data = data[..., kept]
    ras_bvecs = fsl_to_ras_bvecs(table.bvecs, vox2ras)
    table = check_gradients(len(kept), table.bvals[kept], ras_bvecs[kept])
    motion = estimate_dwi_motion(data, grid.vox2ras, table, is_sloppy=sloppy)
    weighted = [v for v in range(data.shape[3]) if v not in set(table.b0_volumes)]
    volumes = {"b0": table.b0_volumes, "dwi": weighted}
    return {
        name: realigned_mean(data, grid.vox2ras, motion.ref2volume, which) for name, which in volumes.items()
    }, grid
