"""The configuration files that come with overlayd: valid, complete, and true about the defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.core.settings.options import options
from overlayd.system.config_file import Sources, load

CONFIG = Path(__file__).parents[2] / "config"
EXAMPLE = CONFIG / "overlayd.yaml"

Line = tuple[bool, str]
"""Whether the line is commented out, and the value that it shows."""


def shown() -> dict[tuple[str, ...], Line]:
    """Every `key: value` line of the example outside its lease table, commented out or not, by the option's path."""
    found: dict[tuple[str, ...], Line] = {}
    section = ""
    for line in EXAMPLE.read_text().splitlines():
        match = re.fullmatch(r"(# )?( *)([a-z0-9_]+):(?: +([^#]*?))?(?: +#.*)?", line)
        if match is None:
            continue
        hidden, indent, key, value = match.groups()
        if value is None:
            section = key
        elif not indent:
            section = ""
        if value is not None and section != "leases":
            path = (section, key) if section else (key,)
            assert path not in found, f"{line}: shown twice"
            found[path] = (hidden is not None, value.strip('"'))
    return found


def test_the_example_shows_every_option_and_no_other() -> None:
    assert {".".join(path) for path in shown()} == {".".join(option.path) for option in options(SETTINGS)}


@pytest.mark.parametrize("option", list(options(SETTINGS)), ids=lambda option: ".".join(option.path))
def test_the_example_shows_the_default(option: object) -> None:
    path, default = option.path, option.default  # type: ignore[attr-defined]
    hidden, value = shown()[path]
    if path == ("network",):
        assert not hidden, "it has to be set"
    elif default is None:
        assert hidden, "a value that is not the default must be commented out"
    else:
        assert value == (str(default).lower() if isinstance(default, bool) else str(default))


def test_the_example_is_valid_and_changes_nothing_but_the_network() -> None:
    settings = load(Sources(EXAMPLE), SETTINGS).settings
    changed = {key for key in SETTINGS.fields if getattr(settings, key) != SETTINGS.fields[key].default}
    assert changed == {"network", "leases"}
    assert [entry.name for entry in settings.leases] == ["host-a", "host-b"]


def test_every_value_that_is_commented_out_is_valid(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    for (*_, key), (hidden, _) in shown().items():
        if hidden and key != "leases_file":  # given instead of `leases`
            text, count = re.subn(rf"^# ( *{key}: )", r"\1", text, flags=re.MULTILINE)
            assert count == 1
    text = re.sub(r"^    # ", "    ", text, flags=re.MULTILINE)  # the lease row's
    file = tmp_path / "overlayd.yaml"
    file.write_text(text)
    settings = load(Sources(file), SETTINGS).settings
    assert str(settings.leases[0].ipv6_subnet) == "fd00:10:1:1::/64"
    assert settings.leases[0].vtep_mac == "06:47:0f:9c:01:2a"
    assert settings.mtu == 1450


@pytest.mark.parametrize("host", ["host-a", "host-b"])
def test_the_two_host_example_is_valid(host: str) -> None:
    loaded = load(Sources(CONFIG / "two-host" / f"{host}.yaml"), SETTINGS)
    assert [entry.name for entry in loaded.settings.leases] == ["host-a", "host-b"]
    assert loaded.files == (CONFIG / "two-host" / f"{host}.yaml", CONFIG / "two-host" / "leases.yaml")


def test_the_two_hosts_have_the_same_file() -> None:
    one, other = (
        (CONFIG / "two-host" / f"{host}.yaml").read_text().replace(host, "HOST") for host in ("host-a", "host-b")
    )
    assert one == other
