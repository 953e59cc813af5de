"""Pictures of held-out people during training: source, target, prediction, difference."""

from pathlib import Path

import numpy as np
import torch

from pds_bids.methods import Method
from pds_bids.modalities import CONTRASTS, Direction
from pds_bids.training.data import Example, to_device

__all__ = ["save_pictures"]

WHITE = 2.0
LARGEST_DIFFERENCE = 0.5


@torch.no_grad()
def save_pictures(method: Method, examples: Example, folder: Path, update: int) -> list[Path]:
    """Draw the middle axial slice of every person of a batch.

    Parameters
    ----------
    method : Method
        Averaged weights.
    examples : Example
        A batch of held-out people.
    folder : Path
        Made when missing; files are called ``update-000300_0-bold2dwi.png``.
    update : int
        Updates done.

    Returns
    -------
    list of Path
        One per person.
    """
    from matplotlib.figure import Figure  # late: seconds

    folder.mkdir(parents=True, exist_ok=True)
    batch = to_device(examples, next(method.parameters()).device)
    generators = [torch.Generator().manual_seed(0) for _ in batch.direction]
    predicted = method.sample(batch, generators).mean.float().cpu().numpy()
    paths = []
    for i, code in enumerate(batch.direction.tolist()):
        direction = list(Direction)[code]
        source = CONTRASTS.index(direction.sources[0])
        targets = [CONTRASTS.index(contrast) for contrast in direction.targets]
        figure = Figure(figsize=(10, 2.7 * len(targets)), layout="constrained")
        axes = figure.subplots(len(targets), 4, squeeze=False)
        for row, channel in zip(axes, targets, strict=True):
            truth, image = examples["target"][i, channel].numpy(), predicted[i, channel]
            inside = examples["mask"][i, 0].numpy()
            panels = {
                f"{CONTRASTS[source]} (source)": (examples["source"][i, source].numpy(), WHITE, "gray"),
                f"{CONTRASTS[channel]} (target)": (truth * inside, WHITE, "gray"),
                "SYNTHETIC": (image, WHITE, "gray"),
                "|difference|": (np.abs(image - truth) * inside, LARGEST_DIFFERENCE, "magma"),
            }
            for axis, (title, (volume, top, colours)) in zip(row, panels.items(), strict=True):
                axis.imshow(
                    volume[:, :, volume.shape[2] // 2].T, origin="lower", cmap=colours, vmin=0, vmax=top
                )
                axis.set_title(title, fontsize=9)
                axis.axis("off")
        figure.suptitle(f"update {update}, {direction}", fontsize=9)
        path = folder / f"update-{update:06d}_{i}-{direction}.png"
        figure.savefig(path, dpi=80)
        paths.append(path)
    return paths
