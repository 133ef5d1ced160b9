"""The HTML report in a real browser: nothing from outside, no complaints, sorting, hovering, light and dark."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ming_eval import manifest as manifests
from ming_eval import results
from ming_eval.cli import app
from ming_eval.load.summary import summarise_run
from ming_eval.metrics.audio import PcmFormat, wav_header
from ming_eval.results import CoverageCase, CoverageSummary, InputFile, Verdict
from ming_eval.run_folder import Redactor, RequestLog
from ming_eval.types import Reply
from tests.end_to_end.browser import CHROMIUM, Page, open_browser
from tests.fakes import FakeServer, Script
from tests.ming_eval.compare.simulation import World, simulate
from tests.ming_eval.factories import make_backend, make_manifest, make_plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install -y chromium"),
]

HOSTILE = "<img src=x onerror=fetch('https://example.com/')>"
WORLD = World(concurrencies=(1, 4, 16), num_requests=48)


def store_sweep(out: Path, name: str, slowdown: float) -> Path:
    """A simulated run of one system."""
    system = simulate(WORLD, np.random.default_rng(0), name=name, slowdown=slowdown)
    folder = out / f"20260615T101500Z-sweep-{name}"
    folder.mkdir(parents=True)
    backends = tuple(replace(backend, model=HOSTILE) for backend in system.manifest.backends)
    finished = system.manifest.started
    manifest = replace(system.manifest, run=folder.name, finished=finished, backends=backends)
    manifests.write(manifest, folder)
    summary = summarise_run(manifest, system.records, finished=finished, cut_short=None)
    results.write(summary, folder / "summary.json")
    with RequestLog(folder, Redactor()) as log:
        for record in system.records:
            log.add(Reply(record, "text"))
    return folder


def store_coverage(out: Path) -> Path:
    """A coverage run with a picture, a sound and a clip going in and speech coming out."""
    folder = out / "20260615T120000Z-coverage-a"
    (folder / "outputs").mkdir(parents=True)
    samples = (8_000 * np.sin(np.arange(24_000) / 8)).astype("<i2").tobytes()
    (folder / "outputs" / "a-t2s.wav").write_bytes(wav_header(PcmFormat(24_000), len(samples)) + samples)
    manifest = make_manifest(make_plan(), make_backend())
    manifest = replace(manifest, run=folder.name, command=("ming-eval", "coverage"), settings={})
    manifests.write(manifest, folder)
    summary = CoverageSummary(
        run=folder.name,
        command=manifest.command,
        started=manifest.started,
        finished=manifest.started,
        seed=0,
        partial=False,
        verdict=Verdict("complete", 0),
        max_error_rate=0.05,
        settings={},
        backends=manifest.backends,
        requests=4,
        failed=0,
        error_rate=0.0,
        cases=(
            make_case("I2T", "shapes", InputFile("shapes.png", "image", "image/png", 2_000, 64, 64, None)),
            make_case("A2T", "beeps", InputFile("beeps.wav", "audio", "audio/wav", 2_000, None, None, 1.0)),
            make_case("V2T", "ball", InputFile("ball.mp4", "video", "video/mp4", 2_000, 64, 64, 1.0)),
            make_case("T2S", "hello", audio_file="outputs/a-t2s.wav", audio_s=1.0),
        ),
    )
    results.write(summary, folder / "summary.json")
    return folder


def make_case(modality: str, name: str, *inputs: InputFile, **values: Any) -> CoverageCase:
    plain: dict[str, Any] = dict.fromkeys(CoverageCase.__dataclass_fields__)
    plain |= {"backend": "a", "modality": modality, "id": name, "status": "pass", "prompt": "What is this?"}
    plain |= {"inputs": inputs, "output": HOSTILE, "mentions": (), "mentioned": (), "ttft_ms": 100.0, "e2e_ms": 900.0}
    return CoverageCase(**(plain | values))


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two systems overlaid, the second one 20 % slower."""
    out = tmp_path_factory.mktemp("results")
    return write_page(store_sweep(out, "fast", 1.0), store_sweep(out, "slow", 1.2))


@pytest.fixture(scope="module")
def coverage_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(store_coverage(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def spoken_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of pictures that are answered aloud, half a second each."""
    out = tmp_path_factory.mktemp("results")
    speech = wav_header(PcmFormat(16_000), 16_000) + bytes(16_000)
    with FakeServer.in_thread(Script(audio=(speech,))) as server:
        options = (
            "--task",
            "I2S",
            "--image-size",
            "40",
            "--concurrency",
            "1,2",
            "--requests",
            "4",
            "--max-tokens",
            "2",
        )
        result = CliRunner().invoke(app, ["sweep", "--backend", f"s={server.url}", *options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return write_page(*out.iterdir())


def write_page(*folders: Path) -> Path:
    to = folders[0].parent / "page"
    words = ["report", *map(str, folders), "--to", str(to)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return to / "report.html"


def visit(path: Path, ask: Callable[[Page], Awaitable[None]]) -> Page:
    """Open the page from its file, do something, and check that it asked nobody and complained of nothing."""

    async def run() -> Page:
        async with open_browser() as page:
            await page.resize(1280, 900)
            await page.open(path.as_uri())
            await ask(page)
            await asyncio.sleep(0.2)  # what it would still have loaded or complained of
            await page.evaluate("1")
            return page

    page = asyncio.run(run())
    outside = [url for url in page.requests if url != path.as_uri() and not url.startswith("data:")]
    assert (outside, page.complaints) == ([], [])
    return page


async def column(page: Page, section: str, index: int) -> list[str]:
    script = f"[...document.querySelectorAll('#{section} tbody tr')].map(row => row.cells[{index}].textContent)"
    found: list[str] = await page.evaluate(script)
    return found


async def middle(page: Page, selector: str) -> tuple[float, float]:
    """Where an element is on the screen, after scrolling to it."""
    script = f"""(() => {{
        const element = document.querySelector({json.dumps(selector)});
        element.scrollIntoView({{block: "center", behavior: "instant"}});
        const box = element.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    }})()"""
    x, y = await page.evaluate(script)
    return x, y


def test_everything_is_there_and_nothing_comes_from_outside(sweep_page: Path) -> None:
    async def ask(page: Page) -> None:
        titles = await page.evaluate("[...document.querySelectorAll('h2')].map(title => title.textContent)")
        sections = ["Overview", "Load curves", "Comparison", "Points", "Distributions", "Timeline", "How to repeat it"]
        assert titles == sections
        assert await page.evaluate("document.querySelectorAll('#load svg').length") == 6
        assert (
            await page.evaluate("document.querySelectorAll('#load-ttft polyline').length") == 4
        )  # 2 systems x p50, p99
        assert await page.evaluate("document.querySelectorAll('#timeline svg').length") == 2
        assert await page.evaluate("document.querySelectorAll('#timeline-0 .pt').length") == 48
        assert "slow gives 0.833 x the output tokens/s of fast" in await page.evaluate("document.body.innerText")

    visit(sweep_page, ask)


def test_texts_of_a_server_are_shown_and_not_run(sweep_page: Path) -> None:
    async def ask(page: Page) -> None:
        assert HOSTILE in await page.evaluate("document.body.innerText")
        assert await page.evaluate("document.querySelectorAll('img').length") == 0

    visit(sweep_page, ask)


def test_a_click_on_a_header_sorts_by_number_and_a_second_one_turns_it_round(sweep_page: Path) -> None:
    async def ask(page: Page) -> None:
        assert await column(page, "points", 1) == ["1", "4", "16"] * 2
        await page.click(*await middle(page, "#points th:nth-child(2) button"))
        assert await column(page, "points", 1) == ["1", "1", "4", "4", "16", "16"]
        await page.click(*await middle(page, "#points th:nth-child(2) button"))
        assert await column(page, "points", 1) == ["16", "16", "4", "4", "1", "1"]
        await page.click(*await middle(page, "#points th:nth-child(1) button"))
        assert await column(page, "points", 0) == ["fast"] * 3 + ["slow"] * 3

    visit(sweep_page, ask)


def test_pointing_at_a_point_says_what_it_is(sweep_page: Path) -> None:
    async def ask(page: Page) -> None:
        visible = "getComputedStyle(document.getElementById('tip')).visibility"
        assert await page.evaluate(visible) == "hidden"
        await page.hover(*await middle(page, "#load-throughput .pt:last-child .reach"))
        await page.wait_for(f"{visible} == 'visible'")
        assert (await page.evaluate("document.getElementById('tip').textContent")).startswith("slow, c=16: ")
        await page.hover(*await middle(page, "h1"))
        await page.wait_for(f"{visible} == 'hidden'")

    visit(sweep_page, ask)


def test_colours_follow_the_reader_and_the_button(sweep_page: Path) -> None:
    async def ask(page: Page) -> None:
        paper = "getComputedStyle(document.body).backgroundColor"
        await page.use_colours("light")
        await page.wait_for("document.documentElement.dataset.theme == 'light'")
        light = await page.evaluate(paper)
        await page.use_colours("dark")
        await page.wait_for("document.documentElement.dataset.theme == 'dark'")
        dark = await page.evaluate(paper)
        assert _brightness(light) > 200 > 60 > _brightness(dark)
        line = "getComputedStyle(document.querySelector('polyline')).stroke"
        in_dark = await page.evaluate(line)
        await page.click(*await middle(page, "#theme"))
        assert await page.evaluate(paper) == light
        assert await page.evaluate(line) != in_dark

    visit(sweep_page, ask)


def test_a_narrow_window_scrolls_tables_and_not_the_page(sweep_page: Path) -> None:
    async def ask(page: Page) -> None:
        await page.resize(390, 800)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390

    visit(sweep_page, ask)


def test_media_of_a_coverage_run_are_in_the_page_and_play(coverage_page: Path) -> None:
    async def ask(page: Page) -> None:
        assert await page.evaluate("document.querySelector('#answers img').naturalWidth") > 0
        lengths = await page.evaluate(
            """Promise.all([...document.querySelectorAll('#answers audio')].map(player => new Promise(done => {
                if (player.readyState > 0) done(player.duration);
                player.addEventListener('loadedmetadata', () => done(player.duration));
                player.addEventListener('error', () => done('error'));
            })))"""
        )
        assert len(lengths) == 2
        assert lengths[1] == pytest.approx(1.0)
        assert await page.evaluate("document.querySelectorAll('#answers video').length") == 1

    visit(coverage_page, ask)


def test_pictures_that_a_sweep_sent_are_seen_and_speech_is_heard(spoken_page: Path) -> None:
    async def ask(page: Page) -> None:
        assert await column(page, "media-and-speech", 1) == ["I2S", "I2S"]
        assert await page.evaluate("document.querySelectorAll('#load-rtf .dot, #load-ttfa .dot').length") == 2 * 2 * 2
        assert await page.evaluate("document.querySelector('#listen img').naturalWidth") == 40
        players = "[...document.querySelectorAll('#listen audio')]"
        await page.wait_for(f"{players}.every(player => player.readyState > 0)")
        assert await page.evaluate(f"{players}.map(player => player.duration)") == [0.5] * 3

    visit(spoken_page, ask)


def _brightness(colour: str) -> float:
    """Mean of the channels of `rgb(r, g, b)`."""
    channels = colour.removeprefix("rgb(").removesuffix(")").split(",")
    return sum(map(float, channels)) / 3
