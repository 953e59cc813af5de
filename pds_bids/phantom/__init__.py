"""Virtual people with known truth: BOLD, DWI and T1w from one set of tissues."""
