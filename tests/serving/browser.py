"""A headless Chromium for tests of the web page, with a camera that plays a video."""

import base64
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.serving.running import PATIENCE_S

T = TypeVar("T")

BINARIES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OWN_SCHEMES = ("data", "blob", "about", "chrome", "devtools", "chrome-extension")


class Browser:
    """Chromium under Selenium, with shorter words for what the tests do.

    Args:
        clip: ``.mjpeg`` or ``.y4m``, played over and over as the camera's image; None for no camera.
        downloads: folder of the files that the page saves.
        language: of the browser, such as ``en-GB``.
    """

    def __init__(self, clip: Path | None, downloads: Path, language: str = "en-GB") -> None:
        webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium")
        binary = next((found for name in BINARIES if (found := shutil.which(name))), None)
        driver = shutil.which("chromedriver")
        if binary is None or driver is None:
            pytest.skip("needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--no-first-run",
            f"--lang={language}", "--window-size=1280,800", "--use-fake-ui-for-media-stream",
        ):  # fmt: skip
            options.add_argument(argument)
        if clip is not None:
            options.add_argument("--use-fake-device-for-media-stream")
            options.add_argument(f"--use-file-for-fake-video-capture={clip}")
        prefs = {"intl.accept_languages": language, "download.default_directory": str(downloads)}
        options.add_experimental_option("prefs", prefs)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(executable_path=driver)
        self.driver = webdriver.Chrome(options=options, service=service)
        self.downloads = downloads
        self._requests: list[str] = []
        self._complaints: list[str] = []

    def open(self, address: str) -> None:
        """Go to a page and wait until it knows its server."""
        self.driver.get(address)
        self.until(
            lambda: self.js("return document.querySelector('#model').options.length > 0"), "the models"
        )

    def js(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page; what it returns."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        """The elements that a CSS selector means."""
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        """The first of them; fails if there is none."""
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        """Click on what can be seen and is not covered; waits while the page moves it."""
        from selenium.common.exceptions import ElementClickInterceptedException

        def clicked() -> bool:
            try:
                self.one(selector).click()
            except ElementClickInterceptedException:
                return False
            return True

        self.until(clicked, f"{selector} to be free")

    def text(self, selector: str) -> str:
        """What can be read in an element."""
        return self.one(selector).text

    def until(self, holds: Callable[[], T], what: str, seconds: float = PATIENCE_S) -> T:
        """Wait until something holds, and give it.

        Raises:
            AssertionError: it never did.
        """
        end = time.monotonic() + seconds
        while not (value := holds()):
            assert time.monotonic() < end, (
                f"waited {seconds:g} s for {what}; the page says: {self.text('body')}"
            )
            time.sleep(0.05)
        return value

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        """Look at the page through a window of this size, in CSS pixels."""
        settings = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)

    def prefer(self, **features: str) -> None:
        """Let the system prefer something, such as ``color_scheme="dark"``."""
        listed = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})

    def screenshot(self, path: Path) -> None:
        """Save what is seen as PNG."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(shot["data"]))

    def save(self, selector: str, suffix: str) -> Path:
        """Click on what saves a file with this ending, and give the file."""
        before = set(self.downloads.glob(f"*{suffix}"))
        self.click(selector)
        return self.until(lambda: set(self.downloads.glob(f"*{suffix}")) - before, f"a saved {suffix}").pop()

    def foreign_requests(self, host: str) -> list[str]:
        """Addresses that pages asked for on any other host."""
        self._read_logs()
        return [
            url for url in self._requests
            if urlsplit(url).scheme not in OWN_SCHEMES and urlsplit(url).netloc != host
        ]  # fmt: skip

    def complaints(self) -> list[str]:
        """Warnings and errors of the console; they are told once."""
        self._read_logs()
        complaints, self._complaints = self._complaints, []
        return complaints

    def forget(self) -> None:
        """Count requests and complaints from now on."""
        self._read_logs()
        self._requests, self._complaints = [], []

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    def _read_logs(self) -> None:
        for entry in self.driver.get_log("browser"):
            if entry["level"] in ("WARNING", "SEVERE"):
                self._complaints.append(entry["message"])
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                self._requests.append(message["params"]["url"])
