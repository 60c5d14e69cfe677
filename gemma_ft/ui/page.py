"""The page as a whole: header, three tabs, the API, and how it is served.

Promises that building it twice gives two independent pages, and that it works without any request to another host.
Does not listen; `app.py` launches it.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from gemma_ft import __version__
from gemma_ft.ui.access import SameSiteOnly
from gemma_ft.ui.api import add_api
from gemma_ft.ui.bell import place_watcher
from gemma_ft.ui.create import build_create
from gemma_ft.ui.dashboard import build_dashboard
from gemma_ft.ui.playground import build_playground
from gemma_ft.ui.served import ASSETS, served
from gemma_ft.ui.services import Services
from gemma_ft.ui.tensorboard import tensorboard_routes

QUEUE_SECONDS = 0.01
TITLE = "Gemma fine-tuning"
HEADER = f"""# {TITLE}
From your examples to a tuned Gemma, in the open: see what is trained, watch it learn, compare, publish."""


def build_page(services: Services) -> gr.Blocks:
    """Return the page, not yet launched."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(HEADER, elem_classes="page-header")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Create", id="create", elem_id="tab-create"):
                token = build_create(services, tabs)
            with gr.Tab("Dashboard", id="dashboard", elem_id="tab-dashboard"):
                dashboard = build_dashboard(services, token)
            with gr.Tab("Playground", id="playground", elem_id="tab-playground") as playground:
                build_playground(services, playground, dashboard, token, tabs)
        place_watcher(services)
        add_api(services)
        page.load(_tab_of_address, None, tabs, queue=False, show_progress="hidden", api_visibility="private")
    _look_less_often(page)
    return page


def launch_options(services: Services) -> dict[str, Any]:
    """Return the arguments of `launch` that make the page what it is."""
    return {
        "server_name": services.settings.host,
        "server_port": services.settings.port,
        "theme": theme(),
        "css_paths": [ASSETS / "app.css", ASSETS / "dashboard.css"],
        "footer_links": ["api"],
        "ssr_mode": False,
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": "200mb",
        "app_kwargs": {"routes": routes(services), "middleware": [Middleware(SameSiteOnly)]},
    }


def theme() -> gr.themes.Base:
    """Return the look: fonts bundled with Gradio in the weights that are complete there, contrasts of at least 4.5."""
    soft = gr.themes.Soft(
        primary_hue="indigo",
        secondary_hue="sky",
        neutral_hue="slate",
        font=[gr.themes.GoogleFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[gr.themes.GoogleFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    )
    return soft.set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        checkbox_label_background_fill_selected="*primary_600",
        checkbox_label_background_fill_selected_dark="*primary_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
    )


def routes(services: Services) -> list[BaseRoute]:
    """Return the page's own routes: what its script needs, TensorBoard, and a sign of life."""
    return [
        *served(services.manager),
        Route("/healthz", _health),
        *tensorboard_routes(services.settings.runs),
    ]


def _look_less_often(page: gr.Blocks) -> None:
    """Let Gradio's queue look for events a hundred times a second instead of a thousand; at rest that is its only work.

    Gradio has no public setting for it. Where it keeps the figure elsewhere, nothing is changed.
    """
    queue: Any = getattr(page, "_queue", None)
    if getattr(queue, "sleep_when_free", QUEUE_SECONDS) < QUEUE_SECONDS:
        queue.sleep_when_free = QUEUE_SECONDS


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"ok": True, "version": __version__})


def _tab_of_address(request: gr.Request) -> Any:
    """Open the tab that the address asks for: `?tab=playground`, or the Dashboard for `?run=<id>`."""
    wanted = request.query_params.get("tab") or ("dashboard" if request.query_params.get("run") else None)
    return gr.Tabs(selected=wanted) if wanted in ("create", "dashboard", "playground") else gr.skip()
