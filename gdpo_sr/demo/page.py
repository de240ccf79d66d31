"""The page in a browser, by gradio: the optional extra `demo`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gdpo_sr.demo.session import MAX_CANDIDATES, Request, Restored, Session, as_picture
from gdpo_sr.types import GDPOSRError

_WAITING = 8  # requests in the queue
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; "
    "form-action 'self'"
)
"""The browser loads nothing from anywhere else, whatever gradio's page names."""


class LocalOnly:
    """Adds the policy to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                pair = (b"content-security-policy", _POLICY.encode())
                message["headers"] = [*message.get("headers", []), pair]
            await send(message)

        await self.app(scope, receive, with_policy)


def build(session: Session) -> gr.Blocks:
    """The page over a session."""
    with gr.Blocks(title="GDPO-SR", analytics_enabled=False) as page:
        gr.Markdown("# GDPO-SR\nDrop a picture and restore it. Nothing leaves this computer.")
        with gr.Row():
            with gr.Column(scale=1):
                inputs = _inputs(session)
                with gr.Row():
                    start = gr.Button("Restore", variant="primary", elem_id="restore")
                    stop = gr.Button("Stop", elem_id="stop")
            with gr.Column(scale=2):
                outputs = _outputs()
        run = start.click(_restoring(session), inputs, outputs, concurrency_limit=1)
        stop.click(None, cancels=[run])
    return page.queue(max_size=_WAITING)


def _inputs(session: Session) -> list[Any]:
    return [
        gr.Image(type="filepath", image_mode=None, label="Picture", sources=["upload", "clipboard"],
                 elem_id="picture"),
        gr.Dropdown(list(session.bases), value=session.bases[0], label="Base"),
        gr.Dropdown(list(session.loras), value=session.loras[-1], label="LoRA"),
        gr.Slider(0, 1, 1, step=0.05, label="Strength of the LoRA"),
        gr.Slider(1, 8, 4, step=0.5, label="Scale"),
        gr.Slider(-1, 999, -1, step=1, label="Noise level t_add (-1: the model's own)"),
        gr.Slider(1, MAX_CANDIDATES, 4, step=1, label="Candidates"),
        gr.Number(0, precision=0, label="Seed"),
    ]  # fmt: skip


def _outputs() -> list[Any]:
    kept = ["download", "fullscreen"]  # not the button that shares with others
    look: dict[str, Any] = {"format": "png", "buttons": kept}
    return [
        gr.ImageSlider(label="Before and after", elem_id="slider", **look),
        gr.Gallery(label="Candidates", columns=3, height="auto", elem_id="candidates", **look),
        gr.Image(label="Where they differ", elem_id="spread", **look),
    ]


def _restoring(session: Session) -> Any:
    def restoring(
        file: str | None, base: str, lora: str, strength: float, *numbers: float
    ) -> Iterator[list[Any]]:
        if file is None:
            raise gr.Error("Drop a picture first.")
        scale, t_add, candidates, seed = numbers
        noise = None if t_add < 0 else int(t_add)
        request = Request(file, base, lora, strength, scale, noise, int(candidates), int(seed))
        try:
            for found in session.restore(request):
                yield _shown(found)
        except GDPOSRError as error:
            raise gr.Error(str(error)) from error

    return restoring


def _shown(found: Restored) -> list[Any]:
    pictures = [as_picture(candidate) for candidate in found.candidates]
    pair = (as_picture(found.before), pictures[found.best])
    return [pair, list(zip(pictures, found.captions(), strict=True)), as_picture(found.spread)]


def launch(page: gr.Blocks, host: str, port: int | None, max_file_size: int, wait: bool) -> str:
    """Serve the page and, with `wait`, stay until Ctrl-C; returns its address.

    Args:
        port: None takes the first that is free from 7860 on.
        max_file_size: bytes of an uploaded picture.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=max_file_size,
        footer_links=[],
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        app_kwargs={"middleware": [Middleware(LocalOnly)]},
    )
    print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
    if wait:
        page.block_thread()
    return address
