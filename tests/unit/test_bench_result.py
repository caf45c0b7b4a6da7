"""Result files: their schema, what is no result, figures out of them, and the page that is made of them."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from overlayd.bench import stacks
from overlayd.bench.attach import ATTACHMENTS
from overlayd.bench.errors import BenchError
from overlayd.bench.metric import METRICS
from overlayd.bench.report import page, svg
from overlayd.bench.report.charts import charts
from overlayd.bench.report.colours import DAY, colour_of
from overlayd.bench.report.drawing import COPY, PATHS, WAKE, path_of
from overlayd.bench.result import Result
from overlayd.bench.scenario import SCENARIOS
from overlayd.bench.session import QUICK_PLAN, Plan
from overlayd.cli.bench_table import show

RECORDED = Path(__file__).with_name("bench_result.json")
SCHEMA = Path(__file__).parents[2] / "benchmarks" / "result.schema.json"


@pytest.fixture
def result() -> Result:
    return Result.load(RECORDED)


def test_the_committed_schema_is_that_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text()) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Result.model_json_schema(),
    }


def test_a_recorded_result_keeps_to_the_schema_and_survives_saving(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "again.json"
    result.save(path)
    assert Result.load(path) == result
    jsonschema.validate(json.loads(path.read_text()), json.loads(SCHEMA.read_text()))


def test_a_file_of_the_former_format_is_read() -> None:
    """The recorded one is of that format."""
    former, now = json.loads(RECORDED.read_text()), Result.load(RECORDED)
    assert former["format"] == "overlayd-bench/1"
    assert now.format == "overlayd-bench/2"
    assert now.plan.scenarios == former["plan"]["ways"]
    assert [one.name for one in now.scenarios] == [one["name"] for one in former["ways"]]
    assert now.environment.machine.cores == former["context"]["machine"]["cores"]
    assert [(one.scenario, one.unreliable) for one in now.samples] == [
        (one["way"], one["disturbed"]) for one in former["samples"]
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "not a result of overlayctl bench (invalid JSON: "),
        ("{}", "not a result of overlayctl bench (started: Field required)"),
        ('{"format": "overlayd-bench/9"}', "format: Input should be 'overlayd-bench/2'"),
    ],
)
def test_what_is_no_result_is_told_by_its_first_mistake(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=re.escape(error)):
        Result.load(path)
    with pytest.raises(BenchError, match="check the path"):
        Result.load(tmp_path / "missing.json")


def test_figures_come_out_round_by_round(result: Result) -> None:
    series = result.series("1500", "vxlan", "tcp1", "rate")
    assert len(series) == 2
    assert all(series)
    seen = result.spread("1500", "vxlan", "tcp1", "rate")
    assert seen is not None
    assert seen.count == 2
    own = result.ratio("1500", "vxlan", "tcp1", "rate", "vxlan")
    assert own is not None
    assert (own.low, own.high) == (1, 1)
    result.samples = [one for one in result.samples if one.round == 2 or one.scenario != "vxlan"]
    assert result.series("1500", "vxlan", "tcp1", "rate") == [None, series[1]]
    other = result.ratio("1500", "udp-native", "tcp1", "rate", "vxlan")
    assert other is not None
    assert other.count == 1, "a round in which the base is missing has no ratio"
    assert result.spread("any", "nothing", "tcp1", "rate") is None


class Parsed(HTMLParser):
    """Charts, cells and texts of a page; open tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.charts: list[str] = []
        self.cells = 0
        self.text = ""
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value for key, value in attrs if key in ("href", "src") and value]
        if "data-chart" in given:
            self.charts.append(given["data-chart"] or "")
        self.cells += tag == "td"
        if tag not in ("meta", "link"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_has_every_chart_and_every_figure_and_needs_nothing_else(result: Result) -> None:
    seen = Parsed(page([("now", result)]))
    kinds = {"tcp1-rate", "tcp4-rate", "udp64-rate", "udp512-lossless", "rr-rate", "connect-latency", "cost", "stack"}
    for frames in ("any", "1500"):
        assert {f"{kind}-{frames}" for kind in kinds} <= set(seen.charts)
    assert len(set(seen.charts)) == len(seen.charts)
    for metric in METRICS.values():
        for figure in metric.figures.values():
            assert figure.title in seen.text, (metric.name, figure.title)
    assert seen.links == ["data:,"]
    assert "url(" not in page([("now", result)])


def test_what_a_file_holds_is_never_markup(result: Result) -> None:
    result.scenarios[0].title = "<script>alert(1)</script>"
    result.notes.append("<img src=x onerror=alert(1)>")
    result.environment.machine.cpu = "<b>"
    text = page([("<i>", result)])
    for bad in ("<script", "<img", "<b>", "<i>"):
        assert bad not in text


def test_a_result_with_nothing_measured_yet_has_a_page(result: Result) -> None:
    result.samples, result.complete = [], False
    seen = Parsed(page([("begun", result)]))
    assert "Interrupted" in seen.text
    assert seen.charts == []


def test_two_results_are_compared_figure_by_figure(result: Result) -> None:
    slower = result.model_copy(deep=True)
    for sample in slower.samples:
        if (sample.scenario, sample.metric) == ("udp-native", "tcp1"):
            sample.figures["rate"] /= 10
            sample.figures["machine_cpu"] /= 10
    text = page([("after", slower), ("before", result)])
    seen = Parsed(text)
    assert "compare-tcp1-any" in seen.charts
    assert text.count(">-90% worse<") == 2  # of either setting
    assert text.count(">-90% better<") == 2
    assert "≈ within the spread" in text
    assert "worse<" not in page([("again", result), ("before", result)])


def test_the_terminals_table_has_every_way(result: Result) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    show(result, console)
    said = console.export_text()
    assert said.count("udp, native engine") == 2
    assert "runs started on" in said


# --- charts -----------------------------------------------------------------------------------------------------------


def test_a_bar_goes_to_the_median_and_its_spread_from_least_to_most() -> None:
    drawn = svg.bars("t", [svg.Bar("a", "5", 4, 5, 10, 0), svg.Bar("b", "2", 2, 2, 2, 1)])
    assert f'width="{svg.WIDTH / 2:.1f}"' in drawn
    assert f"H{svg.WIDTH:.1f}" in drawn
    assert drawn.count('class="spread"') == 1, "none where there is no spread"


def test_a_stack_is_divided_as_its_parts_are() -> None:
    drawn = svg.stacks("t", [("x", 4), ("y", 2)], [svg.Stack("a", "4 s", [1, 3]), svg.Stack("none", "0 s", [0, 0])])
    assert f'width="{svg.WIDTH / 4:.1f}" height="12" class="c4"' in drawn
    assert "a: y 75%" in drawn


def test_stacks_have_one_scale() -> None:
    """A tenth of the processor time is a tenth of the length."""
    drawn = svg.stacks("t", [("x", 0)], [svg.Stack("a", "40 s", [40]), svg.Stack("b", "4 s", [4])])
    assert f'width="{svg.WIDTH:.1f}"' in drawn
    assert f'width="{svg.WIDTH / 10:.1f}"' in drawn


def test_short_stacks_are_shown_enlarged_as_well(result: Result) -> None:
    for sample in result.samples:
        if (sample.scenario, sample.metric) == ("vxlan", "tcp1"):
            sample.figures |= {figure: value / 50 for figure, value in sample.figures.items()}
    drawn = {chart.key: chart for chart in charts(result, "any")}
    assert "udp, native engine" in drawn["stack"].svg
    assert "udp, native engine" not in drawn["stack-small"].svg


def test_a_scenario_has_its_colour_in_every_result_and_chart(result: Result) -> None:
    names = [name for names in (SCENARIOS, ATTACHMENTS) for name in names]
    for one in (SCENARIOS, ATTACHMENTS):
        assert len({colour_of(name) for name in one}) == len(one), "no two of one result are alike"
    assert all(colour_of(name) < len(DAY) for name in [*names, "mine", "another"])
    result.scenarios.reverse()
    bar = next(chart for chart in charts(result, "any") if chart.key == "tcp1-rate").svg
    assert re.findall(r'height="12" class="c(\d)"', bar) == [str(colour_of(name)) for name in ("udp-native", "vxlan")]


def test_a_better_direction_is_said_of_every_chart(result: Result) -> None:
    for chart in charts(result, "any"):
        assert chart.note.endswith(("Higher is better.", "Lower is better.")), chart.title


# --- what is said -----------------------------------------------------------------------------------------------------


def set_rates(result: Result, *rates: float) -> None:
    """udp-native's of tcp1, round by round, where vxlan has 10."""
    for sample in result.samples:
        if sample.metric == "tcp1":
            sample.figures["rate"] = 10.0 if sample.scenario == "vxlan" else rates[sample.round - 1]


def test_conclusions_come_first_with_ratios_and_spread(result: Result) -> None:
    set_rates(result, 5, 8)
    text = page([("now", result)])
    assert "Of 2 scenarios between containers, vxlan is best in throughput of one TCP stream (10.00 Gbit/s)" in text
    assert "throughput of one TCP stream 0.65x (0.50-0.80)" in text
    assert text.index("Of 2 scenarios") < text.index("<figure")


def test_a_difference_inside_the_spread_is_not_shown_as_one(result: Result) -> None:
    set_rates(result, 9, 12)
    text = page([("now", result)])
    assert "no clear difference in throughput of one TCP stream" in text
    assert "level with" in text
    assert "10.50  (≈ vxlan)" in text
    assert "1.05x" not in text
    console = Console(width=200, record=True, file=io.StringIO())
    show(result, console)
    said = console.export_text()
    assert re.search(r"10\.50 +≈", said)
    assert "1.05x" not in said
    assert re.search(r"vxlan +│ +10\.00 │", said), "the base has no ratio to itself"


def test_the_drawings_count_copies_and_wakeups(result: Result) -> None:
    found = {path.key: (path.count(COPY), path.count(WAKE)) for path in PATHS}
    assert found == {"routed": (2, 1), "tunnel": (2, 1), "daemon": (6, 3)}
    assert [path_of(one) for one in result.scenarios[:2]] == ["tunnel", "daemon"]
    text = page([("now", result)])
    assert "A program encapsulates: 6 copies, 3 wake-ups" in text
    assert "The kernel routes" not in text, "no scenario of this result takes it"


def test_stacks_of_all_rounds_make_a_flame_graph(result: Result) -> None:
    assert "Flame graph" not in page([("now", result)]).partition("Glossary")[0], "none without perf"
    folded = stacks.fold([["daemon", "sys_writev"]] * 3 + [["<iperf3>"]])
    for sample in result.samples:
        if (sample.scenario, sample.metric) == ("udp-native", "profile"):
            sample.detail["stacks"] = folded
    text = page([("now", result)])
    assert 'data-chart="flame-udp-native-any"' in text
    assert "daemon: 75.0%" in text
    assert "&lt;iperf3&gt;: 25.0%" in text


@pytest.mark.parametrize(
    ("least", "most", "ticks"),
    [(90, 400, [50, 100, 200, 500]), (3, 90_000, [1, 10, 100, 1e3, 1e4, 1e5]), (5, 5, [5, 50])],
)
def test_logarithmic_ticks_enclose_the_values(least: float, most: float, ticks: list[float]) -> None:
    assert svg.log_ticks(least, most) == ticks


@pytest.mark.parametrize(("most", "last", "count"), [(47, 50, 6), (1, 1, 6), (0.07, 0.08, 5), (1e6, 1e6, 6)])
def test_ticks_enclose_the_values(most: float, last: float, count: int) -> None:
    ticks = svg.ticks_to(0, most)
    assert (ticks[0], ticks[-1], len(ticks)) == (0, pytest.approx(last), count)


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5"), (5000, "5000"), (100_000, "100k"), (2e7, "20M")])
def test_ticks_are_short(value: float, text: str) -> None:
    assert svg.short(value) == text


def test_a_chart_alone_has_its_colours_in_it(result: Result) -> None:
    for chart in charts(result, "any"):
        alone = svg.standalone(chart.svg)
        assert alone.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
        assert "var(" not in alone


# --- plans ------------------------------------------------------------------------------------------------------------


def test_the_estimate_grows_with_what_is_measured() -> None:
    assert 40 < QUICK_PLAN.seconds() < 90
    full = Plan()
    assert full.seconds() == pytest.approx(2 * replace(full, frames=("any",)).seconds())
    assert replace(full, rounds=10).seconds() > 1.8 * full.seconds()
