"""Building a pyiqa metric without long waits when its weights cannot be downloaded."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from gdpo_sr.types import MetricError

NO_DOWNLOAD = ("psnr_y", "ssim_y", "psnr", "ssim", "ms_ssim", "gmsd", "nlpd", "niqe", "piqe")
_TIMEOUT = 10.0  # seconds without an answer from a server


def build(name: str, device: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """The pyiqa metric `name`.

    Hugging Face's client waits 50 seconds and more for a host that is not there. So the metric is
    first built with that client offline, from its cache; only if that fails and the host answers
    is it built online.

    Raises:
        MetricError: wrong option, missing module, damaged weights, or weights that cannot be
            downloaded.
    """
    import pyiqa

    def create() -> Callable[..., Any]:
        return pyiqa.create_metric(name, device=device, **options)

    try:
        with _short_timeouts():
            try:
                with _hub_offline():
                    return create()
            except OSError:
                if not _hub_answers():
                    raise
                return create()
    except OSError as error:  # every failed download is one
        raise MetricError(_no_weights(name, error)) from error
    except ImportError as error:
        message = f"metric '{name}' needs a Python module that is missing ({error}); install it"
        raise MetricError(message) from error
    except Exception as error:  # wrong option or device, damaged weights: pyiqa names none of them
        reason = f"{type(error).__name__}: {error}"
        message = f"metric '{name}' cannot be built on {device} with {dict(options)}: {reason}"
        raise MetricError(message) from error


def _no_weights(name: str, error: OSError) -> str:
    reason = " ".join(str(error).split())[:120]
    offline = ", ".join(NO_DOWNLOAD)
    return (
        f"metric '{name}': its weights cannot be downloaded ({reason}); connect once to fetch them"
        f" into the cache, or choose a metric that needs none: {offline}"
    )


@contextmanager
def _short_timeouts() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _hub_offline() -> Iterator[None]:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
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
