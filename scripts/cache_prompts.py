"""Fill the cache of captions that `network_g.prompts.source: tagger` reads.

    python scripts/cache_prompts.py -opt options/my_run.yml
    python scripts/cache_prompts.py -opt experiments/my_run/options.yml -i photos --write

The tagger is that of the options file. Without -i it describes the pictures of both datasets: the
photos of an OnlineDataset, the LR pictures of a PairedDataset. Pictures that the cache holds are
left out, so that a run that was cut off goes on. --write also writes photo.txt beside each
photo.jpg that has none, for `inference.py --captions` and source: file. A picture that cannot be
read is listed and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from gdpo_sr.cli import run_main
from gdpo_sr.config.load import load_options
from gdpo_sr.config.schema import Options
from gdpo_sr.data.captions import CaptionCache
from gdpo_sr.generators.tagger import Tagger, load_tagger
from gdpo_sr.trainer.build_data import tagger_cache
from gdpo_sr.types import DatasetError, GDPOSRError, OptionError
from gdpo_sr.utils.image_io import list_images, read_image
from gdpo_sr.writer import write_file


def main(argv: list[str] | None = None) -> int:
    """Describe folders of pictures; returns the exit status."""
    arguments = _parser().parse_args(argv)
    options = load_options(arguments.opt, arguments.force_yml)
    prompts = options.network_g.prompts
    if prompts.tagger is None:
        raise OptionError(f"{arguments.opt}: network_g.prompts.tagger is missing: name its model")
    folders = arguments.input or dataset_folders(options)
    paths = sorted({path for folder in folders for path in list_images(folder, recursive=True)})
    if arguments.write:
        check_text_files(paths)
    cache = tagger_cache(prompts)
    todo = [path for path in paths if not cache.knows(path)]
    problems = []
    if todo:
        tagger = load_tagger(**prompts.tagger.model_dump(), device=arguments.device)
        problems = fill(cache, tagger, todo)
    if arguments.write:
        write_files(cache, paths)
    print(f"{len(paths) - len(problems)} of {len(paths)} pictures have a caption in {cache.file}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def dataset_folders(options: Options) -> list[str]:
    """Folders of the pictures that the generator's input is made from."""
    parts = (options.datasets.train, options.datasets.val)
    roots = [part.dataroot_lq or part.dataroot_gt for part in parts]
    return [name for root in roots for name in ([root] if isinstance(root, str) else root)]


def fill(cache: CaptionCache, tagger: Tagger, paths: list[Path]) -> list[str]:
    """Describe each picture once; returns what went wrong with which."""
    problems = []
    for path in tqdm(paths, unit="picture"):
        try:
            known = cache.find(path)
            cache.add(path, tagger(read_image(path)) if known is None else known)
        except (GDPOSRError, OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            problems.append(reason if str(path) in reason else f"{path}: {reason}")
    return problems


def check_text_files(paths: list[Path]) -> None:
    """Raise DatasetError for two pictures that would share one text file."""
    owners: dict[Path, Path] = {}
    for path in paths:
        other = owners.setdefault(path.with_suffix(".txt"), path)
        if other != path:
            raise DatasetError(
                f"--write: {other} and {path} would share {path.with_suffix('.txt')}; rename one"
            )


def write_files(cache: CaptionCache, paths: list[Path]) -> None:
    """Write the captions as text files beside the pictures; what exists stays."""
    for path in paths:
        file, caption = path.with_suffix(".txt"), cache.find(path)
        if caption is not None and not file.exists():
            write_file(file, f"{caption}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("-opt", required=True, metavar="FILE", help="options file of the run")
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("-i", "--input", nargs="+", help="folders of pictures (the datasets')")
    parser.add_argument("--write", action="store_true", help="write photo.txt beside photo.jpg too")
    parser.add_argument("--device", default="cpu", help="where the tagger computes (cpu)")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
