"""A web page to try models: `gdpo-sr demo [--lora experiments/NAME]`, then open the address."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence

from gdpo_sr.types import OptionError

_MAX_FILE = 50_000_000  # bytes of an uploaded picture


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command until it is ended.

    Raises:
        GDPOSRError: gradio is not installed, a bad device or metric.
    """
    args = _parser().parse_args(argv)
    if importlib.util.find_spec("gradio") is None:
        raise OptionError("gdpo-sr demo: gradio is not installed; pip install 'gdpo-sr[demo]'")
    from gdpo_sr.demo.page import build, launch
    from gdpo_sr.demo.session import Session
    from gdpo_sr.utils.devices import best_device, checked_device

    device = checked_device(args.device) if args.device else best_device()
    session = Session(args.base, args.lora, args.metrics, device, args.max_pixels)
    launch(build(session), args.host, args.port, _MAX_FILE, wait=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gdpo-sr demo", description="A web page to try models.")
    add = parser.add_argument
    add("--base", nargs="+", default=[], help="bases to choose from: mini, folders, hub ids")
    add("--lora", nargs="+", default=[], metavar="RUN", help="experiments/NAME or adapter folders")
    add("--metrics", nargs="*", default=["piqe", "niqe"], help=_METRICS_HELP)
    add("--max_pixels", type=int, default=16_000_000, metavar="N", help="of a result (16 million)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps ... (the best that there is)")
    add("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this computer only)")
    add("--port", type=int, metavar="N", help="(the first that is free from 7860 on)")
    return parser


_METRICS_HELP = "no-reference metrics of the candidates; the first chooses the best (piqe niqe)"
