"""Rewards of the user's own: from a file, an installed module, or a function of a running program.

`@register_reward("sharpness")` files a function `f(candidates, hr, **options) -> scores` or a class
whose objects are such functions; `train.reward.<kind>.<name>.reward: sharpness` uses it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from gdpo_sr.registry import Registry
from gdpo_sr.types import GDPOSRError, OptionError

RewardFunction = Callable[..., torch.Tensor]
REWARDS = Registry("reward")
register_reward = REWARDS.register
_FILES: dict[str, ModuleType] = {}
_LOGGER = logging.getLogger("gdpo_sr")


@contextmanager
def users_code() -> Iterator[None]:
    """Inside, code of the user's runs: what it raises of a class below BaseException alone becomes
    a RuntimeError, but for Ctrl-C and the end of the program; torch's default dtype stays.
    """
    dtype = torch.get_default_dtype()
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {said(error)}") from error
    finally:
        torch.set_default_dtype(dtype)


def said(error: BaseException) -> str:
    """What an error of a user's code says, on one line; its class where it says nothing."""
    name = type(error).__name__
    try:
        return " ".join(str(error).split())[:200] or name
    except Exception:  # of a class whose text cannot be made
        return name


def load_user_modules(modules: Iterable[str]) -> None:
    """Import the files and modules that an options file names, each once in a process.

    Args:
        modules: `my_rewards.py` (path from the working directory) or `my_package.rewards`.

    Raises:
        OptionError: no such file or module, or it raises while it is imported.
    """
    for name in modules:
        if name.endswith(".py"):
            path = Path(name).expanduser().resolve()
            _FILES[path.stem] = _import_file(path)
        else:
            _import_module(name)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise OptionError(f"train.reward.user_modules: no file '{path}'; give its full path")
    name = f"gdpo_sr_user_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with users_code():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        reason = f"{type(error).__name__}: {said(error)}"
        raise OptionError(f"'{path}' fails: {reason}; mend it") from error
    return module


def _import_module(name: str) -> ModuleType:
    if name in _FILES:
        return _FILES[name]
    try:
        with users_code():
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise OptionError(
            f"module '{name}' cannot be imported ({type(error).__name__}: {said(error)}): install "
            "it, or name its file in train.reward.user_modules"
        ) from error


def find_reward(name: str, options: Mapping[str, Any] | None = None) -> RewardFunction:
    """The function behind `name`, with `options` bound.

    Args:
        name: a registered name, or a function in full, such as `my_rewards.sharpness`.
        options: keyword arguments of the function, or of the class that makes it.

    Raises:
        OptionError: nothing of this name, no plain function, or it does not take `options`.
    """
    registered = name in REWARDS or "." not in name
    found = REWARDS.get(name) if registered else _plain_function(name)
    try:
        if inspect.isclass(found):
            return _made(name, found, options or {})
        inspect.signature(found).bind(None, None, **(options or {}))
    except TypeError as error:
        raise OptionError(f"reward '{name}' with options {dict(options or {})}: {error}") from error
    return partial(found, **options) if options else found


def _made(name: str, kind: type, options: Mapping[str, Any]) -> RewardFunction:
    """An object of a user's class."""
    try:
        with users_code():
            return kind(**options)
    except (GDPOSRError, TypeError):
        raise
    except (Exception, SystemExit) as error:
        raise OptionError(
            f"reward '{name}' cannot be made: {type(error).__name__}: {said(error)}; mend it"
        ) from error


def _plain_function(name: str) -> RewardFunction:
    """A function written for groups of candidates, and nothing of Python's own library.

    A class too, if it is in a file of `train.reward.user_modules`, which has been run anyway.
    """
    module, _, attribute = name.rpartition(".")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise OptionError(
            f"reward '{name}' is of Python's own library, which has no rewards: name a function of "
            "yours, or register one in a file of train.reward.user_modules"
        )
    found = getattr(_import_module(module), attribute, None)
    if not (module in _FILES and callable(found)) and not _takes_candidates(found):
        raise OptionError(
            f"reward '{name}': module '{module}' has no function '{attribute}(candidates, hr)'; "
            "give one, or register a class with @register_reward in train.reward.user_modules"
        )
    _LOGGER.info("reward '%s' is of '%s'", name, inspect.getsourcefile(found))
    return found


def _takes_candidates(found: Any) -> bool:
    """Whether it is a plain function whose first two parameters are named ones, which no options
    can replace.
    """
    if not inspect.isfunction(found):
        return False
    first = list(inspect.signature(found).parameters.values())[:2]
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len(first) == 2 and all(parameter.kind in named for parameter in first)
