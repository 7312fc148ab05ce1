"""``fer serve``."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ferkit.cli.options import (
    FOLDER,
    config_option,
    detector_weights_option,
    is_quiet,
    models_dir_option,
    quiet_option,
)
from ferkit.core.errors import DependencyError
from ferkit.serving.api import BY_ID, PURPOSES
from ferkit.serving.settings import Limits

F = TypeVar("F", bound=Callable[..., Any])

_LIMITS = {
    "max_bytes": "Bytes of a request with images.",
    "max_pictures": "Images in a request.",
    "max_pixels": "Pixels of an image.",
    "max_frame_bytes": "Bytes of a frame of a stream.",
    "max_frame_pixels": "Pixels of a frame of a stream.",
    "max_fps": "Frames a second of a stream.",
    "max_film_bytes": "Bytes of a video.",
    "max_film_pixels": "Pixels of a video's frames.",
    "max_duration_s": "Seconds that a video lasts.",
    "max_jobs": "Videos that wait or are read at a time.",
    "job_ttl_s": "Seconds after which a video's results are removed.",
    "max_results_bytes": "Bytes of all results together; the oldest go first.",
    "max_streams": "Streams at a time; one client has half of them at most.",
    "max_connections": "Connections at a time.",
    "max_waiting": "Requests with images at a time.",
    "rate": "Requests a second of one client, over ten seconds; 0 for no limit.",
    "body_timeout_s": "Seconds in which something of a request's body must come.",
    "idle_s": "Seconds after which a stream without frames is closed.",
}


def _limit_options(command: F) -> F:
    for name, about in reversed(_LIMITS.items()):
        default = getattr(Limits(), name)
        kind: click.ParamType = click.FloatRange(0, min_open=name != "rate")
        if isinstance(default, int):
            kind = click.IntRange(1)
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, type=kind, default=default, show_default=True, help=about)(command)
    return command


@click.command()
@click.argument("model", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes any that is free.",
)
@click.option(
    "--token",
    metavar="TEXT",
    help="What clients must show; needed wherever others can reach the server. Better set in the environment "
    "or in .env, as FER_SERVE_TOKEN: other users see command lines.",
)
@click.option(
    "--purpose",
    type=click.Choice(list(BY_ID)),
    help="What expressions are read for where a request does not say so.  [default: each request must]",
)
@click.option(
    "--allow-purpose",
    type=click.Choice([purpose.id for purpose in PURPOSES if purpose.prohibited]),
    multiple=True,
    help="Allow a purpose that the European Union prohibits, where its law does not hold.",
)
@click.option(
    "--allowed-host", metavar="NAME", multiple=True, help="Another name under which the server is called."
)
@click.option(
    "--allowed-origin",
    metavar="https://NAME",
    multiple=True,
    help="Another site whose pages may use the server.",
)
@click.option(
    "--trusted-proxy",
    metavar="ADDRESS",
    multiple=True,
    help="A proxy in front of the server, whose X-Forwarded-For is believed.",
)
@click.option(
    "-d",
    "--detector",
    type=click.Choice(["auto", "none", "haar", "yunet", "mediapipe"]),
    default="auto",
    show_default=True,
    help="Finds the faces; 'none' takes images whole, 'auto' does as in the model's training.",
)
@detector_weights_option
@click.option(
    "--detect-size",
    type=click.IntRange(64),
    default=480,
    show_default=True,
    help="The detector sees frames scaled down to this longer side; less serves more streams, and misses small faces.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    help="Processes that read images and frames; limits and jobs hold for all together.  "
    "[default: one a core, at most 8]",
)
@click.option(
    "--root-path", metavar="/PREFIX", default="", help="The prefix under which a proxy offers the server."
)
@_limit_options
@models_dir_option
@click.option(
    "--log-dir", type=FOLDER, help="Write one file a day into this folder, a JSON object for each request."
)
@config_option
@quiet_option
def serve(models_dir: Path, **options: Any) -> None:
    """Serve an API and a page that shows expressions live in the browser.

    MODEL is the default: a model's folder, or its name in --models-dir; without one the network that comes with
    ferkit. All models in --models-dir can be asked for.

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
    try:
        from ferkit.serving.app import create_app
        from ferkit.serving.server import run_server
    except ModuleNotFoundError as error:
        raise DependencyError(f"{error.name} is not installed; pip install 'ferkit[serve]'") from error
    from ferkit.serving.settings import settings_from

    settings = settings_from({"models_dir": models_dir, **options})
    run_server(create_app(settings, console=not is_quiet()), settings)
