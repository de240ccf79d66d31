"""Files that would run code, reach out or never end: each is refused or does nothing.

What each would do is make the file `mark`; sockets and other programs are watched for.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gdpo_sr import convert
from gdpo_sr.checkpoints.meaning import Meaning
from gdpo_sr.config.load import load_options
from gdpo_sr.config.yaml_file import parse_yaml
from gdpo_sr.metrics.registry import create_metric
from gdpo_sr.metrics.safe_load import weights_only
from gdpo_sr.publish.model_card import RunFacts, model_card
from gdpo_sr.restore import manifest
from gdpo_sr.rewards.registry import find_reward, load_user_modules
from gdpo_sr.trainer.report import Comparison, MetricComparison
from gdpo_sr.trainer.state import load_state
from gdpo_sr.types import GDPOSRError
from gdpo_sr.utils.image_io import read_image, write_image
from tests.faults.json_mutations import restore
from tests.faults.runs import FILES
from tests.faults.tally import Tally

PNG = b"\x89PNG\r\n\x1a\n"


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


class Watch:
    """Notes what reaches out of the process while it is on."""

    def __init__(self) -> None:
        self.on, self.seen = False, []
        sys.addaudithook(self)

    def __call__(self, event: str, values: tuple) -> None:
        out = event in ("socket.connect", "socket.getaddrinfo", "os.system", "os.exec")
        if self.on and (out or (event == "subprocess.Popen" and "-I" not in values[1])):
            self.seen.append(f"{event} {values!r:.100}")


def bases(base: Path, place: Path, mark: Path) -> dict[str, Callable[[], None]]:
    """Bases that name what is elsewhere."""
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"

    def changed(part: str, changes: dict[str, Any], **files: str) -> Callable[[], None]:
        def use() -> None:
            shutil.copytree(base, place)
            file = place / part
            old = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps({**old, **changes}))
            for name, text in files.items():
                (file.parent / name.replace("__", ".")).write_text(text)
            restore(place)

        return use

    clip, unet = "text_encoder/config.json", "unet/config.json"
    mapped = {"AutoModel": "modeling.Evil", "AutoConfig": "modeling.Evil"}
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    return {
        "class of another module": changed(unet, {"_class_name": "os.system"}),
        "class as a list": changed(unet, {"_class_name": ["modeling", "Evil"]}),
        "auto_map of the network": changed(unet, {"auto_map": mapped}, modeling__py=code),
        "auto_map of the text encoder": changed(clip, {"auto_map": mapped}, modeling__py=code),
        "auto_map of the tokenizer": changed(
            "tokenizer/tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["modeling.Evil", None]}},
            modeling__py=code,
        ),
        "kernels from a hub": changed(clip, {"_attn_implementation": "evil/kernels"}),
        "kernels, other key": changed(clip, {"attn_implementation": "evil/kernels:attention"}),
        "quantizer": changed(clip, {"quantization_config": {"quant_method": "gptq"}}),
        "quantizer of the network": changed(
            unet, {"quantization_config": {"quant_method": "bitsandbytes"}}
        ),
        "weights by another name": changed(clip, {"transformers_weights": "../../x.safetensors"}),
        "adapter beside a part": changed(
            "text_encoder/adapter_config.json",
            {"peft_type": "LORA", "base_model_name_or_path": "evil/model"},
        ),
        "weights above the folder": changed(
            "unet/diffusion_pytorch_model.safetensors.index.json", index
        ),
        "pipeline of another module": changed(
            "model_index.json", {"_class_name": ["pipeline", "Evil"]}, pipeline__py=code
        ),
        "a billion channels": changed(unet, {"block_out_channels": [10**9, 10**9]}),
        "a million layers": changed(clip, {"num_hidden_layers": 10**6}),
        "a billion tokens": changed("tokenizer/tokenizer_config.json", {"model_max_length": 10**9}),
        "base by address": lambda: restore("http://127.0.0.1:9/base"),
    }


def adapters(base: Path, adapter: Path, place: Path) -> dict[str, Callable[[], None]]:
    """Adapters whose settings never end, or name what is elsewhere."""

    def changed(**changes: Any) -> Callable[[], None]:
        def use() -> None:
            shutil.copytree(adapter, place)
            file = place / "adapter_config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
            restore(base, place)

        return use

    endless = "(([a-z_0-9.]*)*)*!"
    return {
        "endless targets": changed(target_modules=endless),
        "endless ranks": changed(rank_pattern={endless: 2}),
        "no pattern": changed(target_modules="(" * 500),
        "huge rank": changed(r=10**9),
        "class of another library": changed(
            auto_mapping={"parent_library": "os", "base_model_class": "system"}
        ),
        "base at an address": changed(base_model_name_or_path="http://127.0.0.1:9/x"),
        "another kind": changed(peft_type="XLORA"),
        "other runtime": changed(runtime_config={"ephemeral_gpu_offload": True}),
    }


def pickles(place: Path, mark: Path) -> dict[str, Callable[[], None]]:
    """Pickles with code, wherever weights are read."""
    place.mkdir(parents=True)
    file, state = place / "weights.pth", place / "0000001"
    torch.save({"params": Evil(mark)}, file)
    state.mkdir()
    torch.save({"iteration": 1, "trained": Evil(mark)}, state / "state.pt")
    (place / "bare.pkl").write_bytes(pickle.dumps(Evil(mark), protocol=2))

    def as_metrics_do(name: str) -> None:
        with weights_only():
            vars(torch)["load"](str(place / name), weights_only=False)

    def converted(name: str) -> None:
        convert.main([str(place / name), "-o", str(place / "out")])

    return {
        "weights of a metric": lambda: create_metric(
            "cnniqa", allow_download=False, pretrained_model_path=str(file)
        ),
        "a bare pickle": lambda: as_metrics_do("bare.pkl"),
        "a state": lambda: load_state(state),
        "a released checkpoint": lambda: converted("weights.pth"),
        "a bare one": lambda: converted("bare.pkl"),
    }


def options(mark: Path) -> dict[str, Callable[[], None]]:
    """Options files that name functions, addresses and objects."""

    def forced(*items: str) -> None:
        load_options(FILES["stage2"], items)
        raise GDPOSRError("accepted, and not used")

    tags = {
        f"tag {tag}": lambda tag=tag: parse_yaml(f"a: {tag} [touch {mark}]", "file")
        for tag in ("!!python/object/apply:os.system", "!!python/name:os.system", "!x", "!!binary")
    }
    rewards = {
        f"reward {name}": lambda name=name: find_reward(name, {"command": f"touch {mark}"})
        for name in ("os.system", "subprocess.getoutput", "builtins.eval", "torch.load")
    }
    address = "http://127.0.0.1:9/x"
    return {
        **tags,
        **rewards,
        "module by address": lambda: load_user_modules([address]),
        "file by address": lambda: load_user_modules([f"{address}.py"]),
        "weights by address": lambda: forced(
            f"val.metrics.a={{metric: cnniqa, options: {{pretrained_model_path: '{address}'}}}}"
        ),
        "reward's weights by address": lambda: forced(
            "train.reward.fidelity.a={metric: cnniqa, options: {pretrained_model_path: "
            f"'{address}'}}}}"
        ),
    }


def pictures(place: Path, mark: Path) -> dict[str, Callable[[], None]]:
    """Pictures for other programs, huge ones, and what is no file."""
    place.mkdir(parents=True)

    def content(name: str, data: bytes) -> Callable[[], None]:
        (place / name).write_bytes(data)
        return lambda: read_image(place / name)

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + crc

    side = (13300).to_bytes(4, "big")
    huge = chunk(b"IHDR", side * 2 + b"\x08\x02\x00\x00\x00") + chunk(b"IDAT", zlib.compress(b"\0"))
    os.mkfifo(place / "pipe.png")
    (place / "loop.png").symlink_to("loop.png")
    (place / "zero.png").symlink_to("/dev/zero")
    script = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch {mark}) (w) file\n"
    return {
        "EPS": content("a.eps", script.encode()),
        "EPS as PNG": content("b.png", script.encode()),
        "PDF": content("c.png", b"%PDF-1.4\n"),
        "SVG": content("d.png", f'<svg onload="touch {mark}"/>'.encode()),
        "177 million pixels": content("e.png", PNG + huge),
        "pipe": lambda: read_image(place / "pipe.png"),
        "link to itself": lambda: read_image(place / "loop.png"),
        "link to a device": lambda: read_image(place / "zero.png"),
    }


def links(place: Path) -> dict[str, Callable[[], None]]:
    """Links to elsewhere in the place of what is written: not followed."""
    place.mkdir(parents=True)
    secret = place / "secret"
    secret.write_text("kept")
    (place / "out").mkdir()
    for name in (manifest.NAME, "result.png"):
        (place / "out" / name).symlink_to(secret)

    def written(write: Callable[[], None]) -> Callable[[], None]:
        def use() -> None:
            try:
                write()
            finally:
                assert secret.read_text() == "kept", "the link is followed"

        return use

    picture = torch.zeros(3, 4, 4)
    return {
        "manifest": written(lambda: manifest.append(place / "out", {"a": 1})),
        "manifest, read": written(lambda: manifest.read(place / "out")),
        "picture": written(lambda: write_image(place / "out" / "result.png", picture)),
    }


def cards() -> dict[str, Callable[[], None]]:
    """Names and prompts with markup in a model card."""
    bad = "x](javascript:1)<script>|`\n# y"

    def used(title: str, rows: list[MetricComparison], prompt: str) -> None:
        run = RunFacts({"network_g": {"prompt": prompt}}, 1, Comparison(1, [bad, bad], rows))
        text = model_card(run, title, False, Meaning(base=bad), bad)
        body = re.sub("`[^`\n]+`", "", text.split("## Options")[0].split("---", 2)[-1])
        assert "<script" not in body.replace("\\<", "") and "\n# y" not in body, body
        assert text.rstrip().endswith("`" * (4 if "```" in prompt else 3))

    row = MetricComparison(bad, False, True, [1.0], [2.0])
    return {
        "names": lambda: used(bad, [row], "a"),
        "prompt": lambda: used("a", [row], "```\n<script>"),
    }


def attack(base: Path, adapter: Path, root: Path) -> Tally:
    """All of them, once."""
    tally, mark, watch = Tally("hostile files"), root / "mark", Watch()
    place = root / "place"
    groups = {
        "base": bases(base, place, mark),
        "adapter": adapters(base, adapter, place),
        "pickle": pickles(root / "pickles", mark),
        "options": options(mark),
        "picture": pictures(root / "pictures", mark),
        "link": links(root / "links"),
        "card": cards(),
    }
    for kind, cases in groups.items():
        for name, use in cases.items():
            shutil.rmtree(place, ignore_errors=True)
            with tally.case(f"{kind}: {name}"):
                watch.on, watch.seen = True, []
                try:
                    use()
                finally:
                    watch.on = False
                    assert not mark.exists(), "it is executed"
                    assert not watch.seen, watch.seen
    return tally
