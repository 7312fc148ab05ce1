"""All parts of one server."""

import dataclasses
from importlib import metadata
from typing import Any

from ferkit.serving.access import Access
from ferkit.serving.jobs import JobBoard
from ferkit.serving.log import EventLog
from ferkit.serving.metrics import Metrics
from ferkit.serving.predict import Predictor
from ferkit.serving.purposes import PURPOSES, REASON_EN, REASON_KO
from ferkit.serving.settings import ServeSettings
from ferkit.serving.shelf import ModelCatalog
from ferkit.serving.workers import Workers


class Service:
    """What requests share; made and taken down with the server.

    Args:
        settings: the server's.
        console: whether to log to standard error.

    Raises:
        FerkitError: the log cannot be written, or the default model not be opened.
    """

    def __init__(self, settings: ServeSettings, console: bool = True) -> None:
        limits = settings.limits
        self.settings = settings
        self.metrics = Metrics()
        self.log = EventLog(settings.log_dir, console)
        self.access = Access(settings)
        self.catalog = ModelCatalog(settings)
        self.workers = Workers(settings, self.catalog)
        self.predictor = Predictor(self.workers, self.metrics, limits.max_waiting)
        self.jobs = JobBoard(limits, self.metrics)
        self.streams: dict[str, int] = {}
        self.ready = False
        self.workers.warm_up(self.catalog.get(None))

    async def open(self) -> None:
        """Begin."""
        await self.jobs.open()
        self.ready = True
        self.log.write("started", version=metadata.version("ferkit"), model=self.catalog.default)

    async def close(self) -> None:
        """Take everything down."""
        self.ready = False
        await self.jobs.close()
        self.workers.close()
        self.log.write("stopped")
        self.log.close()

    def info(self) -> dict[str, Any]:
        """What a client should know before it asks."""
        allowed = set(self.settings.allow_purpose)
        return {
            "version": metadata.version("ferkit"),
            "purposes": [
                {
                    "id": p.id,
                    "en": p.en,
                    "ko": p.ko,
                    "allowed": not p.prohibited or p.id in allowed,
                    "reason_en": REASON_EN if p.prohibited else None,
                    "reason_ko": REASON_KO if p.prohibited else None,
                }
                for p in PURPOSES
            ],
            "limits": dataclasses.asdict(self.settings.limits),
            "token_required": self.settings.token is not None,
            "default_purpose": self.settings.purpose,
        }
