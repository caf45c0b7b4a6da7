"""Where a value comes from, which of several wins, and what is said when it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlayd.backend.modes import SETTINGS
from overlayd.core.settings.model import Settings
from overlayd.system.config_file import ConfigError, Loaded, Sources, load

GOOD = "network: 10.1.0.0/16\n"
ROW = "  - subnet: 10.1.{0}.0/24\n    public_ip: 192.0.2.{0}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "overlayd.yaml"


def loaded(
    file: Path | None,
    text: str = GOOD,
    flags: Mapping[tuple[str, ...], str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Loaded:
    if file is not None:
        file.write_text(text)
    return load(Sources(file, flags or {}, environment or {}), SETTINGS)


def errors(
    file: Path | None,
    text: str = GOOD,
    flags: Mapping[tuple[str, ...], str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """The lines of the error that loading raises."""
    with pytest.raises(ConfigError) as caught:
        loaded(file, text, flags, environment)
    assert str(caught.value) == "\n".join(caught.value.lines)
    return caught.value.lines


# --- where from, and which wins ---------------------------------------------------------------------------------------


def test_flag_before_environment_before_file_before_default(file: Path) -> None:
    path = ("vxlan", "port")
    text = GOOD + "vxlan:\n  port: 1\n"
    assert loaded(file).settings.vxlan.port == 8472
    assert loaded(file, text).settings.vxlan.port == 1
    assert loaded(file, text, environment={"OVERLAYD_VXLAN_PORT": "2"}).settings.vxlan.port == 2
    both = loaded(file, text, {path: "3"}, {"OVERLAYD_VXLAN_PORT": "2"})
    assert both.settings.vxlan.port == 3
    assert both.settings.vxlan.vni == 1


def test_what_is_overruled_need_not_be_right(file: Path) -> None:
    assert loaded(file, GOOD + "mtu: big\n", {("mtu",): "1400"}).settings.mtu == 1400
    assert loaded(file, GOOD + "vxlan: nonsense\n", {("vxlan", "vni"): "7"}).settings.vxlan.vni == 7
    assert loaded(file, GOOD, {("mtu",): "1400"}, {"OVERLAYD_MTU": "big"}).settings.mtu == 1400


def test_what_is_overruled_by_a_flag_is_named(file: Path) -> None:
    text = "network: 10.1.0.0/16\nmode: vxlna\nudp:\n  port: 9000\nvxlan:\n  vni: 7\n"
    flags = {("mode",): "udp", ("udp", "port"): "9000", ("vxlan", "vni"): "8"}
    assert loaded(file, text, flags).overridden == (
        f"{file}:2: mode: vxlna is not used; --mode is udp",
        f"{file}:6: vxlan.vni: 7 is not used; --vxlan-vni is 8",
    )


def test_no_file_is_needed() -> None:
    found = loaded(None, environment={"OVERLAYD_NETWORK": "10.1.0.0/16", "HOME": "/root", "OVERLAYD_CONFIG": "x"})
    assert str(found.settings.network) == "10.1.0.0/16"
    assert found.files == ()


def test_values_mean_the_same_in_all_places(file: Path) -> None:
    """YAML's own reading of a scalar (octal, sexagesimal, booleans, null) is not used."""
    text = (
        GOOD + "mtu: 01400\nip_masq: on\nleases:\n" + ROW.format(1) + "    vtep_mac: 02:00:00:00:00:10\n    name: no\n"
    )
    found = loaded(file, text).settings
    assert found.mtu == 1400
    assert found.ip_masq is True
    assert found.leases[0].vtep_mac == "02:00:00:00:00:10"
    assert found.leases[0].name == "no"


def test_an_empty_value_is_none_given(file: Path) -> None:
    text = GOOD + "mtu:\nsubnet_len: null\niface: ~\nvxlan:\n"
    assert loaded(file, text).settings == loaded(file, GOOD).settings


def test_leases_from_a_file_of_their_own(file: Path) -> None:
    (file.parent / "table.yaml").write_text("leases:\n" + ROW.format(1) + ROW.format(2))
    found = loaded(file, GOOD + "leases_file: table.yaml\n")
    assert [str(entry.subnet) for entry in found.settings.leases] == ["10.1.1.0/24", "10.1.2.0/24"]
    assert found.files == (file, file.parent / "table.yaml")


def test_an_absolute_path_of_the_leases_file(file: Path, tmp_path: Path) -> None:
    table = tmp_path / "elsewhere" / "table.yaml"
    table.parent.mkdir()
    table.write_text("leases:\n" + ROW.format(1))
    assert len(loaded(file, GOOD + f"leases_file: {table}\n").settings.leases) == 1


# --- what is wrong, and where -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "network: 10.1.0.0/16\nmtu: big\n",
            "FILE:2: mtu: big is not a valid MTU; use 576",
        ),
        ("mtu: 1400\n", "network: is missing; give a network such as 10.1.0.0/16 (or an ipv6_network)"),
        (GOOD + "vxlan:\n  vni: 1\n  prot: 1\n", "FILE:4: vxlan.prot: unknown key; did you mean port?"),
        (
            GOOD + "leases:\n" + ROW.format(1) + "    colour: red\n",
            "FILE:5: leases[0].colour: unknown key; known here: ",
        ),
        (
            GOOD + "leases:\n" + ROW.format(1) + ROW.format(1).replace(".2.1", ".2.9"),
            "FILE:5: leases[1].subnet: 10.1.1.0/24 overlaps leases[0]",
        ),
        (GOOD + "leases: none\n", "FILE:2: leases: none is not a list; write one `- subnet: ...` for each host"),
        (GOOD + "vxlan: 5\n", "FILE:2: vxlan: 5 is not a mapping; write `key: value` lines below it"),
        (GOOD + "mode: [udp]\n", "FILE:2: mode: takes a single value, not a list or a mapping"),
        (GOOD + "network: 10.2.0.0/16\n", "FILE:2: network: is given twice; keep one"),
        (GOOD + "vxlan:\n  vni: 1\n  vni: 2\n", "FILE:4: vxlan.vni: is given twice; keep one"),
        ("network: [10.1.0.0/16\n", "FILE:2: is not valid YAML: "),
        ("network: 10.1.0.0/16\n\tmtu: 1\n", "FILE:2: is not valid YAML: found character '\\t'"),
        ("- network\n", "FILE:1: is not a mapping; write `key: value` lines"),
        ("just text\n", "FILE:1: is not a mapping; write `key: value` lines"),
        ("a: &a\n  b: *a\n", "FILE:"),
        ("network: " + "[" * 50 + "]" * 50 + "\n", "FILE:1: is nested too deeply"),
        ("network: " + "[" * 5000 + "]" * 5000 + "\n", "FILE: is nested too deeply"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_in_the_file(file: Path, text: str, line: str) -> None:
    found = errors(file, text)
    assert found[0].startswith(line.replace("FILE", str(file)))
    assert all("\n" not in one for one in found)


def test_each_mistake_has_a_line_of_its_own(file: Path) -> None:
    found = errors(file, "mode: x\nnetwork: 10.1.0.1/16\nvxlan:\n  port: 0\n")
    assert [one.split(": ")[:2] for one in found] == [
        [f"{file}:1", "mode"],
        [f"{file}:2", "network"],
        [f"{file}:4", "vxlan.port"],
    ]


def test_a_mistake_in_a_flag_or_a_variable_names_it(file: Path) -> None:
    flag = errors(file, flags={("vxlan", "port"): "0"})
    assert flag == ["--vxlan-port: 0 is out of range; use 1 to 65535"]
    variable = errors(file, environment={"OVERLAYD_VXLAN_PORT": "0"})
    assert variable == ["OVERLAYD_VXLAN_PORT: 0 is out of range; use 1 to 65535"]
    unknown = errors(file, environment={"OVERLAYD_VXLAN_PROT": "1"})
    assert unknown == ["OVERLAYD_VXLAN_PROT: unknown variable; see overlayd --help for those there are"]


def test_mistakes_in_the_leases_file_name_that_file(file: Path) -> None:
    table = file.parent / "table.yaml"
    text = GOOD + "leases_file: table.yaml\n"
    table.write_text("leases:\n" + ROW.format(1) + "  - subnet: 10.1.2.7/24\n    public_ip: 192.0.2.2\n")
    assert errors(file, text) == [
        f"{table}:4: leases[1].subnet: 10.1.2.7/24 has host bits set; did you mean 10.1.2.0/24?"
    ]
    table.write_text("mode: udp\n")
    assert errors(file, text) == [f"{table}: mode: unknown key; a lease file holds `leases:` and nothing else"]
    table.unlink()
    assert errors(file, text) == [f"{table}: No such file or directory; check the path and its permissions"]
    table.write_text("leases: []\n")
    twice = errors(file, text + "leases:\n" + ROW.format(1))
    assert twice == [f"{file}:2: leases_file: table.yaml is given beside `leases`; keep one of the two"]


def test_no_file_there(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file or directory; check the path"):
        load(Sources(missing), SETTINGS)
    with pytest.raises(ConfigError, match="Is a directory"):
        load(Sources(tmp_path), SETTINGS)


def test_a_value_cannot_break_a_line(file: Path) -> None:
    found = errors(file, 'network: 10.1.0.0/16\nmode: "two\\nlines \\e[31m"\n')
    assert len(found) == 1
    assert "\n" not in found[0]
    assert "\x1b" not in found[0]


def outcome(file: Path) -> Settings | list[str]:
    """The settings or the lines of the error: there is no third thing."""
    try:
        return load(Sources(file), SETTINGS).settings
    except ConfigError as error:
        return error.lines


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_file_holds_there_is_an_answer(file: Path, content: str | bytes) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    assert outcome(file)


yaml_like = st.recursive(
    st.sampled_from(["10.1.0.0/16", "10.1.1.0/24", "192.0.2.1", "udp", "1", "", "~"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["network", "mode", "leases", "vxlan", "port", "subnet", "x"]), inner, max_size=4
        ),
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["network", "mode", "leases", "vxlan", "mtu", "leases_file"]), yaml_like))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_its_shape_there_is_an_answer(file: Path, tree: dict[str, object]) -> None:
    file.write_text(yaml.safe_dump(tree))
    assert outcome(file)
