"""README's commands, as tests run them: each section's code blocks, and the commands in its text.

A test has a table for each section: by which rule each command is run. `walk` runs a section in its order, and fails
where a command has no rule or a rule no command, so that what is written and what is run stay the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = (
    *("overlayd", "overlayctl", ".venv/bin/overlayctl", "sudo", "make", "apt", "git", "editor"),
    *("systemctl", "journalctl", "ip", "nft", "dockerd", "podman"),
)

# Sections with commands, by who runs them.
ON_MACHINES = (
    *("Install as a service", "Two hosts", "A cluster", "Upgrade", "Troubleshooting", "Configuration"),
    *("Status and monitoring", "What it does to a host"),
)
IN_A_LAB = ("See it", "Play with it", "Containers", "Two engines in udp mode", "Security")
ELSEWHERE = ("Limits of this version", "Coming from flannel, and going back")

Rule = Callable[[str], None]


@dataclass
class Section:
    """What stands below one heading of README."""

    commands: list[str] = field(default_factory=list)
    """Each once, in README's order: lines of indented blocks without their comments, and inline code of two words or
    more that begins with one of PROGRAMS."""
    yaml: list[str] = field(default_factory=list)
    """The contents of its yaml blocks."""


def sections(text: str | None = None) -> dict[str, Section]:
    """README's sections by their titles; those without commands are left out."""
    if text is None:
        text = (ROOT / "README.md").read_text()
    found: dict[str, Section] = {}
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        title, _, body = part.partition("\n")
        section = Section(yaml=re.findall(r"^```yaml\n(.*?)^```", body, re.M | re.S))
        for line in re.sub(r"^```.*?^```", "", body, flags=re.M | re.S).splitlines():
            for command in _commands(line):
                if command not in section.commands:
                    section.commands.append(command)
        if section.commands:
            found[title] = section
    return found


def _commands(line: str) -> list[str]:
    if line.startswith("    "):
        return [re.sub(r"\s+#.*", "", line).strip()]
    inline = re.findall(r"`([^`]+)`", line)
    return [code for code in inline if len(words := code.split()) > 1 and words[0] in PROGRAMS]


def walk(commands: list[str], rules: Mapping[str, Rule]) -> None:
    """Run each command by its rule. Fails unless the rules are for these commands and no others."""
    assert set(commands) == set(rules), "README's commands, and those that the test has a rule for"
    for command in commands:
        rules[command](command)
