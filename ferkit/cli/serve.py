"""``fer serve``."""

import logging
import os
from pathlib import Path
from typing import Any

import click

from ferkit.cli.completion import model_names, offer
from ferkit.cli.options import FOLDER, command, is_quiet, option, shared
from ferkit.cli.settings import Chosen, Fields
from ferkit.core.extras import require_extra
from ferkit.serving.api import BY_ID, PURPOSES

logger = logging.getLogger(__name__)


@command(settings=(
    Fields("ferkit.serving.settings:ServeSettings", "detector", "detector_weights", "detect_size",
           "processes"),
    Fields("ferkit.serving.settings:Limits"),
))  # fmt: skip
@click.argument("model_argument", metavar="[MODEL]", required=False, shell_complete=offer(model_names))
@shared("model")
@option("--host", default="127.0.0.1", group="Network", help="Address to listen on.")
@option("--port", type=click.IntRange(0, 65535), default=8000, group="Network",
        help="Port to listen on; 0 takes any that is free.")  # fmt: skip
@option("--token", metavar="TEXT", group="Access", help="What clients must show; needed wherever others "
        "can reach the server. Better set in the environment or in .env, as FER_SERVE_TOKEN: other users "
        "see command lines.")  # fmt: skip
@option("--purpose", type=click.Choice(list(BY_ID)), metavar="PURPOSE", group="Access",
        help="What expressions are read for where a request does not say so.  [default: each request "
        "must]")  # fmt: skip
@option("--allow-purpose", type=click.Choice([purpose.id for purpose in PURPOSES if purpose.prohibited]),
        multiple=True, metavar="PURPOSE", group="Access",
        help="Allow a purpose that the European Union prohibits, where its law does not hold.")  # fmt: skip
@option("--allowed-host", metavar="NAME", multiple=True, group="Network",
        help="Another name under which the server is called.")  # fmt: skip
@option("--allowed-origin", metavar="https://NAME", multiple=True, group="Network",
        help="Another site whose pages may use the server.")  # fmt: skip
@option("--trusted-proxy", metavar="ADDRESS", multiple=True, group="Network",
        help="A proxy in front of the server, whose X-Forwarded-For is believed.")  # fmt: skip
@option("--root-path", metavar="/PREFIX", default="", group="Network",
        help="The prefix under which a proxy offers the server.")  # fmt: skip
@shared("models_dir")
@option("--log-dir", type=FOLDER, rare=True, group="Every command",
        help="Write one file a day into this folder, a JSON object for each request.")  # fmt: skip
def serve(
    model_argument: str | None, model: str | None, models_dir: Path, settings: Chosen, **options: Any
) -> None:
    """Serve an API and a page that shows expressions live in the browser.

    MODEL is the default: a model's folder, or its name in --models-dir; without one the newest there as the server
    starts, or else the network that comes with ferkit. All models in --models-dir can be asked for.

    Each request declares what expressions are read for. Hiring, work and schools are refused, since the European
    Union prohibits them (AI Act, Article 5(1)(f)).

    \b
    Examples:
        fer serve
        fer serve mlp --port 9000 --purpose research
        FER_SERVE_TOKEN=… fer serve --host 0.0.0.0 --allowed-host faces.example.org
    """
    # A program of our own: these are ours to set, before the libraries read them. Each image has one thread.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    require_extra("serve", "fer serve")
    from ferkit.classifiers.model import choose_model
    from ferkit.serving.app import create_app
    from ferkit.serving.server import run_server
    from ferkit.serving.settings import settings_from

    named = model or model_argument or str(choose_model(None, models_dir).folder)
    server_settings = settings_from({"models_dir": models_dir, "model": named, **options, **settings.given})
    app = create_app(server_settings, console=not is_quiet())
    if not app.state.service.reads_videos:
        logger.info("videos are not taken: PyAV is not installed; pip install 'ferkit[video]'")
    run_server(app, server_settings)
