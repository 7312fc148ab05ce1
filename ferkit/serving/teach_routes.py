"""The paths under ``/v1/teach``."""

import hashlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from ferkit.core.weights import DEFAULT_EDITION
from ferkit.serving.api import ApiError
from ferkit.serving.routes import (
    IMAGES,
    PurposeHeader,
    PurposeName,
    declare,
    problems,
    read_uploads,
    service_of,
)
from ferkit.serving.security import client_of
from ferkit.serving.teach import TeachSession, embed_image

router = APIRouter()

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
             responses=problems(404, 503))  # fmt: skip
async def begin(
    request: Request, body: NewSession, purpose: PurposeName = "", x_ferkit_purpose: PurposeHeader = ""
) -> TeachState:
    declare(request, purpose, x_ferkit_purpose)
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
)
async def add(
    request: Request,
    id: str,
    label: Annotated[str, Query(max_length=100)],
    take: Annotated[
        str, Query(max_length=100, description="One of its own for each image if left out.")
    ] = "",
    face: Annotated[int, Query(ge=0, description="Which, the largest being 1; 0 wants just one.")] = 0,
    purpose: PurposeName = "",
    x_ferkit_purpose: PurposeHeader = "",
) -> Added:
    declare(request, purpose, x_ferkit_purpose)
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
