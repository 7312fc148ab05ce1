"""The live view in a browser, for machines on which no window can be opened: a page on loopback, images as MJPEG."""

import queue
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np

from ferkit.core.texts import Translations, text_table

KEYS = frozenset("hlmsrq")

_HERE = Path(__file__).parent
_BOUNDARY = "frame"
_JPEG_QUALITY = 88
_FAREWELL_S = 2.0


class BrowserView:
    """Shows images to a browser on this machine and tells which keys are pressed there.

    The address holds a secret, and other names for this machine are refused: neither other users of it nor pages of
    other sites can look on.

    Args:
        port: to listen at on 127.0.0.1; 0 takes a free one.
        language: of the page, ``en`` or ``ko``.

    Attributes:
        url: what to open in a browser.

    Raises:
        OSError: the port cannot be had.
    """

    def __init__(self, port: int = 0, language: str = "en") -> None:
        self._secret = secrets.token_urlsafe(12)
        self._keys: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._news = threading.Condition()
        self._jpeg: bytes | None = None
        self._image: np.ndarray | None = None
        self._number = 0
        self._open = True
        self._watching = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler_for(self, language))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/{self._secret}/"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def show(self, rgb: np.ndarray) -> None:
        """Show an image, uint8 (H, W, 3)."""
        with self._news:
            if rgb is self._image:
                return
            self._image, self._jpeg = rgb, None
            self._number += 1
            self._news.notify_all()

    def key(self) -> str | None:
        """The next key that was pressed in the page; None if none was."""
        try:
            return self._keys.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the page's images, and stop listening."""
        with self._news:
            if not self._open:
                return
            self._open = False
            self._news.notify_all()
            # The page learns from the end of its images that it is over, so they are let out first.
            self._news.wait_for(lambda: self._watching == 0, timeout=_FAREWELL_S)
        self._server.shutdown()
        self._server.server_close()

    def press(self, key: str) -> None:
        """Take a key as if it had been pressed in the page; others than those of the live view count for nothing."""
        if key in KEYS:
            self._keys.put(key)

    def next_jpeg(self, seen: int) -> tuple[int, bytes] | None:
        """The newest image after number ``seen``, waiting for it; None when the view is closed.

        Images are encoded here, so only those that somebody sees, and once for all who look on.
        """
        with self._news:
            self._news.wait_for(lambda: self._number > seen or not self._open)
            if not self._open:
                return None
            if self._jpeg is None:
                assert self._image is not None
                bgr = cv2.cvtColor(self._image, cv2.COLOR_RGB2BGR)
                self._jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
            return self._number, self._jpeg

    def watch(self, more: int) -> None:
        """Count somebody who looks on, 1, or who has left, -1."""
        with self._news:
            self._watching += more
            self._news.notify_all()

    def knows(self, path: str) -> str | None:
        """What is asked for below the secret; None if the secret is wrong."""
        _, secret, *rest = path.split("/", 2) if path.count("/") > 1 else ("", "", "")
        right = secrets.compare_digest(secret.encode(), self._secret.encode())
        return "".join(rest) if right else None

    @property
    def hosts(self) -> tuple[str, str]:
        """The names that a browser may know this view by."""
        return tuple(f"{name}:{self._server.server_port}" for name in ("127.0.0.1", "localhost"))  # type: ignore[return-value]


def _handler_for(view: BrowserView, language: str) -> type[BaseHTTPRequestHandler]:
    words, page = Translations(language, "live"), (_HERE / "live.html").read_text(encoding="utf-8")
    helps = (words(f"help.{name}").split(maxsplit=1) for name in text_table()["live"]["help"])
    buttons = (
        f'<button data-key="{key}"><kbd>{key}</kbd>{what}</button>' for key, what in helps if key in KEYS
    )
    for place, text in ("LANGUAGE", language), ("BUTTONS", "".join(buttons)), ("OVER", words("word.over")):
        page = page.replace(place, text)
    script = (_HERE / "live.js").read_text(encoding="utf-8")

    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        kinds: ClassVar = {"": ("text/html", page), "live.js": ("text/javascript", script)}

        def do_GET(self) -> None:
            what = self._asked()
            if what == "pictures":
                self._images()
            elif what in self.kinds:
                kind, text = self.kinds[what]
                self._answer(HTTPStatus.OK, f"{kind}; charset=utf-8", text.encode())
            else:
                self._answer(HTTPStatus.NOT_FOUND)

        def do_POST(self) -> None:
            if self._asked() != "key":
                self._answer(HTTPStatus.NOT_FOUND)
                return
            view.press(parse_qs(urlsplit(self.path).query).get("key", [""])[0])
            self._answer(HTTPStatus.NO_CONTENT)

        def _asked(self) -> str | None:
            known = self.headers.get("Host") in view.hosts
            return view.knows(urlsplit(self.path).path) if known else None

        def _answer(self, status: HTTPStatus, kind: str = "text/plain", body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", "default-src 'self'; style-src 'unsafe-inline'")
            self.end_headers()
            self.wfile.write(body)

        def _images(self) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            view.watch(1)
            try:
                seen = 0
                while (image := view.next_jpeg(seen)) is not None:
                    seen, jpeg = image
                    head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                self.wfile.write(f"--{_BOUNDARY}--\r\n".encode())
            except OSError:
                pass  # who looked on has left
            finally:
                view.watch(-1)
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass  # the terminal belongs to the live view

    return Handler
