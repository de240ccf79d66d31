"""`train.py -opt options/gdpo_sr.yml`: train as an options file says, then print base against
result.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.config.resume_rules import check_resumed
from gdpo_sr.types import OptionError

if TYPE_CHECKING:  # torch and all that stands on it load slowly; --help does without
    from accelerate import Accelerator

    from gdpo_sr.config.schema import Options
    from gdpo_sr.trainer.base_model import BaseModel
    from gdpo_sr.trainer.report import Comparison
    from gdpo_sr.trainer.stop_signal import StopSignal

STOPPED = 130
"""Exit status of a run that a signal stopped; its state is saved."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line of `train.py`, BasicSR's names."""
    parser = argparse.ArgumentParser(
        prog="train.py", description="Train as an options file says.", allow_abbrev=False
    )
    parser.add_argument("-opt", required=True, metavar="FILE", help="options file (YAML)")
    parser.add_argument(
        "--force_yml",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change options, for example train:total_iter=20 train:optim_g:lr=1e-4",
    )
    parser.add_argument(
        "--auto_resume", action="store_true", help="go on from the newest checkpoint of this run"
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="train a second run with permuted advantages and print its change beside the first's",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print the resolved options and stop"
    )
    return parser.parse_args(argv)


def build_accelerator(options: Options) -> Accelerator:
    """Devices, precision and processes; half precision that the device lacks becomes float32, with
    a warning.
    """
    import torch
    from accelerate import Accelerator

    from gdpo_sr.trainer.processes import process_options
    from gdpo_sr.trainer.spread_optimizer import without_wrapper
    from gdpo_sr.utils.logger import get_logger

    wanted = options.train.mixed_precision
    if wanted == "fp16" and not torch.cuda.is_available():
        get_logger().warning("train.mixed_precision fp16 needs a GPU: this run uses float32")
        wanted = "no"
    with without_wrapper(wanted):
        return Accelerator(mixed_precision=wanted, kwargs_handlers=process_options())


@dataclass(frozen=True)
class Result:
    """What is left of a run when its networks are gone.

    Attributes:
        finished: False if a signal stopped it.
        name, fitted_label: words for the trained network and for metrics that training looks at.
        comparison: the last one; None in processes that do not validate.
        side_by_side, model: where the last picture and the newest model are.
    """

    finished: bool
    name: str
    fitted_label: str
    comparison: Comparison | None
    side_by_side: Path
    model: Path


def run(options: Options, auto_resume: bool) -> Result:
    """Train one run; its networks are out of memory afterwards."""
    import gc

    import torch

    from gdpo_sr.trainer.processes import without_exits, without_shortage, without_the_lost
    from gdpo_sr.trainer.stop_signal import StopSignal

    accelerator = build_accelerator(options)
    stop = StopSignal(at_once=accelerator.num_processes == 1)
    with stop, without_the_lost(accelerator), without_exits(), without_shortage():
        model = train(options, auto_resume, accelerator, stop)
        result = Result(
            model.finished,
            model.result_name,
            model.fitted_label,
            model.last_comparison,
            model.side_by_side_path,
            model.paths.models / model.latest,
        )
    del model
    gc.collect()  # networks, adapters and optimizers refer to one another in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return result


def train(
    options: Options, auto_resume: bool, accelerator: Accelerator, stop: StopSignal | None = None
) -> BaseModel:
    """The trainer after its run, which no other process may start or resume meanwhile."""
    from gdpo_sr.trainer.run_lock import run_lock
    from gdpo_sr.utils.logger import get_logger

    paths = ExperimentPaths(options.path.experiments_root, options.name)
    if not accelerator.is_main_process:
        return _train(options, paths, auto_resume, accelerator, stop)
    with run_lock(paths.folder, get_logger()):
        return _train(options, paths, auto_resume, accelerator, stop)


def _train(
    options: Options,
    paths: ExperimentPaths,
    auto_resume: bool,
    accelerator: Accelerator,
    stop: StopSignal | None,
) -> BaseModel:
    """All that can be refused comes first, then the first file is written."""
    from accelerate.utils import set_seed

    from gdpo_sr.config.load import dump_options
    from gdpo_sr.trainer.processes import log_processes

    set_seed(options.manual_seed)
    resume = auto_resume or options.path.resume_state is not None
    text = dump_options(options)
    changes = check_resumed(paths.options_file, text) if resume else []
    model = model_class(options)(options, paths, accelerator)
    folder = model.load_newest(auto_resume) if resume else None
    if accelerator.is_main_process:
        model.check_space()
        archived = paths.prepare(text, resume)
        if archived is not None:
            model.logger.info("the earlier run of this name is now %s", archived)
    accelerator.wait_for_everyone()
    model.open_logs()
    log_processes(accelerator, model.logger)
    for sentence in changes:
        model.logger.warning(sentence)
    if folder is not None:
        model.settle(folder)
    elif resume:
        model.logger.info("no checkpoint in %s: starting afresh", paths.training_states)
    model.fit(stop)
    model.close()
    accelerator.wait_for_everyone()
    return model


def model_class(options: Options) -> type[BaseModel]:
    """The trainer that `model_type` names."""
    if options.model_type == "NAOSDModel":
        from gdpo_sr.stage1.naosd_model import NAOSDModel

        return NAOSDModel
    from gdpo_sr.stage2.gdpo_model import GDPOModel

    return GDPOModel


def control_of(options: Options) -> Options:
    """The same run with advantages permuted inside each group, under another name."""
    train = options.train.model_copy(update={"control": "permuted_advantages"})
    return options.model_copy(update={"name": f"{options.name}_control", "train": train})


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments(argv)
    from gdpo_sr.config.load import dump_options, load_options

    options = load_options(arguments.opt, arguments.force_yml)
    if arguments.control and options.model_type != "GDPOModel":
        raise OptionError(
            f"--control permutes advantages, which {options.model_type} does not have: remove it"
        )
    if arguments.dry_run:
        print(dump_options(options), end="")
        return 0
    if options.num_threads is not None:
        import torch

        torch.set_num_threads(options.num_threads)
    from accelerate import PartialState

    result = run(options, arguments.auto_resume)
    if not result.finished:
        return STOPPED
    control = None
    if arguments.control:
        other = run(control_of(options), arguments.auto_resume)
        if not other.finished:
            return STOPPED
        control = other.comparison
    if result.comparison is not None:
        print_result(options, result, control)
    PartialState().destroy_process_group()
    return 0


def print_result(options: Options, result: Result, control: Comparison | None) -> None:
    """The table of base against result, and where to find what was made (main process only)."""
    from gdpo_sr.trainer.report import comparison_table

    count = len(result.comparison.pictures)
    print(f"\n{options.name}: base against {result.name} on {count} pictures, same noise, paired")
    print(comparison_table(result.comparison, control, result.name, result.fitted_label))
    if options.val.save_img:
        print(f"\nside by side: {result.side_by_side}")
    print(f"model:        {result.model}")
