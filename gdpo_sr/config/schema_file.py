"""JSON schema of the options, for completion and checks in editors.

Run: python -m gdpo_sr.config.schema_file [FILE]
FILE is options/schema.json in the working directory by default.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from gdpo_sr.config.schema import GDPOOptions, NAOSDOptions
from gdpo_sr.writer import write_file


def schema() -> dict[str, Any]:
    """One schema of all stages: `model_type` decides which of them a file must follow."""
    stages = [(NAOSDOptions, "validation"), (GDPOOptions, "validation")]
    references, definitions = models_json_schema(stages)
    stage1, stage2 = (references[stage] for stage in stages)
    return {
        "title": "gdpo_sr options",
        "if": {
            "properties": {"model_type": {"const": "NAOSDModel"}},
            "required": ["model_type"],
        },
        "then": stage1,
        "else": stage2,
        **definitions,
    }


def schema_text() -> str:
    """The schema as JSON text, with a line feed at its end."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the schema to the file named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="gdpo-sr schema", description="Write the JSON schema.")
    parser.add_argument("file", nargs="?", type=Path, default=Path("options/schema.json"))
    file = parser.parse_args(argv).file
    if file.suffix != ".json" or file.is_dir():
        parser.error(f"{file}: no JSON file; name one that ends in .json")
    if not file.parent.is_dir():
        parser.error(f"{file}: no folder {file.parent}; run in the repository or name a file")
    write_file(file, schema_text())
    print(file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
