"""From the outputs of all participants to tables, fidelity, diagnosis and one page."""
