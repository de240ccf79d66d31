"""The pristine model of NIQE, taken from basicsr so that nothing has to be downloaded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gdpo_sr.types import MetricError
from gdpo_sr.utils import basicsr


@contextmanager
def niqe_parameters() -> Iterator[Path]:
    """A .mat file as pyiqa's NIQE reads it, gone when the context ends; pyiqa reads it once, while
    it is built.

    Raises:
        MetricError: the installed basicsr carries no parameters of NIQE.
    """
    from scipy.io import savemat

    source = basicsr.package_folder() / "metrics" / "niqe_pris_params.npz"
    if not source.is_file():
        raise MetricError(f"niqe: no file {source}; install basicsr 1.4.2, whose package holds it")
    with np.load(source) as arrays, tempfile.TemporaryDirectory(prefix="gdpo_sr_") as folder:
        path = Path(folder) / "niqe.mat"
        names = {"mu_prisparam": "mu_pris_param", "cov_prisparam": "cov_pris_param"}
        savemat(path, {theirs: arrays[ours] for theirs, ours in names.items()})
        yield path
