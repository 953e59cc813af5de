"""Count and time the released diffusion networks of the paper and ours on this machine.

    python benchmarks/cost.py [--evaluations 1] [--methods unet pds residual-flow]

Mean diffusion image from mean BOLD. Seconds are CPU seconds of one thread, so that a busy machine does not
matter much. One evaluation of the released network is measured; 50 steps are 50 evaluations, which is
multiplied and not run (it would take an hour). The released sampler makes both modalities at every step, by
a second network that costs 1.2 times as much; that one is counted and not timed, which favours the paper.
Ours are run as a whole, on the 3 mm window, as the app runs them. Weights are random: they do not change the
time.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from released_network import (
    BOLD_SHAPE,
    DWI_SHAPE,
    PUBLISHED_FLOP,
    PUBLISHED_PARAMETERS,
    ReleasedNetworks,
    ReleasedUNet,
)
from torch.utils.flop_counter import FlopCounterMode

from pds_bids.inference.prepare import DEFAULT_WINDOW
from pds_bids.methods import METHODS, Condition, Method, UNetMethod
from pds_bids.modalities import CONTRASTS, MODALITIES, Direction
from pds_bids.models.unet import TEMPLATE_CHANNELS, UNetConfig

STEPS_OF_PAPER = 50


def flop_of(call: Callable[[], Any]) -> float:
    """Return floating-point operations, two per multiplication and addition."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return float(counter.get_total_flops())


def seconds_of(call: Callable[[], Any], n: int) -> float:
    """Return mean CPU seconds of a call, after one that does not count where there are several."""
    with torch.no_grad():
        if n > 1:
            call()
        start = time.process_time()
        for _ in range(n):
            call()
    return (time.process_time() - start) / n


def one_person() -> Condition:
    """Return one person with BOLD, of noise."""
    shape = DEFAULT_WINDOW.shape
    generator = torch.Generator().manual_seed(0)
    way = Direction.BOLD2DWI
    present = torch.zeros(1, len(CONTRASTS))
    present[0, [CONTRASTS.index(c) for c in MODALITIES[way.source].sources]] = 1
    source = torch.rand(1, len(CONTRASTS), *shape, generator=generator) * present[..., None, None, None]
    template = torch.rand(1, TEMPLATE_CHANNELS, *shape, generator=generator)
    return Condition(source, present, template, torch.ones(1, 1, *shape), torch.tensor([way.code]))


def build(name: str) -> Method:
    """Return a method of the size that the app uses."""
    kind: Any = METHODS[name]
    if kind is UNetMethod:
        return UNetMethod(UNetConfig(), DEFAULT_WINDOW.shape)
    method: Method = kind.of_size("reduced", DEFAULT_WINDOW.shape)
    return method


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--methods", nargs="+", default=["unet", "pds", "residual-flow"], choices=list(METHODS)
    )
    parser.add_argument("--evaluations", type=int, default=1, help="of the released network: minutes each")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    bold, dwi, step = torch.randn(1, 1, *BOLD_SHAPE), torch.randn(1, 1, *DWI_SHAPE), torch.tensor([500])
    # On tensors without data: shapes are all that counts.
    with torch.device("meta"):
        empty = ReleasedNetworks().eval()
        seen = [volume.to("meta") for volume in (bold, dwi, step)]
        flop, one_way = flop_of(lambda: empty(*seen)), flop_of(lambda: empty.to_dwi(*seen))
    n_parameters = sum(p.numel() for p in empty.parameters())
    released = ReleasedUNet(BOLD_SHAPE, DWI_SHAPE).eval()
    print("| DWI from BOLD, one person | parameters, M | TFLOP per pass | passes | CPU s | times faster |")
    print("|---|---|---|---|---|---|")
    one = seconds_of(lambda: released(bold, dwi, step), arguments.evaluations)
    total = STEPS_OF_PAPER * one
    print(
        f"| released diffusion network, rebuilt | {sum(p.numel() for p in released.parameters()) / 1e6:.1f} "
        "| "
        f"{one_way / 1e12:.2f} | {STEPS_OF_PAPER} | {total:.0f} ({one:.1f} measured, times "
        f"{STEPS_OF_PAPER}) | 1 |",
        flush=True,
    )
    person = one_person()
    for name in arguments.methods:
        method = build(name).eval()

        def sample(method: Method = method) -> object:
            return method.sample(person, [torch.Generator().manual_seed(0)])

        seconds, n = seconds_of(sample, 2), sum(p.numel() for p in method.parameters())
        each = flop_of(sample) / method.steps
        print(
            f"| {name} | {n / 1e6:.2f} | {each / 1e12:.4f} | {method.steps} | {seconds:.2f} | "
            f"{total / seconds:,.0f} |",
            flush=True,
        )
    more = [100 * (n_parameters / PUBLISHED_PARAMETERS - 1), 100 * (flop / PUBLISHED_FLOP - 1)]
    print(
        f"\nThe authors' own code has {PUBLISHED_PARAMETERS / 1e6:.1f} M parameters and "
        f"{PUBLISHED_FLOP / 1e12:.2f} TFLOP per pass of both directions; the rebuilt ones differ by "
        f"{more[0]:+.1f}% and {more[1]:+.1f}%."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
