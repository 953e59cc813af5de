"""The level ``group``: from the outputs of all participants to tables and one page."""

import sys

from pds_bids.config import RunConfig

__all__ = ["run_group"]


def run_group(config: RunConfig) -> int:
    """Gather, compare and classify.

    Parameters
    ----------
    config : RunConfig
        Options.

    Returns
    -------
    int
        0; 1 when the diagnosis was refused because training would have seen who is tested.
    """
    from pds_bids.group.gather import gather  # late: pandas
    from pds_bids.group.run import analyse

    if config.dry_run:
        found = gather(config.output_dir, participants=config.participant_label)
        print(found.quality[["participant_id", "session_id", "modality", "input", "state"]].to_string())
        print("Nothing was written.")
        return 0
    results = analyse(config, lambda line: print(line, flush=True))
    for row in results.gathered.incomplete.to_dict("records"):
        session = f" {row['session_id']}" if isinstance(row["session_id"], str) else ""
        print(f"{row['participant_id']}{session}: {row['state']}: {row['reason']}")
    if results.refusal:
        print(f"pds-bids: no diagnosis: {results.refusal}", file=sys.stderr)
    print(f"The report is {config.output_dir / 'group.html'}")
    return 1 if results.is_leaking else 0
