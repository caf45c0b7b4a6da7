"""How README is read for the tests that run its commands."""

from __future__ import annotations

import pytest

from support.readme import ELSEWHERE, IN_A_LAB, ON_MACHINES, sections, walk

TEXT = """\
# overlayd

    not in a section

## One

As root, `make deb`; `overlayd` alone is a name, and `10.1.0.0/16` a network:

    apt install ./x.deb        # comments go; they may say `make image`
    overlayctl status
    overlayctl status --json   # as `overlayctl status`

```yaml
network: 10.1.0.0/16   # `make wheel`
    # indented
```

| symptom | `journalctl -u x -n 20` |

## Two

Without commands.
"""


def test_commands_and_yaml_by_section() -> None:
    found = sections(TEXT)
    assert list(found) == ["One"]
    assert found["One"].commands == (
        ["make deb", "apt install ./x.deb", "overlayctl status", "overlayctl status --json", "journalctl -u x -n 20"]
    )
    assert found["One"].yaml == ["network: 10.1.0.0/16   # `make wheel`\n    # indented\n"]


def test_every_command_has_a_rule_and_every_rule_a_command() -> None:
    run: list[str] = []
    walk(["b", "a"], {"a": run.append, "b": run.append})
    assert run == ["b", "a"]
    for commands in (["a"], ["a", "b", "c"]):
        with pytest.raises(AssertionError, match="README's commands"):
            walk(commands, {"a": run.append, "b": run.append})
    assert run == ["b", "a"]


def test_every_section_is_run() -> None:
    assert set(sections()) <= {*ON_MACHINES, *IN_A_LAB, *ELSEWHERE}
