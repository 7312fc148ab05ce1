import csv
import io
import json
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from ferkit.audit.findings import KINDS, Audit, Finding, Note, default_manifest, fix
from ferkit.audit.run import render_page, write_audit
from ferkit.core.texts import text_table
from ferkit.datasets.load import load_dataset
from ferkit.datasets.tables import table_rows

TEMPLATES = resources.files("ferkit.audit.templates")


def inlined(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_needs_nothing_else(found: Audit):
    page = render_page(found)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(|@import|fetch\(|XMLHttpRequest""", page)
    assert "default-src 'none'" in page
    values = inlined(page, "values")
    shown = {row for finding in values["shown"] for row in map(str, finding["rows"])}
    assert shown == values["rows"].keys()
    unreadable = {str(row) for row in found.stats.errors}
    assert values["images"].keys() == shown - unreadable
    assert all(image.startswith("data:image/") for image in values["images"].values())


def test_names_cannot_break_out_of_the_page(found: Audit, monkeypatch: pytest.MonkeyPatch):
    nasty = "</script><script>alert(1)</script>"
    finding = Finding("unreadable", (0,), 1.0, found.findings[0].suggested[:1], {"reason": nasty})
    page = render_page(
        Audit(found.dataset, found.stats, (finding,), notes=(Note("no_label_check", {"reason": nasty}),))
    )
    assert nasty not in page
    assert all(nasty in notes[0] for notes in inlined(page, "values")["notes"].values())


def test_the_page_is_bounded_and_the_table_is_not(found: Audit, tmp_path: Path):
    page, table, values, *_ = write_audit(found, tmp_path / "report", most=1)
    kinds = [finding["kind"] for finding in inlined(page.read_text("utf-8"), "values")["shown"]]
    assert len(kinds) == len(set(kinds))
    rows = list(csv.DictReader(io.StringIO(table.read_text("utf-8-sig"))))
    assert len({row["finding"] for row in rows}) == len(found.findings)
    assert len(rows) == sum(len(finding.rows) for finding in found.findings)
    assert json.loads(values.read_text("utf-8"))["counts"]["blank"] == 1


def test_every_kind_has_its_words_in_both_languages():
    words = text_table()["audit"]
    for group in ("kind", "short", "means"):
        assert list(words[group]) == list(KINDS)
    assert all(set(entry) == {"en", "ko"} for group in words.values() for entry in group.values())
    script = TEMPLATES.joinpath("audit.js").read_text("utf-8")
    used = set(re.findall(r'\bt\("(\w+\.\w+)"', script))
    assert used
    assert used <= {f"{group}.{key}" for group, entries in words.items() for key in entries}


@pytest.fixture
def browser(tmp_path: Path) -> Any:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium")
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or binary is None:
        pytest.skip("needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield opened
    opened.quit()


def test_what_is_ticked_becomes_a_plan_that_can_be_applied(
    found: Audit, tmp_path: Path, data: Path, browser: Any
):
    page, *_ = write_audit(found, tmp_path / "report")
    browser.get(page.as_uri())

    def click(selector: str) -> None:
        browser.execute_script("document.querySelector(arguments[0]).click()", selector)

    assert browser.title == "Audit of faces"
    for kind in ("split_copy", "wrong_label", "blank"):
        click(f"#{kind} .section-actions button")
    click("#exact_copy [data-person]")
    click("#tiny [data-action=keep]")
    # The file itself is what a click would save; reading it needs no folder for downloads.
    browser.execute_script(
        "const make = URL.createObjectURL; URL.createObjectURL = (blob) => { window.saved = blob.text(); "
        "return make(blob); }"
    )
    click("#export")
    text = browser.execute_async_script("window.saved.then(arguments[arguments.length - 1])")
    plan = tmp_path / "plan.csv"
    plan.write_text(text, "utf-8")
    done = fix(found.dataset, plan, default_manifest(data))
    assert done.applied.refused == ()
    counts = {action: done.applied.count(action) for action in ("drop", "relabel", "same-person", "keep")}
    assert counts == {"drop": 2, "relabel": found.counts()["wrong_label"], "same-person": 2, "keep": 1}
    mended = {sample.path: sample for sample in load_dataset(done.manifest).samples}
    assert len(mended) == len(found.dataset) - 2
    # The images have persons already, and the first one's name is taken for both.
    assert mended["faces/train/happy/p902_copy.png"].group == "p004"
    assert next(table_rows(done.manifest))[0] == "path"
    click("#language")
    assert browser.title == "데이터 점검: faces"
    said = browser.execute_script("return document.body.innerText")
    assert "으로 보임" in said  # 놀람으로, 분노로
    assert "(으)로" not in said
    assert not {*found.stats.errors.values()} & {*said.splitlines()}
    assert " %" not in said
    browser.refresh()
    assert browser.execute_script("return document.querySelectorAll('.picture input:checked').length") >= 4
    assert [entry["message"] for entry in browser.get_log("browser")] == []
