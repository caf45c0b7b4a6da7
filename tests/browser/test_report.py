"""The report in a real browser: on a phone and on a desk, by day and by night."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from overlayd.bench.report import page, write_pngs
from overlayd.bench.report.charts import charts, comparison
from overlayd.bench.result import Result
from overlayd.bench.scenario import SCENARIOS
from overlayd.bench.stacks import fold
from support.chromium import Page, browse

RECORDED = Path(__file__).parents[1] / "unit" / "bench_result.json"

OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect(), width = document.documentElement.clientWidth;
  const spills = element instanceof HTMLElement && element.clientWidth && element.scrollWidth > element.clientWidth + 1;
  return box.width && (box.left < -0.5 || box.right > width + 0.5 || spills);
}).map(element => element.tagName + ' ' + element.textContent.slice(0, 60))
"""
TEXTS_OUTSIDE = """
[...document.querySelectorAll('svg text')].filter(text => {
  const box = text.getBoundingClientRect(), around = text.ownerSVGElement.getBoundingClientRect();
  return box.left < around.left - 1 || box.right > around.right + 1 || box.bottom > around.bottom + 1;
}).map(text => text.textContent)
"""
TEXTS_THAT_MEET = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(text => [text.getBoundingClientRect(), text.textContent]);
  return boxes.flatMap(([a, one], at) => boxes.slice(at + 1).filter(([b]) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3
  ).map(([_, other]) => one + ' | ' + other));
})
"""
SHOWN = """
[...document.querySelectorAll('figure')].filter(figure =>
  figure.querySelector('svg').getBoundingClientRect().height > 30).map(figure => figure.dataset.chart)
"""
CONTRAST = """
(() => {
  const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parts = colour => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const light = values => values.map(channel).reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const paper = parts(getComputedStyle(document.querySelector('figure')).backgroundColor), card = light(paper);
  const ratio = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const to = colour => ratio(light(parts(colour)), card);
  const ink = light(parts(getComputedStyle(document.querySelector('svg .ink')).fill));
  const washed = style => light(parts(style.fill).map((value, at) =>
    value * style.fillOpacity + paper[at] * (1 - style.fillOpacity)));
  return {
    text: Math.min(...[...document.querySelectorAll('svg text')].map(text => to(getComputedStyle(text).fill))),
    bars: Math.min(...[...document.querySelectorAll('svg rect:not(.box)')].map(bar => to(getComputedStyle(bar).fill))),
    boxes: Math.min(...[...document.querySelectorAll('svg rect.box')].map(box => to(getComputedStyle(box).stroke))),
    inside: Math.min(...[...document.querySelectorAll('svg rect.wash')].map(
      box => ratio(ink, washed(getComputedStyle(box))))),
  };
})()
"""


STACKS = [["iperf3", "entry_SYSCALL_64_after_hwframe", "x"], ["ksoftirqd"], ["iperf3", "y"], ["swapper", "z"]]


@pytest.fixture
def result() -> Result:
    """A recorded one, with the longest title and figures as large as may come."""
    made = Result.load(RECORDED)
    made.scenarios[0].title = max((scenario.title for scenario in SCENARIOS.values()), key=len)
    for sample in made.samples:
        if sample.metric == "rr":
            sample.detail["quantiles_us"]["99.99"] *= 100
        if sample.metric == "udp64":
            sample.figures["rate"] *= 100
        if sample.metric == "tcp1":
            sample.figures |= {"retransmits": 12_345.6, "reordering": 0.5, "dsack": 17.0}
        if sample.metric == "profile":
            sample.detail["stacks"] = fold(
                [["daemon", "user space", *(f"a_function_{n}" for n in range(40))]] * 9 + STACKS
            )
    return made


async def check_layout(tab: Page, width: int) -> None:
    """Everything fits, with the tables open."""
    await tab.evaluate("document.querySelectorAll('details').forEach(element => element.open = true)")
    assert await tab.evaluate("innerWidth") == width
    assert await tab.evaluate("document.documentElement.scrollWidth") <= width
    assert await tab.evaluate(OVERFLOWING) == []
    assert await tab.evaluate(TEXTS_OUTSIDE) == []
    assert await tab.evaluate(TEXTS_THAT_MEET) == []
    size = "Math.min(...[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height))"
    assert await tab.evaluate(size) >= 11, "letters can be read"


async def check_colours(tab: Page, scheme: str) -> None:
    """Paper as the scheme has it, and enough contrast on it."""
    contrast = await tab.evaluate(CONTRAST)
    assert contrast["text"] >= 4.5, "WCAG 2.2, 1.4.3"
    assert min(contrast["bars"], contrast["boxes"]) >= 3, "WCAG 2.2, 1.4.11"
    assert contrast["inside"] >= 4.5, "text in a box"
    paper = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 26)")


async def test_the_report_reads_well_everywhere(result: Result, tmp_path: Path) -> None:
    single, double = tmp_path / "one.html", tmp_path / "two.html"
    single.write_text(page([("now", result)]))
    double.write_text(page([("after", result), ("before", result)]))
    own = {f"{chart.key}-{frames}" for frames in ("any", "1500") for chart in charts(result, frames)}
    both = {f"{chart.key}-{frames}" for frames in ("any", "1500") for chart in comparison(result, result, frames)}
    assert len(own) == 2 * 18 + 1, "one of them has bars too short to be read, and a chart of these alone"
    assert len(both) == 2 * 7
    own |= {f"flame-{name}-{frames}" for name in ("vxlan", "udp-native") for frames in ("any", "1500")}
    own |= {"path-tunnel-all", "path-daemon-all"}
    async with browse(tmp_path / "profile") as tab:
        for file, expected in ((single, own), (double, own | both)):
            for width, height in ((360, 740), (1280, 800)):
                await tab.emulate(width, height, "light")
                await tab.open(file.as_uri())
                await tab.evaluate("document.querySelectorAll('details').forEach(element => element.open = true)")
                assert set(await tab.evaluate(SHOWN)) == expected
                await check_colours(tab, "light")
                await check_layout(tab, width)
                await tab.emulate(width, height, "dark")
                await check_colours(tab, "dark")
        picture = await tab.screenshot()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 20_000, "not a blank one"
        assert tab.errors == []
        assert {url for url in tab.requests if not url.startswith("data:")} == {single.as_uri(), double.as_uri()}


async def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    """A page on which every one of them has something to find."""
    file = tmp_path / "bad.html"
    file.write_text(
        '<!doctype html><meta name=viewport content="width=device-width"><body><p style="width:500px">wide'
        '<figure><svg width=100 height=40><text x=80 y=20>beyond it</text><text x=0 y=30 style="fill:#777">one</text>'
        "<text x=5 y=31>other</text></svg></figure><script>console.log('x'); nothing()</script>"
        '<img src="http://127.0.0.1:9/x.png">'
    )
    async with browse(tmp_path / "profile") as tab:
        await tab.emulate(360, 740, "light")
        await tab.open(file.as_uri())
        assert any(found.startswith("P wide") for found in await tab.evaluate(OVERFLOWING))
        assert await tab.evaluate(TEXTS_OUTSIDE) == ["beyond it"]
        assert await tab.evaluate(TEXTS_THAT_MEET) == ["one | other"]
        assert any("console.log" in error for error in tab.errors)
        assert any("Uncaught" in error for error in tab.errors)
        assert "http://127.0.0.1:9/x.png" in tab.requests


def test_charts_as_png(result: Result, tmp_path: Path) -> None:
    written = write_pngs(result, tmp_path / "png")
    assert len(written) == 2 * 18 + 1
    for path in written:
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert struct.unpack(">I", head[16:20]) == (960,)
    assert json.loads(RECORDED.read_text())["plan"]["frames"] == ["any", "1500"]
