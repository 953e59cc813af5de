"""Who the participants are: diagnosis, covariates and identity from ``participants.tsv``."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pds_bids.exceptions import UsageError
from pds_bids.options import FAMILY_COLUMNS

__all__ = ["DEFAULT_COVARIATES", "People", "read_people"]

LOGGER = logging.getLogger("pds_bids.group")
DEFAULT_COVARIATES = ("age", "sex", "site")
#: More values than this are no categories.
MOST_CATEGORIES = 30
#: Numbers of sites are names: site 4 is not twice site 2.
CATEGORICAL = ("site",)


@dataclass(frozen=True, eq=False)
class People:
    """Rows of ``participants.tsv``.

    Parameters
    ----------
    table : DataFrame
        Indexed by label without ``sub-``.
    group_column : str
        Column of the diagnosis; empty when the table has none.
    covariates : tuple of str
        Columns to be regressed out.
    person_column : str
        Column that says who is the same person under several labels; empty for none.
    family_column : str
        Column that says who are relatives; empty for none.
    """

    table: pd.DataFrame
    group_column: str = ""
    covariates: tuple[str, ...] = ()
    person_column: str = ""
    family_column: str = ""

    def group_of(self, label: str) -> str:
        """Return the diagnosis; empty where it is not known."""
        return self._text(label, self.group_column)

    def person_of(self, label: str) -> str:
        """Return who a participant is: the label itself unless a column says otherwise."""
        return self._text(label, self.person_column) or f"sub-{label}"

    def family_of(self, label: str) -> str:
        """Return whose relative a participant is: nobody else's unless a column says otherwise."""
        return self._text(label, self.family_column) or self.person_of(label)

    def site_of(self, label: str) -> str:
        """Return the site; empty where it is not known."""
        return self._text(label, "site")

    def design(self, labels: Sequence[str], *, without: Sequence[str] = ()) -> tuple[np.ndarray, list[str]]:
        """Return covariates as numbers: as they are, or one column per category but the first.

        Parameters
        ----------
        labels : sequence of str
            Participants.
        without : sequence of str
            Covariates to leave out.

        Returns
        -------
        design : ndarray
            ``(N, C)``; nan where a value is not known.
        names : list of str
            ``age``, ``sex M``.
        """
        own = self.table.reindex(list(labels))
        columns, names = [], []
        for name in self.covariates:
            if name in without:
                continue
            values = own[name]
            if not _is_category(values):
                columns.append(pd.to_numeric(values).to_numpy(np.float64))
                names.append(name)
                continue
            for category in sorted(values.dropna().astype(str).unique())[1:]:
                is_own = (values.astype(str) == category).to_numpy(np.float64)
                columns.append(np.where(values.isna(), np.nan, is_own))
                names.append(f"{name} {category}")
        return np.column_stack(columns) if columns else np.zeros((len(own), 0)), names

    def _text(self, label: str, column: str) -> str:
        if not column or column not in self.table or label not in self.table.index:
            return ""
        value = str(self.table.at[label, column])
        return "" if value == "nan" else value


def read_people(
    bids_dir: Path,
    group_column: str,
    covariates: Sequence[str] | None = None,
    person_column: str = "",
    family_column: str = "",
) -> People:
    """Read the table of participants.

    Parameters
    ----------
    bids_dir : Path
        Dataset.
    group_column : str
        Column of the diagnosis.
    covariates : sequence of str, optional
        Columns to regress out; by default those of age, sex and site that are there and vary.
    person_column : str
        Column that names people with several labels.
    family_column : str
        Column that names relatives; by default the first of `FAMILY_COLUMNS` that is there and varies.

    Returns
    -------
    People
        Empty when there is no table.

    Raises
    ------
    UsageError
        If a column that was named is not there, or a label stands in two rows.
    """
    path = bids_dir / "participants.tsv"
    if not path.is_file():
        return People(pd.DataFrame())
    # With a missing value among them, whole numbers would be read as 1.0 and 2.0.
    words = dict.fromkeys(
        ("participant_id", "site", group_column, person_column, family_column, *FAMILY_COLUMNS), str
    )
    table = pd.read_csv(path, sep="\t", na_values=["n/a", ""], keep_default_na=False, dtype=words)
    if "participant_id" not in table:
        raise UsageError(f"{path}: there is no column participant_id")
    table.index = pd.Index(table["participant_id"].astype(str).str.removeprefix("sub-"))
    if twice := sorted(set(table.index[table.index.duplicated()])):
        raise UsageError(f"{path}: {', '.join(twice[:5])} in more than one row")
    named = [*(covariates or ()), *[name for name in (person_column, family_column) if name]]
    if absent := [name for name in named if name not in table]:
        have = ", ".join(table.columns)
        raise UsageError(f"{path}: no column {', '.join(absent)}; there are: {have}")
    if covariates is None:
        covariates = [name for name in DEFAULT_COVARIATES if name in table and table[name].nunique() > 1]
        for name in [name for name in covariates if _has_too_many(table[name])]:
            LOGGER.warning(
                "%s: column %s has %d values, too many to be regressed out; harmonise, or group the values",
                path, name, table[name].nunique(),
            )  # fmt: skip
            covariates.remove(name)
    if group_column not in table:
        LOGGER.warning("%s has no column %s: no diagnosis (--group-column)", path, group_column)
        group_column = ""
    for name in covariates:
        if _has_too_many(table[name]):
            raise UsageError(f"{path}: covariate {name} has {table[name].nunique()} categories")
    family_column = family_column or next(
        # Where everybody is made of one head, it tells nobody apart.
        (name for name in FAMILY_COLUMNS if name in table and table[name].nunique() > 1),
        "",
    )
    return People(table, group_column, tuple(covariates), person_column, family_column)


def _is_category(values: pd.Series) -> bool:
    """Return whether a covariate is words; a column without any value is as well, and gives no column."""
    numbers = pd.to_numeric(values, errors="coerce")
    is_number = numbers.notna().any() and numbers.notna().sum() == values.notna().sum()
    return values.name in CATEGORICAL or not is_number


def _has_too_many(values: pd.Series) -> bool:
    return _is_category(values) and values.nunique() > MOST_CATEGORIES
