"""Peak memory and time of inference for outputs from 512 px to 8K, as a Markdown table.

python benchmarks/inference_memory.py
python benchmarks/inference_memory.py --sizes 512x512 2048x1080 --whole

Each size runs in a process of its own: the command `inference.py` on an enlarged crop of an example
photo, a quarter of the output's size. "peak" is the largest resident memory of that process, "over
the small one" what the size itself costs, "output" the finished pixels that are kept until the file
is written. `--whole` adds a row without tiles (--tile 0) for each size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "datasets" / "example" / "val" / "picos_de_europa.jpg"
SIZES = ("512x512", "2048x1080", "3840x2160", "7680x4320")
SMALL = "64x64"
SCALE = 4
HEAD = "| output | tiles | peak MiB | over the small one | output MiB | seconds |"


def main() -> None:
    """Print the table."""
    args = _parser().parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.tile, args.threads)))
        return
    base = in_fresh_process(SMALL, None, args.threads)["peak"]
    print(f"{HEAD}\n|---|---|---|---|---|---|", flush=True)
    for size in (SMALL, *args.sizes):
        tiles = [None, 0] if args.whole and size != SMALL else [None]
        for tile in tiles:
            print(row(size, in_fresh_process(size, tile, args.threads), base), flush=True)


def in_fresh_process(size: str, tile: int | None, threads: int) -> dict:
    """What `measure` gives, in a process that did nothing else."""
    command = [sys.executable, __file__, "--child", size, "--threads", str(threads)]
    command += [] if tile is None else ["--tile", str(tile)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(size: str, tile: int | None, threads: int) -> dict:
    """Restore one picture to WxH `size`; peak memory in bytes, seconds, tiles."""
    import torch

    from gdpo_sr import inference

    torch.set_num_threads(threads)
    width, height = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "lr.png"
        with Image.open(PHOTO) as photo:
            photo.resize((width // SCALE, height // SCALE)).save(source)
        output = Path(folder) / "out"
        arguments = ["-i", str(source), "-o", str(output), "--size", size]
        arguments += [] if tile is None else ["--tile", str(tile)]
        start = time.monotonic()
        status = inference.main(arguments)
        seconds = time.monotonic() - start
        record = json.loads((output / "manifest.jsonl").read_text())
        if status or record["size"] != [width, height]:
            raise RuntimeError(f"{size}: {record}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": peak, "seconds": seconds, "tile": record["tile"], "tiles": record["tiles"]}


def row(size: str, found: dict, base: int) -> str:
    """One line of the table."""
    width, height = map(int, size.split("x"))
    tiles = "whole" if found["tiles"] == 1 else f"{found['tiles']} of {found['tile']}"
    peak, extra, output = (
        n / 2**20 for n in (found["peak"], max(found["peak"] - base, 0), width * height * 3)
    )
    return (
        f"| {size} | {tiles} | {peak:.0f} | {extra:.0f} | {output:.0f} | {found['seconds']:.1f} |"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="WxH")
    parser.add_argument("--whole", action="store_true", help="also without tiles")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tile", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
