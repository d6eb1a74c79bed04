"""What runs are called, and their scores read from files. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def label_of(method: str, variant: str = "") -> str:
    """How a method with changed fields is called in folders, tables and figures."""
    return f"{method}@{variant}" if variant else method


def read_scores(file: Path) -> pd.DataFrame:
    """A scores.csv; the variant of an unchanged method is "" (and not a missing number)."""
    return pd.read_csv(file, dtype={"variant": str}).fillna({"variant": ""})
