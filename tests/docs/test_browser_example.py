"""The example page reads expressions in Chromium as Python does. Needs the npm package onnxruntime-web."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ferkit
from ferkit.core.weights import bundled_folder
from ferkit.datasets.synthetic import Identity, render_face
from tests.serving.browser import Browser

ROOT = Path(__file__).resolve().parents[2]
FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def test_the_page_reads_what_python_reads(tmp_path: Path) -> None:
    package = Path(os.environ.get("ONNXRUNTIME_WEB", ROOT / "node_modules" / "onnxruntime-web"))
    if not (package / "dist" / FILES[0]).is_file():
        pytest.skip("needs onnxruntime-web: npm install onnxruntime-web, or its folder in ONNXRUNTIME_WEB")
    site = tmp_path / "site"
    shutil.copytree(ROOT / "examples" / "browser", site)
    for name in FILES:
        shutil.copy(package / "dist" / name, site)
    shutil.copy(bundled_folder("ferkit2") / "network.onnx", site)
    person = Identity.random(np.random.default_rng(3))
    face = render_face(person, "happy", np.random.default_rng(0), size=48)
    Image.fromarray(face).save(site / "face.png")

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = Browser(None, tmp_path)
    try:
        browser.driver.get(f"http://127.0.0.1:{server.server_port}/index.html")
        browser.until(lambda: browser.js("return !!window.readExpressions"), "the network", 60)
        rows = browser.js("""
            const image = new Image();
            image.src = "face.png";
            return image.decode().then(() => window.readExpressions(image));
        """)
    finally:
        browser.close()
        server.shutdown()
    model = ferkit.load_model("ferkit2")
    expected = dict(zip(model.labels.names, model.predict_proba(face[None])[0].tolist(), strict=True))
    found = {label: p for p, label in rows}
    assert found.keys() == expected.keys()
    assert max(abs(found[name] - expected[name]) for name in expected) < 1e-3
