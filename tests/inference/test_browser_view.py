"""The browser's view over real HTTP on loopback."""

import http.client
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from ferkit.inference.sinks import BrowserView

RGB = np.full((48, 64, 3), (200, 40, 90), np.uint8)


@pytest.fixture(params=["en", "ko"])
def view(request: pytest.FixtureRequest) -> Iterator[BrowserView]:
    view = BrowserView(language=request.param)
    yield view
    view.close()


def ask(view: BrowserView, method: str, below: str, *, host: str | None = None) -> http.client.HTTPResponse:
    address = urlsplit(view.url)
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=10)
    connection.request(method, below, headers={} if host is None else {"Host": host})
    return connection.getresponse()


def path(view: BrowserView, below: str = "") -> str:
    return urlsplit(view.url).path + below


def test_the_page_has_a_image_and_a_button_for_every_key(view: BrowserView) -> None:
    page = ask(view, "GET", path(view)).read().decode()
    assert 'src="pictures"' in page
    assert page.count("<button") == 6
    assert ('lang="ko"' in page, "끝내기</button>" in page) in ((True, True), (False, False))
    assert not any(place in page for place in ("LANGUAGE", "BUTTONS", "OVER"))
    assert ask(view, "GET", path(view, "live.js")).status == 200


def test_images_arrive_as_they_were_shown_and_end_with_the_view(view: BrowserView) -> None:
    stream = ask(view, "GET", path(view, "pictures"))
    view.show(RGB)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += stream.read(1)
    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    seen = cv2.cvtColor(cv2.imdecode(np.frombuffer(stream.read(length), np.uint8), 1), cv2.COLOR_BGR2RGB)
    assert seen.shape == RGB.shape
    assert np.abs(seen.astype(int) - RGB).max() < 8
    closing = threading.Thread(target=view.close)
    closing.start()
    assert stream.read().endswith(b"--frame--\r\n")
    closing.join(5)
    assert not closing.is_alive()


def test_keys_of_the_page_are_keys_of_the_view(view: BrowserView) -> None:
    assert view.key() is None
    for key in ("s", "x", "q"):
        assert ask(view, "POST", path(view, f"key?key={key}")).status == 204
    assert [view.key(), view.key(), view.key()] == ["s", "q", None]


@pytest.mark.parametrize("below", ["/", "/pictures", "/wrong/", "/wrong/pictures", "//", "/x"])
def test_without_the_secret_there_is_nothing(view: BrowserView, below: str) -> None:
    assert ask(view, "GET", below).status == 404
    assert ask(view, "POST", f"{below}key?key=q").status == 404
    assert view.key() is None


def test_another_name_for_this_machine_is_refused(view: BrowserView) -> None:
    assert ask(view, "GET", path(view), host="evil.example").status == 404
    assert ask(view, "POST", path(view, "key?key=q"), host="evil.example").status == 404
    assert view.key() is None


def test_who_looks_on_and_leaves_is_not_missed(view: BrowserView) -> None:
    stream = ask(view, "GET", path(view, "pictures"))
    view.show(RGB)
    stream.read(100)
    stream.close()
    began = time.monotonic()
    for brightness in range(100):  # the closed connection is noticed with one of the next images
        view.show(np.full((48, 64, 3), brightness, np.uint8))
        time.sleep(0.01)
    view.close()
    assert time.monotonic() - began < 5
