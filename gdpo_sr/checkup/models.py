"""Base, LoRA and metrics of a run: present, downloadable or missing, and under which licence."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path

from gdpo_sr.checkpoints.lora import find_adapter
from gdpo_sr.checkup.finding import Finding
from gdpo_sr.config.schema import Options
from gdpo_sr.generators.base_folder import EMBEDDED, base_folder, cached_base, mirrors, part_folder
from gdpo_sr.metrics.pyiqa_build import MetricUnavailable, hub_answers
from gdpo_sr.metrics.registry import create_metric
from gdpo_sr.types import CheckpointError, GDPOSRError, MetricError

_SD21 = "CreativeML Open RAIL++-M"


def base(options: Options) -> tuple[Finding, Path | None]:
    """The base of a run, and where it lies if it does."""
    network = options.network_g
    places = mirrors(network.base)
    try:
        for place in places:
            if place in EMBEDDED or Path(place).exists():
                found = base_folder(place, network.revision)
                return Finding("base", "ok", f"'{place}' in '{found}'"), found
            cached = cached_base(place, network.revision)
            if cached is not None:
                return Finding("base", "ok", f"'{place}' in the hub's cache '{cached}'"), cached
    except CheckpointError as error:
        return Finding("base", "bad", str(error)), None
    names = ", ".join(f"'{place}'" for place in places)
    if any(place.count("/") == 1 for place in places) and hub_answers():
        return Finding("base", "note", f"not here, will be downloaded: {names}"), None
    remedy = "connect once, or give a folder as network_g.base"
    return Finding("base", "bad", f"{names} is not on this machine: {remedy}"), None


def parts(options: Options) -> Iterator[Finding]:
    """What replaces parts of the base, and adapters to start from."""
    network, lora = options.network_g, options.path.pretrain_lora
    for name in ("unet", "vae"):
        folder = getattr(network, name)
        if folder is not None:
            yield _found(name, lambda f=folder, n=name: part_folder(f, n))
    if lora is not None:
        yield _found("pretrain_lora", lambda: find_adapter(lora))


def _found(name: str, find) -> Finding:  # noqa: ANN001 - a function without arguments
    try:
        return Finding(name, "ok", f"'{find()}'")
    except GDPOSRError as error:
        return Finding(name, "bad", str(error))


def metric_names(options: Options) -> dict[str, str]:
    """Every metric that the run builds, and what for."""
    train, names = options.train, {}
    rewards = getattr(train, "reward", None)
    if rewards is not None:
        for kind in ("fidelity", "perception"):
            chosen = getattr(rewards, kind).values()
            names |= {r.metric: "reward" for r in chosen if r.metric is not None}
    losses = getattr(train, "losses", None)
    if losses is not None:
        names |= {p.metric: "loss" for p in losses.perceptual.values()}
    for held_out in options.val.metrics.values():
        names.setdefault(held_out.metric, "validation")
    return names


def metrics(options: Options) -> Iterator[Finding]:
    """Whether the weights of every metric are here; those that need none are one line."""
    ready, online = [], None
    for name, use in metric_names(options).items():
        try:
            create_metric(name, "cpu", allow_download=False)
            ready.append(name)
        except MetricUnavailable as error:
            online = hub_answers() if online is None else online
            status = "note" if online else "bad"
            remedy = error.remedy.replace("run once with --allow_download", "connect once")
            reach = "no weights here: will be downloaded" if online else remedy
            yield Finding(f"{use} {name}", status, reach)
        except MetricError as error:
            yield Finding(f"{use} {name}", "bad", str(error))
    if ready:
        yield Finding("metrics", "ok", ", ".join(ready))


def licences(places: Sequence[str]) -> Finding:
    """Of what a run uses."""
    found = ["gdpo_sr Apache-2.0"]
    for place in places:
        if place in EMBEDDED:
            found.append(f"{place} Apache-2.0 (with notices)")
        elif "stable-diffusion-2-1" in place:
            found.append(f"{place} {_SD21}")
        else:
            found.append(f"{place}: see its model card")
    try:
        version = importlib.metadata.version("pyiqa")
        found.append(f"pyiqa {version}: NON-COMMERCIAL use only")
    except importlib.metadata.PackageNotFoundError:
        pass
    return Finding("licences", "note", "; ".join(found))
