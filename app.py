"""The page: `python app.py` serves it on port 7860; on a Hugging Face Space this file is started as it is.

Promises that torch is never imported here and that nothing happens at import. Training and answering are done by child
processes; ending this program ends neither a run nor its supervisor.
"""

from __future__ import annotations

import sys

from gemma_ft.errors import GemmaFtError
from gemma_ft.settings import Settings


def main() -> None:
    """Build the page from the environment's settings and serve it until interrupted."""
    try:
        settings = Settings.from_env()
        # Gradio reads the environment when it is imported, and a bad port would be a traceback instead of a sentence.
        from gemma_ft.ui.page import build_page, launch_options  # noqa: PLC0415
        from gemma_ft.ui.services import Services  # noqa: PLC0415

        services = Services(settings)
        services.settings.make_home()
        services.watch()
        build_page(services).launch(**launch_options(services))
    except GemmaFtError as exc:
        sys.exit(f"{exc.report.title}. {exc}")
    except OSError as exc:
        sys.exit(f"The page cannot be served: {exc}")


if __name__ == "__main__":
    main()
