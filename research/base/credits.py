"""Print who made the photographs of a training, as Markdown for a model card.

    python research/base/credits.py photos/credits.csv

Give the tables that `collect_photos.py` wrote, one or several. Photographs of split `val` judge and
train nothing; they are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from photo_table import read_table

from gdpo_sr.cli import run_main
from gdpo_sr.types import DatasetError

HEADINGS = {
    "train": "Photographs that it was trained on",
    "held_out": "Photographs that its recipe was chosen by, not trained on",
}
COLUMNS = ("stem", "author", "licence", "package", "path")

Row = dict[str, str]


def read_credits(table: Path) -> list[Row]:
    """Rows of a credits.csv.

    Raises:
        DatasetError: it is none.
    """
    rows = read_table(table) if table.is_file() else []
    if not rows or any(name not in rows[0] for name in (*COLUMNS, "split")):
        raise DatasetError(f"{table}: no table of credits; collect_photos.py writes one")
    return rows


def credits_markdown(rows: Sequence[Row]) -> str:
    """A section for each split that was used: licences by number, then a row for each photograph.

    Equal photographs of several tables stand once.
    """
    parts = []
    for split, heading in HEADINGS.items():
        found = sorted(
            {tuple(row[name] for name in COLUMNS) for row in rows if row["split"] == split}
        )
        if not found:
            continue
        counts = Counter(row[2] for row in found).most_common()
        licences = ", ".join(f"{licence} {count}" for licence, count in counts)
        lines = [f"### {heading}", "", f"{len(found)}: {licences}.", ""]
        lines += ["| photograph | author | licence | source | path |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in found]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|") or "not named"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the credits; returns the exit status."""
    parser = argparse.ArgumentParser(description="Credits of photographs as Markdown.")
    parser.add_argument("tables", nargs="+", type=Path, help="credits.csv of collect_photos.py")
    args = parser.parse_args(argv)
    print(credits_markdown([row for table in args.tables for row in read_credits(table)]))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
