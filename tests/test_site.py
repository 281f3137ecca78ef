"""The page of the service, in a browser; the results that it keeps; its metrics and access log."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import httpx
import numpy as np
import pytest

from scbignn_infer import label_file, service
from scbignn_infer.service import observing, results, site
from scbignn_infer.service.work import heading
from scbignn_infer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODELS = ["human-pbmc", "human-pancreas"]
HDF5 = "application/x-hdf5"
SCRIPT = Path(service.__file__).parent / "page" / "page.js"
LIMITS = service.Limits(max_size=50_000_000, timeout=300.0)
serve = runpy.run_path(str(Path(__file__).with_name("serving.py")))["running"]
NAME = "a" * 22
PAGE = Path(site.__file__).parent / "page"


def running(child: service.Worker, limits: service.Limits = LIMITS) -> Any:
    return serve(child, limits)


@pytest.fixture(scope="module")
def child() -> Iterator[service.Worker]:
    with service.Worker(MODELS, Settings(threads=2), LIMITS) as child:
        yield child


@pytest.fixture(scope="module")
def client(child: service.Worker) -> Iterator[httpx.Client]:
    with running(child) as client:
        yield client


@pytest.fixture(scope="module")
def body(example: Path) -> bytes:
    """Return a file of 200 cells without a map, so that drawing the report takes its time."""
    buffer = io.BytesIO()
    cells = ad.read_h5ad(example)[:200].copy()
    cells.obsm.clear()
    with tempfile.TemporaryDirectory() as folder:
        cells.write_h5ad(Path(folder) / "cells.h5ad")
        buffer.write((Path(folder) / "cells.h5ad").read_bytes())
    return buffer.getvalue()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which temporary files are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def put(client: httpx.Client, body: bytes, name: str = NAME, **query: Any) -> httpx.Response:
    query = {"model": MODELS[0], "report": False, **query}
    headers = {"content-type": HDF5}
    return client.put(f"/results/{name}", content=body, headers=headers, params=query)


def error_of(answer: httpx.Response) -> str:
    (line,) = answer.json().values()
    assert len(line.splitlines()) == 1
    return str(line)


# --- results that are kept -----------------------------------------------------------------------


def test_results_are_those_of_the_command(
    client: httpx.Client, body: bytes, tmp_path: Path, temporary: Path
) -> None:
    (tmp_path / "cells.h5ad").write_bytes(body)
    settings = Settings(model=MODELS[0], threads=2)
    summary = label_file.label_file(tmp_path / "cells.h5ad", tmp_path / "l.csv", settings)
    label_file.label_file(tmp_path / "cells.h5ad", tmp_path / "l.h5ad", settings)
    made = put(client, body)
    assert made.status_code == 201, made.text
    told = made.json()
    assert (told["state"], told["files"]) == ("done", ["table", "h5ad"])
    assert told["summary"]["labels"] == summary["labels"]
    assert "input" not in told["summary"]
    seen = client.get(f"/results/{NAME}").json()
    assert 0 < seen["seconds_left"] <= results.KEEP_SECONDS
    assert seen["summary"] == told["summary"]
    table = client.get(f"/results/{NAME}/table")
    assert table.text == (tmp_path / "l.csv").read_text()
    assert table.headers["content-disposition"] == "attachment"
    (tmp_path / "answer.h5ad").write_bytes(client.get(f"/results/{NAME}/h5ad").content)
    mine, theirs = ad.read_h5ad(tmp_path / "l.h5ad"), ad.read_h5ad(tmp_path / "answer.h5ad")
    assert mine.obs.equals(theirs.obs)
    np.testing.assert_array_equal(mine.obsm["X_scbignn"], theirs.obsm["X_scbignn"])
    assert "no report" in error_of(client.get(f"/results/{NAME}/report"))
    assert client.delete(f"/results/{NAME}").status_code == 204
    assert client.get(f"/results/{NAME}").status_code == 404
    assert client.delete(f"/results/{NAME}").status_code == 404
    assert list(temporary.glob("scbignn-*")) == []


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("patient 7.h5ad", "patient 7.h5ad"),
        ("../../etc/pass\nwd\u202e.h5ad\x00", "passwd.h5ad"),
        ("C:\\data\\\x1b[31mislets.h5ad ", "[31mislets.h5ad"),
        ("</title><script>alert(1)<", "title><script>alert(1)<"),
        ("{{ 7 * 7 }}%s", "{{ 7 * 7 }}%s"),
        ("x" * 1000, "x" * 119 + "…"),
        ("\u200f/", ""),
        ("", ""),
    ],
)
def test_the_heading_of_a_report_is_one_line_of_what_is_seen(given: str, shown: str) -> None:
    assert heading(given) == shown


def test_a_report_is_called_what_its_file_is(client: httpx.Client, body: bytes) -> None:
    pytest.importorskip("umap")
    name = "../\N{GREEK SMALL LETTER ALPHA}<img src=x onerror=alert(1)>\u202e.h5ad"
    assert put(client, body, report=True, file_name=name).status_code == 201
    text = client.get(f"/results/{NAME}/report").text
    client.delete(f"/results/{NAME}")
    shown = "\N{GREEK SMALL LETTER ALPHA}&lt;img src=x onerror=alert(1)&gt;.h5ad"
    assert f"<h1>{shown}</h1>" in text
    assert f"<title>{shown} labelled by " in text
    assert "cells.h5ad" not in text
    assert put(client, body, file_name="x" * 1001).status_code == 422
    assert client.get(f"/results/{NAME}").status_code == 404


def test_a_report_can_do_nothing_but_show_itself(client: httpx.Client, body: bytes) -> None:
    pytest.importorskip("umap")
    assert put(client, body, report=True).json()["files"] == ["report", "table", "h5ad"]
    report = client.get(f"/results/{NAME}/report")
    assert "<html" in report.text
    policy = report.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts ")
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    client.delete(f"/results/{NAME}")


@pytest.mark.parametrize(
    ("name", "kind", "query", "status"),
    [
        ("short", HDF5, {}, 422),
        ("a" * 65, HDF5, {}, 422),
        ("..%2F" + "a" * 22, HDF5, {}, 405),
        ("a" * 21 + "<", HDF5, {}, 422),
        (NAME, "application/json", {}, 415),
        (NAME, "text/plain", {}, 415),
        (NAME, HDF5, {"model": "absent"}, 404),
        (NAME, HDF5, {"embedding": True}, 422),
        (NAME, HDF5, {"tissue": "lung"}, 422),
    ],
)
def test_what_cannot_be_kept_is_refused_and_forgotten(
    client: httpx.Client, body: bytes, name: str, kind: str, query: dict[str, Any], status: int
) -> None:
    query = {"model": MODELS[0], **query}
    answer = client.put(
        f"/results/{name}", content=body, headers={"content-type": kind}, params=query
    )
    assert answer.status_code == status, answer.text
    assert error_of(answer)
    assert client.get(f"/results/{NAME}").status_code == 404


def test_a_damaged_file_leaves_nothing(client: httpx.Client, body: bytes, temporary: Path) -> None:
    answer = put(client, body[: len(body) // 2])
    assert answer.status_code == 422
    assert str(temporary) not in error_of(answer)
    assert client.get(f"/results/{NAME}").status_code == 404
    assert list(temporary.glob("scbignn-kept-*")) == []


def test_a_name_is_taken_once(client: httpx.Client, body: bytes) -> None:
    assert put(client, body).status_code == 201
    answer = put(client, body)
    assert answer.status_code == 409
    assert "expected a new name" in error_of(answer)
    assert client.get(f"/results/{NAME}").json()["state"] == "done"
    client.delete(f"/results/{NAME}")


def test_results_go_when_their_time_is_over_or_others_come(
    child: service.Worker,
    body: bytes,
    temporary: Path,
    until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results, "MOST_KEPT", 2)
    names = [letter * 22 for letter in "abc"]
    with running(child) as client:
        for name in names:
            assert put(client, body, name).status_code == 201
        codes = [client.get(f"/results/{name}").status_code for name in names]
        assert codes == [404, 200, 200]
        assert len(list(temporary.glob("scbignn-kept-*"))) == 2
        monkeypatch.setattr(results, "KEEP_SECONDS", 0.2)
        assert put(client, body, "d" * 22).status_code == 201
        until(lambda: client.get(f"/results/{'d' * 22}").status_code == 404)
        assert client.get(f"/results/{'c' * 22}").status_code == 200
    assert list(temporary.glob("scbignn-*")) == []  # the service has ended


def test_results_have_bytes_for_so_many(
    child: service.Worker, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "KEPT_BODIES", 1)
    limits = service.Limits(max_size=len(body) + 1000)
    with running(child, limits) as client:
        for letter in "ab":
            assert put(client, body, letter * 22).status_code == 201
        codes = [client.get(f"/results/{letter * 22}").status_code for letter in "ab"]
        assert codes == [404, 200]  # the newest stays, though it alone is larger than that


def test_progress_is_told_and_a_client_that_goes_away_ends_it(
    child: service.Worker, example: Path, until: Callable[..., None], temporary: Path
) -> None:
    many = ad.concat([ad.read_h5ad(example)] * 20, index_unique="-")
    many.write_h5ad(temporary.parent / "many.h5ad")
    body = (temporary.parent / "many.h5ad").read_bytes()
    with running(child) as client, ThreadPoolExecutor(1) as pool:
        made = pool.submit(put, client, body)
        seen = []
        while not made.done():
            with contextlib.suppress(httpx.HTTPError):
                seen.append(client.get(f"/results/{NAME}").json())
            time.sleep(0.02)
        assert made.result().status_code == 201
        stages = {s["stage"] for s in seen if s.get("state") == "working"}
        assert {"gene level", "graph"} <= stages
        working = [s for s in seen if s.get("stage") == "gene level"]
        assert all(0 <= s["done"] <= s["total"] == 14_000 for s in working)
        client.delete(f"/results/{NAME}")
        with (
            httpx.Client(base_url=client.base_url, timeout=0.5) as hasty,
            pytest.raises(httpx.TimeoutException),
        ):
            put(hasty, body)
        until(lambda: client.get(f"/results/{NAME}").status_code == 404)
        until(lambda: not list(temporary.glob("scbignn-*")))


# --- who may use it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "OWN"}, 200),
        ({"origin": "OWN", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, 200),
        (
            {
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "document",
            },
            200,
        ),
        (
            {
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "iframe",
            },
            403,
        ),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "http://localhost"}, 403),
        ({"origin": "https://evil.example.org"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "OWN.evil.example.org"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    own = str(client.base_url).rstrip("/")
    sent = {name: value.replace("OWN", own) for name, value in headers.items()}
    for path in ("/", "/models", "/metrics"):
        answer = client.get(path, headers=sent)
        assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers
    if status == 403:
        assert "from a page of" in error_of(answer)
        assert put(client, b"", headers=None).status_code == 422  # a program
        refused = client.put(
            f"/results/{NAME}", content=b"x", headers={**sent, "content-type": HDF5}
        )
        assert refused.status_code == 403


def test_a_proxy_may_name_the_port(client: httpx.Client) -> None:
    for origin, host, status in (
        ("https://localhost", "localhost:443", 200),
        ("http://localhost", "localhost:80", 200),
        ("http://localhost", "localhost:443", 403),
    ):
        answer = client.get("/health", headers={"origin": origin, "host": host})
        assert answer.status_code == status


def test_no_page_elsewhere_can_ask_before_it_sends(client: httpx.Client) -> None:
    asked = {
        "origin": "https://evil.example.org",
        "access-control-request-method": "PUT",
        "access-control-request-headers": "content-type",
    }
    answer = client.options(f"/results/{NAME}", headers=asked)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_is_safe_to_show(client: httpx.Client) -> None:
    for path in ("/", "/page.js", "/page.css", "/health", "/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers.get_list("content-security-policy") == [policy]


# --- what is counted and noted -------------------------------------------------------------------

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\[\\n"])*",?)*)\})? (\S+)')


def read(text: str) -> dict[tuple[str, str], float]:
    """Read the text format: each sample is of a family that was declared before it, once."""
    found: dict[tuple[str, str], float] = {}
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split()
            assert family not in kinds
            kinds[family] = kind
            continue
        if line.startswith("# HELP "):
            continue
        name, labels, value = SAMPLE.fullmatch(line).groups()
        family = name if name in kinds else re.sub("_(bucket|sum|count)$", "", name)
        assert kinds[family] in ("counter", "gauge", "histogram")
        assert (kinds[family] == "counter") == name.endswith("_total")
        assert (name, labels or "") not in found
        found[name, labels or ""] = float(value)
    return found


def test_metrics_count_what_was_done(child: service.Worker, body: bytes) -> None:
    before = child.cells[MODELS[0]]
    with running(child) as client:
        headers = {"content-type": HDF5}
        client.post("/annotate", content=body, headers=headers, params={"model": MODELS[0]})
        client.get("/health")
        for path in ("/nothing", "/../x", "/nothing/else"):
            client.get(path)
        client.get("/models", headers={"host": "evil.example.org"})
        client.request("BREW", "/health")
        answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = read(answer.text)
    requests = "scbignn_requests_total"
    assert found[requests, 'route="/annotate",method="POST",status="200"'] == 1
    assert found[requests, 'route="/health",method="GET",status="200"'] == 1
    assert found[requests, 'route="/health",method="other",status="405"'] == 1
    assert found[requests, 'route="other",method="GET",status="404"'] == 3
    assert found[requests, 'route="other",method="GET",status="421"'] == 1
    sizes = "scbignn_body_bytes_total"
    assert found[sizes, 'route="/annotate",direction="received"'] == len(body)
    assert found[sizes, 'route="/annotate",direction="sent"'] > 1000
    assert found["scbignn_cells_total", f'model="{MODELS[0]}"'] == before + 200
    assert found["scbignn_worker_ready", ""] == 1
    assert found["scbignn_queue_length", ""] == found["scbignn_receiving", ""] == 0
    times = "scbignn_request_duration_seconds"
    buckets = [
        value
        for (name, labels), value in found.items()
        if name == f"{times}_bucket" and 'route="/annotate"' in labels
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found[f"{times}_count", 'route="/annotate"'] == 1
    assert 0 < found[f"{times}_sum", 'route="/annotate"'] < 300
    parser = pytest.importorskip("prometheus_client.parser")
    families = {f.name: f for f in parser.text_string_to_metric_families(answer.text)}
    assert sum(len(family.samples) for family in families.values()) == len(found)


def test_the_access_log_has_a_line_for_each_request(
    child: service.Worker, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    observing.access.setLevel("INFO")
    try:
        with running(child) as client:
            put(client, body)
            agent = {"user-agent": b"odd \x9b2J" + b"x" * 500}
            client.get("/nothing?secret=1", headers=agent)
            for odd in (f"/results/{NAME}/", f"/results/{NAME}/report/x"):
                assert client.get(odd, follow_redirects=False).status_code == 404
            client.get("/health", headers={"host": "evil.example.org"})
    finally:
        observing.access.setLevel("NOTSET")
    lines = [r.getMessage() for r in caplog.records if r.name == "scbignn_infer.access"]
    assert all(line.isascii() and "\n" not in line for line in lines)
    noted = [json.loads(line) for line in lines]
    seen = [(n["method"], n["path"], n["status"]) for n in noted]
    assert seen == [
        ("PUT", "/results/{name}", 201),  # not the name, which opens the results
        ("GET", "/nothing", 404),
        ("GET", "/results/{name}/", 404),
        ("GET", "/results/{name}/report/x", 404),
        ("GET", "/health", 421),
    ]
    assert noted[0]["received"] == len(body)
    assert noted[0]["seconds"] > 0
    assert noted[0]["client"] == "127.0.0.1"
    assert len(noted[1]["agent"]) == 200
    assert "secret" not in lines[1]


def until_written(log: Path) -> None:
    """Wait for a request's line, which is written after the client has its answer."""
    end = time.perf_counter() + 30
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.perf_counter() < end, f"no line in {log}"
        time.sleep(0.01)


def test_the_command_keeps_the_log_in_a_file(
    start: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    log = tmp_path / "access.jsonl"
    process = start("serve", "--port", "0", "-m", MODELS[0], "--access-log", log)
    address = process.stderr.readline().split(" at ")[1].strip()
    with httpx.Client(base_url=address, timeout=60) as client:
        assert "<h1>Label cell types</h1>" in client.get("/").text
        until_written(log)
        log.rename(tmp_path / "old.jsonl")  # as programs do that rotate logs
        client.get("/health")
        until_written(log)
    for file, path in (("old.jsonl", "/"), ("access.jsonl", "/health")):
        (line,) = (tmp_path / file).read_text().splitlines()
        assert (json.loads(line)["path"], json.loads(line)["status"]) == (path, 200)
    done = run("serve", "--port", "0", "--access-log", tmp_path / "none" / "x", code=1)
    assert "cannot write the access log" in done.stderr


# --- the page ------------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for file in sorted(PAGE.iterdir()):
        text = file.read_text()
        assert "//" not in re.sub(r"^\s*//.*$|\s// .*$", "", text, flags=re.MULTILINE), file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
    page = (PAGE / "page.html").read_text()
    assert not re.search(r"<script(?! src)|<style| style=| on\w+=", page)


class Seen:
    """What a page has asked for and complained of."""

    def __init__(self, page: Any) -> None:
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._complained)
        page.on("pageerror", lambda e: self.errors.append(str(e)))
        page.on("request", lambda r: self.asked.append(r.url))

    def _complained(self, message: Any) -> None:
        """Note an error, but for a look at results whose request has not arrived yet."""
        looked = re.fullmatch(r".*/results/[\w-]{22,64}", message.location.get("url", ""))
        if message.type == "error" and not (looked and "404" in message.text):
            self.errors.append(message.text)


@pytest.fixture
def page(browser: Any, client: httpx.Client) -> Iterator[Any]:
    """Open the page, which looks more often how far the work is: no stage is too fast for it."""
    context = browser.new_context(accept_downloads=True, viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.seen = Seen(page)
    script = SCRIPT.read_text(encoding="utf-8").replace("LOOK_MS = 400", "LOOK_MS = 20")
    page.route(
        "**/page.js", lambda route: route.fulfill(body=script, content_type="text/javascript")
    )
    page.goto(str(client.base_url))
    wait(page, "document.querySelectorAll('#model option').length > 1")
    yield page
    own = str(client.base_url)
    asked = [url for url in page.seen.asked if not url.startswith(("data:", own))]
    context.close()
    assert asked == []


DROP = """([name, text]) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name));
    const target = document.getElementById("drop");
    for (const kind of ["dragover", "drop"])
        target.dispatchEvent(
            new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def wait(page: Any, true: str) -> None:
    """Wait until something holds in a page, whose policy forbids what Playwright waits with."""
    for _ in range(600):
        if page.evaluate(true):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never came: {true}")


def drop(page: Any, name: str, content: bytes) -> None:
    import base64

    page.evaluate(DROP, [name, base64.b64encode(content).decode()])


def test_a_file_is_dropped_and_its_labels_are_seen(
    page: Any, client: httpx.Client, body: bytes, tmp_path: Path
) -> None:
    pytest.importorskip("umap")
    name = '<img src=x onerror="document.title=1">.h5ad'
    drop(page, name, body)
    assert page.evaluate("document.getElementById('file').files[0].name") == name
    page.get_by_label("Model").select_option(MODELS[0])
    assert "human, blood" in page.inner_text("#about-model")
    page.evaluate("""() => {
        window.stages = [];
        new MutationObserver(() => stages.push(document.getElementById("status").textContent))
            .observe(document.getElementById("status"), { childList: true });
    }""")
    page.get_by_role("button", name="Label the cells").click()
    page.get_by_role("progressbar").wait_for()
    assert page.evaluate("document.activeElement.id") == "cancel"
    page.wait_for_selector("#result:not([hidden])", timeout=240_000)
    assert page.inner_text("#title") == f"Labels of {name}"  # text, not markup
    assert page.query_selector("img") is None
    assert page.evaluate("document.activeElement.id") == "title"
    stages = page.evaluate("stages")
    assert stages[0] == "Sending the file"
    assert stages[-1] == "Done."
    assert "Drawing the report" in stages
    assert not page.is_visible("#work")
    assert page.inner_text("#said").startswith("200 cells, of which ")
    counts = [int(n) for n in page.locator("#labels tr td:nth-child(2)").all_inner_texts()]
    assert sum(counts) == 200
    for link, suffix in (("table", ".csv"), (".h5ad", ".h5ad")):
        with page.expect_download() as download:
            page.get_by_role("link", name=re.compile(f"Download.*{link}")).click()
        assert download.value.suggested_filename.endswith(f".scbignn{suffix}")
        download.value.save_as(tmp_path / f"d{suffix}")
    labelled = ad.read_h5ad(tmp_path / "d.h5ad")
    table = (tmp_path / "d.csv").read_text().splitlines()
    assert len(table) == 201
    assert labelled.n_obs == 200
    assert "scbignn_cell_type" in labelled.obs
    frame = page.frame_locator("iframe[title=Report]")
    frame.locator("#map").wait_for()
    assert frame.locator("#map").get_attribute("data-drawn") == "label"  # its script has run
    assert frame.locator("h1").inner_text() == name
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the report in a tab").click()
    opened.value.wait_for_selector("#map")
    opened.value.close()
    assert page.evaluate("document.body.scrollWidth") <= 390
    assert page.seen.errors == []
    for url in {u.split("?")[0] for u in page.seen.asked if "/results/" in u}:
        client.delete(url.split("/report")[0].split("/table")[0].split("/h5ad")[0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cells.csv", b"a,b\n1,2\n", "cells.csv is no HDF5 file; choose an .h5ad"),
        ("<b>.h5ad", b"", "<b>.h5ad is no HDF5 file"),
        ("cut.h5ad", None, "; expected "),
    ],
)
def test_what_cannot_be_labelled_is_one_line(
    page: Any, body: bytes, name: str, content: bytes | None, said: str
) -> None:
    page.get_by_label("Model").select_option(MODELS[0])
    drop(page, name, body[: len(body) // 2] if content is None else content)
    page.get_by_role("button", name="Label the cells").click()
    wait(page, "document.getElementById('error').textContent !== ''")
    line = page.get_by_role("alert").inner_text()
    assert said in line
    assert len(line.splitlines()) == 1
    wait(page, "document.activeElement.id === 'start'")
    assert page.get_by_role("button", name="Label the cells").is_enabled()
    assert not page.is_visible("#work")
    assert not page.is_visible("#result")
    drop(page, "other.h5ad", body)
    assert page.get_by_role("alert").inner_text() == ""  # the line goes when it is mended


def test_what_is_missing_is_said_before_anything_is_sent(page: Any, body: bytes) -> None:
    button = page.get_by_role("button", name="Label the cells")
    button.click()
    wait(page, "document.getElementById('error').textContent.startsWith('No file')")
    drop(page, "cells.h5ad", body)
    button.click()
    wait(page, "document.getElementById('error').textContent.startsWith('No model')")
    assert [url for url in page.seen.asked if "/results/" in url] == []


def test_work_can_be_cancelled(
    page: Any, client: httpx.Client, example: Path, until: Callable[..., None], tmp_path: Path
) -> None:
    many = ad.concat([ad.read_h5ad(example)] * 10, index_unique="-")
    many.write_h5ad(tmp_path / "many.h5ad")
    page.set_input_files("#file", tmp_path / "many.h5ad")
    page.get_by_label("Model").select_option(MODELS[0])
    page.get_by_role("button", name="Label the cells").click()
    page.get_by_role("button", name="Cancel").click()
    wait(page, "document.getElementById('status').textContent === 'Cancelled.'")
    assert page.get_by_role("alert").inner_text() == ""
    assert page.evaluate("document.activeElement.id") == "start"
    until(lambda: client.get("/health").json()["queue_length"] == 0)
    (path,) = {u.split("?")[0] for u in page.seen.asked if "/results/" in u}
    until(lambda: client.get(path).status_code == 404)


def test_the_page_is_used_by_keyboard_alone_and_is_named(page: Any) -> None:
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["file", "model", "report", "start"]
    unnamed = page.evaluate("""() => [...document.querySelectorAll("input, select, progress")]
        .filter((e) => e.labels.length === 0).map((e) => e.id)""")
    assert unnamed == []
    assert page.get_by_role("status").count() == 1
    assert page.get_by_role("heading", level=1).inner_text() == "Label cell types"
    assert page.get_attribute("html", "lang") == "en"


AXE = Path(__file__).parent / "javascript" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.mark.skipif(
    not AXE.exists(), reason="needs: npm ci --ignore-scripts --prefix tests/javascript"
)
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_no_fault(page: Any, body: bytes, scheme: str) -> None:
    """Names, roles, contrast and order, with a result and an error on the page."""
    page.emulate_media(color_scheme=scheme)
    page.get_by_label("Model").select_option(MODELS[0])
    page.get_by_label("Make a report").uncheck()
    drop(page, "cells.h5ad", body)
    page.get_by_role("button", name="Label the cells").click()
    page.wait_for_selector("#result:not([hidden])", timeout=60_000)
    page.evaluate("document.getElementById('error').textContent = 'what is wrong'")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    assert [fault["help"] for fault in found["violations"]] == []


def test_a_page_elsewhere_cannot_use_the_service(browser: Any, client: httpx.Client) -> None:
    """A page of another port of this machine, the nearest that is another site."""
    import http.server

    own = str(client.base_url).rstrip("/")
    before = read(client.get("/metrics").text)

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>elsewhere</title>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}")
        outcome = page.evaluate(
            """async (own) => {
                const tries = [
                    () => fetch(own + "/models").then((r) => r.text()),
                    () => fetch(own + "/models", { mode: "no-cors" }).then((r) => r.type),
                    () => fetch(own + "/annotate?model=human-pbmc",
                        { method: "POST", mode: "no-cors", body: new Blob(["x"]) })
                        .then((r) => r.type),
                    () => fetch(own + "/results/" + "b".repeat(22),
                        { method: "PUT", body: "x" }).then((r) => r.text()),
                    () => fetch(own + "/results/" + "b".repeat(22),
                        { method: "DELETE" }).then((r) => r.text()),
                ];
                const found = [];
                for (const attempt of tries)
                    found.push(await attempt().catch((e) => e.name));
                const frame = document.createElement("iframe");
                frame.src = own;
                document.body.append(frame);
                await new Promise((r) => { frame.onload = r; });
                return found;
            }""",
            own,
        )
        page.close()
        other.shutdown()
    assert set(outcome) <= {"TypeError", "opaque"}  # nothing was read
    after = read(client.get("/metrics").text)
    new = {key: n - before.get(key, 0) for key, n in after.items() if "requests_total" in key[0]}
    served = {key[1] for key, n in new.items() if n and 'status="403"' not in key[1]}
    assert served <= {'route="/metrics",method="GET",status="200"'}
