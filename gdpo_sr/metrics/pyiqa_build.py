"""Building a pyiqa metric: without the network unless downloads are allowed, and with a remedy when
its weights or a module are missing.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO
from urllib.parse import urlsplit
from urllib.request import getproxies

from gdpo_sr.metrics.safe_load import weights_only
from gdpo_sr.types import MetricError

NO_DOWNLOAD = (
    "psnr_y", "ssim_y", "psnr", "ssim", "ms_ssim", "gmsd", "nlpd", "niqe", "piqe",
    "texture_energy", "feature_distance",
)  # fmt: skip
_TIMEOUT = 10.0  # seconds without an answer from a server
_MODULE_REMEDIES = {
    "pkg_resources": "it left setuptools in version 81; pip install 'setuptools<81'"
}


class MetricUnavailable(MetricError):
    """A known metric whose weights or Python module are not on this machine.

    Attributes:
        remedy: what to do about it, without the metric's name.
    """

    def __init__(self, name: str, remedy: str):
        super().__init__(f"metric '{name}': {remedy}; none are needed by {', '.join(NO_DOWNLOAD)}")
        self.remedy = remedy


class _WeightsFile(OSError):
    """A file of weights that pyiqa would now download."""

    def __init__(self, path: str | None):
        super().__init__(path or "the model hub's cache")
        self.path = path


def build(
    name: str, device: str, options: Mapping[str, Any], allow_download: bool = True
) -> Callable[..., Any]:
    """The pyiqa metric `name`.

    pyiqa, torchvision and CLIP look for a file of weights in their caches (below TORCH_HOME) and
    download it if it is not there; timm asks Hugging Face's cache. So the metric is first built
    with all downloads switched off, which needs no network and tells which file is missing; only
    then, and only if that is allowed and the host answers, is it built online.

    Raises:
        MetricUnavailable: no weights on this machine, or a module is missing.
        MetricError: wrong option or device, damaged weights.
    """
    import pyiqa
    from huggingface_hub import constants

    def create(out: TextIO) -> Callable[..., Any]:
        # pyiqa prints what it loads, torchvision warns of how pyiqa calls it
        with weights_only(), contextlib.redirect_stdout(out), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pyiqa.create_metric(name, device=device, **options)

    try:
        try:
            with _no_downloads(), _replaced(constants, "HF_HUB_OFFLINE", True):
                return create(io.StringIO())
        except OSError:
            if not (allow_download and hub_answers()):
                raise
        with _short_timeouts():
            return create(sys.stderr)
    except OSError as error:  # every failed download is one
        raise MetricUnavailable(name, _no_weights(error, allow_download)) from error
    except ImportError as error:
        raise MetricUnavailable(name, _no_module(error)) from error
    except MetricError as error:  # of `weights_only`
        raise MetricError(f"metric '{name}': {error}") from error
    except Exception as error:  # wrong option or device, damaged weights: pyiqa names none of them
        reason = f"{type(error).__name__}: {error}"
        message = f"metric '{name}' cannot be built on {device} with {dict(options)}: {reason}"
        raise MetricError(message) from error


def _no_weights(error: OSError, allow_download: bool) -> str:
    if isinstance(error, _WeightsFile) and error.path:
        path = Path(error.path)
        wanted = f"no weights on this machine; put {path.name} into {_from_home(path.parent)}"
    else:
        wanted = "no weights on this machine (model hub's cache)"
    online = "connect once" if allow_download else "run once with --allow_download"
    return f"{wanted}, or {online} to fetch them"


def _no_module(error: ImportError) -> str:
    remedy = _MODULE_REMEDIES.get(error.name or "", f"install it ({error})")
    return f"needs the Python module {error.name}: {remedy}"


def _from_home(folder: Path) -> str:
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


@contextlib.contextmanager
def _no_downloads() -> Iterator[None]:
    """Every way by which pyiqa's metrics fetch a file raises OSError at once instead."""
    import torch

    def file_wanted(url: str, dst: Any, *args: Any, **kwargs: Any) -> None:
        raise _WeightsFile(str(dst))

    def clip_wanted(url: str, root: str) -> str:
        path = Path(root) / url.rsplit("/", 1)[-1]
        if not path.is_file():
            raise _WeightsFile(str(path))
        return str(path)

    def no_connection(*args: Any, **kwargs: Any) -> None:
        raise _WeightsFile(None)

    changes = [
        (torch.hub, "download_url_to_file", file_wanted),
        (_module("pyiqa.utils.download_util"), "download_url_to_file", file_wanted),
        (_module("pyiqa.archs.clip_model"), "_download", clip_wanted),
        (_module("pyiqa.archs.afineclip_model"), "_download", clip_wanted),
        (socket, "getaddrinfo", no_connection),
        (socket, "create_connection", no_connection),
    ]
    with contextlib.ExitStack() as stack:
        for owner, attribute, value in changes:
            if owner is not None and hasattr(owner, attribute):
                stack.enter_context(_replaced(owner, attribute, value))
        yield


def _module(name: str) -> ModuleType | None:
    """A module of pyiqa, or None where this version has none of the name or it needs another."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@contextlib.contextmanager
def _replaced(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    before = getattr(owner, attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        setattr(owner, attribute, before)


@contextlib.contextmanager
def _short_timeouts() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def hub_answers() -> bool:
    """Whether a connection to the hub can be opened; through a proxy that is left to the download
    itself.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=_TIMEOUT).close()
    except OSError:
        return False
    return True
