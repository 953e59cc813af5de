"""``pds-bids-synth``: synthesise one modality of one session, in one process, on the model grid."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pds_bids.exceptions import DataError, DeviceError, GeometryError, PDSError, UsageError
from pds_bids.modalities import ANATOMY, Contrast, Direction, Modality

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pds_bids.imaging.grid import Grid
    from pds_bids.inference.bundle import Bundle
    from pds_bids.inference.synthesize import Synthesis

__all__ = ["build_parser", "main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code; an expected error is one line on stderr."""
    arguments = build_parser().parse_args(argv)
    try:
        _run(arguments)
    except PDSError as error:
        print(f"pds-bids-synth: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"pds-bids-synth: {error}", file=sys.stderr)
        return PDSError.exit_code
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``pds-bids-synth``."""
    parser = argparse.ArgumentParser(
        prog="pds-bids-synth",
        description="Synthesise one modality of one session from images on the model grid.",
        epilog="Every source is a 4-D image, bias-corrected, in any unit: the overall mean first, then "
        "the segments; the T1w is a 3-D one. Outputs, in units of the in-brain mean (FA without unit, MD in "
        "mm^2/s): <contrast>_mean.nii.gz and <contrast>_std.nii.gz with the same volumes in the same order, "
        "and synthesis.json.",
    )
    add = parser.add_argument
    add(
        "--source",
        nargs="+",
        required=True,
        metavar="NAME=FILE",
        help="bold=FILE, or dwi=FILE b0=FILE; t1w=FILE",
    )
    add(
        "--mask", type=Path, required=True, metavar="FILE", help="brain mask of the subject on the model grid"
    )
    add(
        "--template",
        type=Path,
        required=True,
        metavar="FILE",
        help="4-D: grey matter, white matter, CSF, T1w of the template",
    )
    add(
        "--plausibility",
        type=Path,
        metavar="FILE",
        help="JSON with a list `doubts`: why the source may not be what it should be, for SourceWarnings",
    )
    add("--target", required=True, choices=[str(m) for m in Modality], help="modality to synthesise")
    add(
        "--model-dir",
        type=Path,
        metavar="DIR",
        help="model bundle; default: that of pds-bids for the method",
    )
    add("--method", default="unet", help="method of the bundle (default: %(default)s)")
    add("--output-dir", type=Path, required=True, metavar="DIR", help="folder for outputs; made when missing")
    add("--seed", type=int, default=1, help="master seed (default: %(default)s)")
    add("--seed-names", nargs="*", default=[], metavar="NAME", help="who this is, for example sub-01 ses-1")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="default: %(default)s")
    add("--nthreads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    sources = _parse_sources(arguments.source)
    if arguments.nthreads < 1:
        raise UsageError(f"--nthreads {arguments.nthreads}: expected 1 or more")
    direction = Direction.to(Modality(arguments.target))
    foreign = set(sources) - set(direction.sources)
    if foreign:
        raise UsageError(
            f"--source {', '.join(sorted(foreign))} cannot serve for --target {arguments.target}"
        )
    # PyTorch takes seconds to load and reads the number of threads when it does.
    import torch

    from pds_bids.inference.synthesize import choose_device
    from pds_bids.inference.turns import take_device

    torch.set_num_threads(arguments.nthreads)
    with take_device(choose_device(arguments.device)) as device:
        _run_on(device, arguments, sources, direction)


def _run_on(
    device: "torch.device",
    arguments: argparse.Namespace,
    sources: dict[Contrast, Path],
    direction: Direction,
) -> None:
    import numpy as np
    import torch

    from pds_bids.inference.bundle import load_bundle
    from pds_bids.inference.card import default_model_dir
    from pds_bids.inference.synthesize import synthesize
    from pds_bids.seeds import derive_seed

    bundle = load_bundle(arguments.model_dir or default_model_dir(arguments.method), device)
    if bundle.method.name != arguments.method:
        raise UsageError(
            f"--method {arguments.method}: the bundle {bundle.folder} holds {bundle.method.name}"
        )
    images = {contrast: _read(path, bundle.grid, 4) for contrast, path in sources.items()}
    lengths = {contrast: image.shape[-1] for contrast, image in images.items() if contrast != ANATOMY}
    if len(set(lengths.values())) > 1:
        raise DataError(f"sources differ in their number of volumes: {lengths}")
    n_volumes = next(iter(lengths.values()), 0)
    if ANATOMY in images:
        images[ANATOMY] = np.broadcast_to(images[ANATOMY][..., :1], (*bundle.grid.shape, n_volumes))
    seeds = [
        derive_seed(arguments.seed, *arguments.seed_names, direction, index) for index in range(n_volumes)
    ]
    doubts = _read_doubts(arguments.plausibility) if arguments.plausibility else []
    mask = _read(arguments.mask, bundle.grid, 3) > 0
    template = _read(arguments.template, bundle.grid, 4)
    try:
        result = synthesize(images, mask, template, bundle.grid, bundle, direction=direction, seeds=seeds)
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{device}: out of memory; use --device cpu") from error
    description = {
        "GenerativeModel": _describe_model(bundle),
        "RandomSeed": arguments.seed,
        "SeedNames": [*arguments.seed_names, str(direction)],
        "VolumeSeeds": seeds,
        "Device": str(device),
        "SourceScale": {str(contrast): scales for contrast, scales in result.source_scale.items()},
        "SourceWarnings": [*doubts, *result.warnings],
        "UncertaintyFactor": round(result.std_factor, 3),
        "OutputUnits": "arbitrary, in-brain mean of an acquired image is 1; FA without unit, MD in mm^2/s",
    }
    _write(result, bundle.grid, description, arguments.output_dir)


def _parse_sources(items: list[str]) -> dict[Contrast, Path]:
    """Turn ``["bold=a.nii.gz"]`` into contrasts and paths."""
    sources: dict[Contrast, Path] = {}
    for item in items:
        name, _, path = item.partition("=")
        if name not in list(Contrast) or not path:
            raise UsageError(f"--source {item}: expected CONTRAST=FILE with one of {', '.join(Contrast)}")
        if name in sources:
            raise UsageError(f"--source {name} is given twice")
        sources[Contrast(name)] = Path(path)
    return sources


def _read_doubts(path: Path) -> list[str]:
    """Return the sentences that a file of doubts holds."""
    try:
        doubts = json.loads(path.read_text())["doubts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected a JSON object with a list `doubts` ({error})") from error
    return [str(doubt) for doubt in doubts]


def _read(path: Path, grid: "Grid", n_dimensions: int) -> "np.ndarray":
    """Read an image that must lie on `grid`."""
    import nibabel as nib
    import numpy as np
    from nibabel.filebasedimages import ImageFileError

    from pds_bids.imaging.grid import Grid

    try:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj).astype(np.float32)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    if data.ndim == 3 and n_dimensions == 4:
        data = data[..., None]
    if data.ndim != n_dimensions:
        raise GeometryError(f"{path}: {data.ndim} dimensions, expected {n_dimensions}")
    found = Grid(data.shape[:3], image.affine)
    if found != grid:
        raise GeometryError(
            f"{path}: grid of {found.shape} voxels of {found.zooms} mm is not the model grid "
            f"of {grid.shape}, {grid.zooms} mm; resample the image onto it"
        )
    return data


def _describe_model(bundle: "Bundle") -> dict[str, object]:
    """Return the ``GenerativeModel`` object of the sidecars."""
    return {
        "Name": bundle.card.get("name", bundle.method.name),
        "Version": bundle.card.get("version", "unknown"),
        "WeightsSHA256": bundle.weights_sha256,
        "TrainingData": bundle.card.get("training", {}).get("data", "unknown"),
        "Sampler": bundle.method.sampler,
        "Steps": bundle.method.steps,
        **({"IntervalHalfWidthsInStd": bundle.interval_widths} if bundle.interval_widths else {}),
    }


def _write(result: "Synthesis", grid: "Grid", description: dict[str, object], folder: Path) -> None:
    """Write all outputs beside their final names, then rename them; the JSON file comes last."""
    import nibabel as nib

    folder.mkdir(parents=True, exist_ok=True)
    partials = []
    for kind, volumes in (("mean", result.mean), ("std", result.std)):
        for contrast, data in volumes.items():
            image = nib.Nifti1Image(data, grid.vox2ras)
            image.header.set_qform(grid.vox2ras, code=4)
            image.header.set_sform(grid.vox2ras, code=4)
            image.header.set_xyzt_units("mm")
            image.header["descrip"] = f"SYNTHETIC {contrast} {kind}".encode()
            path = folder / f"{contrast}_{kind}.nii.gz"
            partials.append((folder / f".partial_{path.name}", path))
            nib.save(image, partials[-1][0])
    path = folder / "synthesis.json"
    partials.append((folder / f".partial_{path.name}", path))
    partials[-1][0].write_text(json.dumps(description, indent=2) + "\n")
    for partial, final in partials:
        partial.replace(final)


if __name__ == "__main__":
    sys.exit(main())
