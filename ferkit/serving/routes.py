"""The paths of the API."""

import dataclasses
import hashlib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, WebSocket
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from ferkit.core.weights import DEFAULT_EDITION
from ferkit.serving import api as answers
from ferkit.serving.api import REASON_EN, REASON_KO, ApiError, check_purpose
from ferkit.serving.jobs import FILES, JobQueue, receive_video
from ferkit.serving.monitoring import EventLog, Metrics
from ferkit.serving.predict import ModelCatalog, Predictor, Upload, Workers
from ferkit.serving.security import Auth, bearer, client_of
from ferkit.serving.settings import PURPOSES, ServeSettings
from ferkit.serving.stream import StreamSession
from ferkit.serving.teach import TeachSession, TeachSessions, embed_image
from ferkit.serving.video_job import VideoJob


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
        self.access = Auth(settings)
        self.catalog = ModelCatalog(settings)
        self.workers = Workers(settings, self.catalog)
        self.predictor = Predictor(self.workers, self.metrics, limits.max_waiting)
        self.jobs = JobQueue(limits, self.metrics)
        self.teaching = TeachSessions(settings, self.catalog)
        self.streams: dict[str, int] = {}
        self.ready = False
        self.reads_videos = find_spec("av") is not None
        self.workers.warm_up(self.catalog.get(None))

    async def open(self) -> None:
        """Begin."""
        await self.jobs.open()
        self.ready = True
        self.log.write(
            "started",
            version=metadata.version("ferkit"),
            model=self.catalog.default,
            videos=self.reads_videos or NO_VIDEO,
        )

    async def close(self) -> None:
        """Take everything down."""
        self.ready = False
        await self.jobs.close()
        self.teaching.close()
        self.workers.close()
        self.log.write("stopped")
        self.log.close()


router = APIRouter()

NO_VIDEO = "whoever runs it adds PyAV with pip install 'ferkit[video]'"

SHORTEST_S = 0.01
"""Below it all frames of a video are looked at: none has more than a hundred a second."""

ModelName = Annotated[str, Query(description="Out of GET /v1/models; the default if left out.")]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of refusals."""
    always = (400, 401, 403, 408, 413, 422, 429)
    return {status: {"model": answers.Problem} for status in (*always, *statuses)}


def binary(*kinds: str, field: str, several: bool) -> dict[str, Any]:
    """The description of a body: multipart, or the bytes alone."""
    one = {"type": "string", "format": "binary"}
    value = {"type": "array", "items": one, "minItems": 1} if several else one
    form = {"type": "object", "required": [field], "properties": {field: value}}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content | {kind: {"schema": one} for kind in kinds}}}


IMAGES = binary("image/jpeg", "image/png", "image/webp", field="images", several=True)
"""The description of a body of images, as :func:`ferkit.serving.routes.read_uploads` reads it."""


def service_of(request: Request | WebSocket) -> Service:
    """The server's parts."""
    service: Service = request.app.state.service
    return service


async def declare(
    request: Request,
    purpose: Annotated[str, Query(description="What the expressions are read for; see GET /v1/info.")] = "",
    x_ferkit_purpose: Annotated[str, Header(description="The same, for those who prefer it here.")] = "",
) -> None:
    """Check the purpose of a request, and note it for the log. Raises ApiError."""
    settings = service_of(request).settings
    named = [*request.query_params.getlist("purpose"), purpose, x_ferkit_purpose]
    given = [*filter(None, named)] or [""]
    allowed = frozenset(settings.allow_purpose)
    # Whoever names two has both: the last would hide one that is prohibited.
    request.state.note["purpose"] = [
        check_purpose(each or None, settings.purpose, allowed) for each in given
    ][-1]


DECLARED = [Depends(declare)]
"""Of routes that read expressions: before anything else the purpose is checked."""


@router.get("/v1/info", summary="Purposes, limits, whether a token is needed", responses=problems())
async def info(request: Request) -> answers.Info:
    settings = service_of(request).settings
    purposes = [
        answers.PurposeEntry(
            id=p.id,
            en=p.en,
            ko=p.ko,
            allowed=not p.prohibited or p.id in settings.allow_purpose,
            reason_en=REASON_EN if p.prohibited else None,
            reason_ko=REASON_KO if p.prohibited else None,
        )
        for p in PURPOSES
    ]
    return answers.Info(
        version=metadata.version("ferkit"),
        purposes=purposes,
        limits=dataclasses.asdict(settings.limits),
        token_required=settings.token is not None,
        default_purpose=settings.purpose,
    )


@router.get("/v1/models", summary="The models that may be asked for", responses=problems())
async def models(request: Request) -> answers.Models:
    catalog = service_of(request).catalog
    return answers.Models.model_validate(
        {"default": catalog.default, "models": await run_in_threadpool(catalog.describe)}
    )


@router.post(
    "/v1/predict",
    summary="Read the expressions in images",
    responses=problems(404, 415, 503),
    openapi_extra=IMAGES,
    dependencies=DECLARED,
)
async def predict(request: Request, model: ModelName = "") -> answers.Prediction:
    service = service_of(request)
    with service.predictor.place():
        chosen = await run_in_threadpool(service.catalog.get, model)
        request.state.note["model"] = chosen.name
        uploads = await read_uploads(request, service.settings.limits.max_pictures)
        found = await service.predictor.predict(chosen, uploads, service.settings.limits.max_pixels)
    service.metrics.faces.labels("picture").inc(sum(len(image["faces"]) for image in found))
    return answers.Prediction.model_validate(
        {"model": chosen.name, "labels": chosen.labels.names, "images": found}
    )


@router.post(
    "/v1/video",
    status_code=202,
    summary="Read a video; gives a job",
    responses=problems(404, 415, 501, 503),
    openapi_extra=binary("video/mp4", "video/webm", "application/octet-stream", field="file", several=False),
    dependencies=DECLARED,
)
async def video(
    request: Request,
    model: ModelName = "",
    every: Annotated[
        float, Query(ge=0, le=3600, description="Seconds between the frames looked at; 0: all")
    ] = 0.5,
    annotated: Annotated[bool, Query(description="Also draw boxes and labels into a copy.")] = True,
    language: Annotated[Literal["en", "ko"], Query(description="Of what is drawn.")] = "en",
) -> answers.JobState:
    service = service_of(request)
    settings, limits = service.settings, service.settings.limits
    if not service.reads_videos:
        raise ApiError(501, "no_video", f"This server does not take videos: {NO_VIDEO}.")
    chosen = await run_in_threadpool(service.catalog.get, model)
    with service.jobs.new(client_of(request.scope)) as job:
        video = await receive_video(request, job.folder)
        request.state.note["model"] = chosen.name
        what = VideoJob(
            video.name,
            str(chosen.folder.resolve()),
            settings.detector,
            None if settings.detector_weights is None else str(settings.detector_weights.resolve()),
            settings.detect_size,
            every if every >= SHORTEST_S else 0.0,
            annotated,
            language,
            limits.max_film_pixels,
            limits.max_duration_s,
        )
        service.jobs.start(job, what)
    return answers.JobState(**job.describe(_prefix(request)))


@router.get("/v1/jobs/{id}", summary="How far a video is", responses=problems(404))
async def job_state(request: Request, id: str) -> answers.JobState:
    return answers.JobState(**service_of(request).jobs.get(id).describe(_prefix(request)))


@router.get(
    "/v1/jobs/{id}/{file}",
    summary="A video's results: result.json, faces.csv, timeline.png or annotated.mp4",
    responses={
        200: {"content": {kind.partition(";")[0]: {} for kind in FILES.values()}},
        **problems(404, 409),
    },
    response_class=FileResponse,
)
async def job_file(request: Request, id: str, file: str) -> FileResponse:
    job = service_of(request).jobs.get(id)
    if file not in FILES:
        raise ApiError(404, "no_file", f"Expected one of {', '.join(FILES)}.")
    if job.status != "done":
        raise ApiError(409, "not_done", f"The video is {job.status}; its results are there when it is done.")
    path = job.folder / file
    if not path.is_file():
        raise ApiError(404, "no_file", "This was not asked for with the video.")
    return FileResponse(path, media_type=FILES[file], filename=file, content_disposition_type="inline")


@router.delete(
    "/v1/jobs/{id}",
    status_code=204,
    summary="Stop a video if it is being read, and remove it",
    responses=problems(404),
    response_class=Response,
)
async def remove_job(request: Request, id: str) -> Response:
    await service_of(request).jobs.remove(id)
    return Response(status_code=204)


@router.websocket("/v1/stream")
async def stream(socket: WebSocket) -> None:
    service = service_of(socket)
    client, streams = client_of(socket.scope), service.streams
    most = service.settings.limits.max_streams
    await socket.accept()
    shown = bearer(socket.headers)
    session = StreamSession(
        socket, service.settings, service.catalog, service.workers, service.metrics, service.log,
        lambda token: service.access.may_enter(token if shown is None else shown, client), service.teaching,
    )  # fmt: skip
    if sum(streams.values()) >= most or streams.get(client, 0) >= max(1, most // 2):
        await session.turn_away(ApiError(429, "too_many", "Too many streams are open; try again later."))
        return
    streams[client] = streams.get(client, 0) + 1
    service.metrics.streams.inc()
    try:
        await session.run()
    finally:
        service.metrics.streams.dec()
        streams[client] -= 1
        if not streams[client]:
            del streams[client]


@router.get("/health", summary="Whether the server is alive", response_class=JSONResponse)
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ready", summary="Whether it takes requests", responses={503: {"model": answers.Problem}})
async def ready(request: Request) -> dict[str, str]:
    if not service_of(request).ready:
        raise ApiError(503, "starting", "The server is not ready yet.", retry_after_s=1)
    return {"status": "ready"}


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _prefix(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


async def read_uploads(request: Request, most: int) -> list[Upload]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        content = await request.body()
        if not content:
            raise ApiError(422, "no_picture", "Expected an image as the body, or as the part 'images'.")
        return [Upload("image", content)]
    limits = {"max_files": most, "max_fields": 16, "max_part_size": 1000}
    parser = MultiPartParser(request.headers, request.stream(), **limits)
    parser.spool_max_size = 0  # images never go to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None
    parts = [part for part in form.getlist("images") if isinstance(part, UploadFile)]
    if not parts:
        raise ApiError(422, "no_picture", "Expected images as parts called 'images', with file names.")
    return [Upload(Path(part.filename or "image").name, await part.read()) for part in parts]


Name = Annotated[str, Field(max_length=100)]


class Take(BaseModel):
    """Examples of one class that were recorded together."""

    label: str
    take: str
    ids: list[int]


class TeachState(BaseModel):
    """What is taught, and how well that works."""

    id: str
    version: int = Field(description="another one after every change")
    labels: list[str]
    counts: dict[str, int]
    takes: list[Take]
    conflicts: list[list[int]] = Field(description="examples that are one image in several classes")
    can_undo: bool
    fitted: bool = Field(description="whether the head knows the last change")
    pending: bool = Field(description="whether the report does not know the last change yet")
    problem: str | None = Field(description="why there is no report of the last change, if it failed")
    report: dict[str, Any] | None


class NewSession(BaseModel):
    """What to begin with."""

    model_config = ConfigDict(extra="forbid")
    labels: list[Name] = Field(default=[], max_length=20)
    model: Name | None = Field(None, description="a taught model, to go on from")


class Change(BaseModel):
    """One change."""

    model_config = ConfigDict(extra="forbid")
    do: Literal["add_label", "remove_label", "rename", "remove", "remove_take", "move", "undo"]
    label: Name = ""
    to: Name = Field("", description="the new name, or the class that examples are moved to")
    take: Name = ""
    ids: list[int] = Field(default=[], max_length=10_000)


class Added(BaseModel):
    """Examples that were added, and images that were not."""

    added: list[dict[str, Any]] = Field(description="id, label, take, and jpeg in Base64")
    refused: list[dict[str, str]] = Field(description="name, code and message")


class SaveAs(BaseModel):
    """Where to save."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    overwrite: bool = Field(False, description="replace a taught model of that name")


class Saved(BaseModel):
    """The model as it may be asked for."""

    model: str


def _session(request: Request, id: str) -> TeachSession:
    return service_of(request).teaching.get(id)


@router.post("/v1/teach", status_code=201, summary="Begin to teach classes of one's own",
             responses=problems(404, 503), dependencies=DECLARED)  # fmt: skip
async def begin(request: Request, body: NewSession) -> TeachState:
    teaching = service_of(request).teaching
    session = await teaching.create(client_of(request.scope), body.labels, body.model)
    return TeachState(**session.state())


@router.get(
    "/v1/teach/{id}", summary="What is taught so far, and how well that works", responses=problems(404)
)
async def state(request: Request, id: str) -> TeachState:
    return TeachState(**_session(request, id).state())


@router.post(
    "/v1/teach/{id}/examples",
    summary="Add the faces of images to a class",
    responses=problems(404, 415, 503),
    openapi_extra=IMAGES,
    dependencies=DECLARED,
)
async def add(
    request: Request,
    id: str,
    label: Annotated[str, Query(max_length=100)],
    take: Annotated[
        str, Query(max_length=100, description="One of its own for each image if left out.")
    ] = "",
    face: Annotated[int, Query(ge=0, description="Which, the largest being 1; 0 wants just one.")] = 0,
) -> Added:
    service, session = service_of(request), _session(request, id)
    limits = service.settings.limits
    answer = Added(added=[], refused=[])
    with service.predictor.place():
        choice = await run_in_threadpool(service.catalog.get, DEFAULT_EDITION)
        for upload in await read_uploads(request, limits.max_pictures):
            try:
                _, crops, X = await service.workers.run(
                    embed_image, choice, upload.content, limits.max_pixels, by_image=True
                )
                if len(crops) < max(face, 1) or (face == 0 and len(crops) > 1):
                    raise _not_one(len(crops))
                chosen = slice(max(face, 1) - 1, max(face, 1))
                digest = hashlib.sha256(upload.content).hexdigest()
                name = take or f"{upload.name[:40]} {digest[:6]}"
                answer.added += session.add(label, name, crops[chosen], X[chosen], [digest])
            except ApiError as refused:
                if refused.status >= 500:
                    raise
                answer.refused.append({"name": upload.name, **refused.body})
    return answer


@router.post("/v1/teach/{id}/changes", summary="Change classes and examples, or take that back",
             responses=problems(404))  # fmt: skip
async def change(request: Request, id: str, body: Change) -> TeachState:
    session = _session(request, id)
    examples = session.examples
    act = {
        "add_label": lambda: examples.add_label(body.label),
        "remove_label": lambda: examples.remove_label(body.label),
        "rename": lambda: examples.rename(body.label, body.to),
        "remove": lambda: examples.remove(body.ids),
        "remove_take": lambda: examples.remove_take(body.take),
        "move": lambda: examples.move(body.ids, body.to),
        "undo": examples.undo,
    }
    session.change(act[body.do])
    return TeachState(**session.state())


@router.post("/v1/teach/{id}/save", summary="Save what was taught as a model of the server",
             responses=problems(404, 409))  # fmt: skip
async def save(request: Request, id: str, body: SaveAs) -> Saved:
    name = await service_of(request).teaching.save(_session(request, id), body.name, body.overwrite)
    request.state.note["model"] = name
    return Saved(model=name)


@router.get("/v1/teach/{id}/zip", summary="Images by class, model and README as a zip file",
            responses={200: {"content": {"application/zip": {}}}, **problems(404)},
            response_class=Response)  # fmt: skip
async def export(request: Request, id: str) -> Response:
    content = await service_of(request).teaching.zip(_session(request, id))
    headers = {"Content-Disposition": 'attachment; filename="taught.zip"'}
    return Response(content, media_type="application/zip", headers=headers)


@router.delete("/v1/teach/{id}", status_code=204, summary="Forget everything of a session",
               responses=problems(404), response_class=Response)  # fmt: skip
async def end(request: Request, id: str) -> Response:
    _session(request, id)
    service_of(request).teaching.remove(id)
    return Response(status_code=204)


def _not_one(n: int) -> ApiError:
    if n < 2:
        return ApiError(422, "no_face", "No such face was found in the image.")
    return ApiError(422, "several_faces", f"{n} faces are in the image: say which with ?face=1 to {n}.")
