"""Seeds by name: one master seed, one child per thing, whatever the order in which things run."""

import hashlib

__all__ = ["derive_seed"]


def derive_seed(master: int, *names: str | int) -> int:
    """Derive the seed of one named random draw from the master seed.

    Parameters
    ----------
    master : int
        Seed of the whole run.
    *names : str or int
        What the draw is for, for example ``"sub-01", "ses-1", "bold2dwi", 0``.

    Returns
    -------
    int
        Between 0 and 2**63 - 1, equal on every machine and Python version.

    Examples
    --------
    >>> derive_seed(1, "sub-01", 0) == derive_seed(1, "sub-01", 0)
    True
    >>> derive_seed(1, "sub-01", 0) == derive_seed(1, "sub-01", 1)
    False
    """
    text = "\x1f".join(map(str, (master, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
