"""Methods of synthesis: one file per method, one protocol."""

from pds_bids.methods.adm import ADMMethod
from pds_bids.methods.base import Batch, Condition, Method, SampleResult, target_weights
from pds_bids.methods.baseline import Baseline
from pds_bids.methods.ddim import DDIMMethod
from pds_bids.methods.dit import DiTMethod
from pds_bids.methods.gan import GANMethod
from pds_bids.methods.ldm import LDMMethod
from pds_bids.methods.pds import PDSMethod
from pds_bids.methods.pds_paper import PDSPaperMethod
from pds_bids.methods.pgan import PerceptualMixin, PGANMethod
from pds_bids.methods.psagan import PSAGANMethod
from pds_bids.methods.residual_flow import ResidualFlowMethod
from pds_bids.methods.sa_ddpm import SADDPMMethod
from pds_bids.methods.sagan import SAGANMethod
from pds_bids.methods.unet import UNetMethod

__all__ = [
    "METHODS",
    "Baseline",
    "Batch",
    "Condition",
    "Method",
    "PDSMethod",
    "PDSPaperMethod",
    "PerceptualMixin",
    "ResidualFlowMethod",
    "SampleResult",
    "UNetMethod",
    "target_weights",
]

#: Every method by its name on the command line.
METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for kind in (
        UNetMethod,
        GANMethod,
        PGANMethod,
        SAGANMethod,
        PSAGANMethod,
        DDIMMethod,
        SADDPMMethod,
        LDMMethod,
        DiTMethod,
        ADMMethod,
        PDSMethod,
        PDSPaperMethod,
        ResidualFlowMethod,
    )
}
