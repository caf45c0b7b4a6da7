"""Man pages and shell completion, made from the parsers: `python -m overlayd.cli.documents SHARE [ZSH]`.

 1. Every parser is completed: overlayctl's are made when their command is used.
 2. shtab writes completion for bash and zsh, argparse-manpage the pages, below SHARE, which is PREFIX/share.
 3. ZSH is where zsh looks, below SHARE; Debian has a folder of its own for packages.

`make install` runs it with the environment that it installs, and takes the two libraries out of that again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from overlayd import __version__
from overlayd.cli import overlayctl, overlayd
from overlayd.cli.arguments import Parser

SUMMARIES = {
    "overlayd": "overlay network daemon for Linux containers",
    "overlayctl": "show and operate a running overlayd, its leases, labs and benchmarks",
}
FILES = {
    "overlayd": {
        "/etc/overlayd/overlayd.yaml": "the configuration",
        "/run/flannel/subnet.env": "this host's lease, for container engines",
        "/run/overlayd/overlayd.sock": "the control socket",
        "/run/overlayd/overlayd-attach.sock": "the socket for attaching containers, for root alone",
        "/var/lib/overlayd": "the attached containers; the node's identity and the last known leases (etcd)",
    },
    "overlayctl": {"/run/overlayd/overlayd.sock": "the control socket of the daemon"},
}
ENVIRONMENT = {
    "overlayd": {
        "OVERLAYD_CONFIG": "the configuration file",
        "OVERLAYD_NAME": "any setting: OVERLAYD_VXLAN_PORT is --vxlan-port",
        "FLANNELD_NAME": "the same for operators of flannel, unless OVERLAYD_NAME is set",
    },
    "overlayctl": {
        "OVERLAYD_CONTROL_SOCKET": "the control socket where --socket is not given",
        "OVERLAYD_SUBNET_FILE": "the subnet.env that docker-opts reads",
        "NO_COLOR": "no colours, whatever the terminal can do",
        "COLUMNS": "the width of tables",
    },
}
SECTION = "8"


def main(share: Path, zsh: str = "zsh/site-functions") -> None:
    """Write everything below `share`."""
    for parser in (overlayd.parser(), overlayctl.parser()):
        complete(parser)
        name = parser.prog
        write(share / "bash-completion/completions" / name, shtab.complete(parser, "bash"))
        write(share / zsh / f"_{name}", shtab.complete(parser, "zsh"))
        write(share / f"man/man{SECTION}/{name}.{SECTION}", page(parser))


def complete(parser: Parser) -> None:
    """Have the parser and those of its commands made whole; commands that are not listed go."""
    parser.complete()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            listed = {one.dest for one in action._get_subactions()}
            for name in set(action.choices) - listed:
                del action.choices[name]
            for child in action.choices.values():
                complete(child)
        elif action.option_strings and isinstance(action.metavar, str):
            if action.metavar in ("FILE", "PATH") or action.metavar.endswith("FILE"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # read by shtab
            elif action.metavar in ("DIRECTORY", "STATE_DIR"):
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def page(parser: Parser) -> str:
    """The man page."""
    name = parser.prog
    other = next(one for one in SUMMARIES if one != name)
    epilog, parser.epilog = parser.epilog or "", None
    made = Manpage(parser)
    made.section, made.manual = SECTION, "System Administration"
    made.source = f"overlayd {__version__}"
    made.description = SUMMARIES[name]
    notes, _, status = epilog.partition("exit status: ")
    made.add_section("exit status", "=", made.format_text(status.strip()))
    made.add_section("notes", "=", made.format_text(notes.strip()))
    made.add_section("environment", "=", listing(made, ENVIRONMENT[name]))
    made.add_section("files", "=", listing(made, FILES[name]))
    made.add_section("see also", "=", f".BR {other} ({SECTION}),\n.BR ip (8),\n.BR nft (8)")
    return str(made).replace(".SH NAME", ".ad l\n.nh\n.SH NAME", 1)  # names of options are neither stretched nor split


def listing(made: Manpage, entries: dict[str, str]) -> str:
    """A list of names, each with what it is."""
    return "\n".join(f".TP\n.B {made.format_text(name)}\n{made.format_text(text)}" for name, text in entries.items())


def write(path: Path, text: str) -> None:
    """Write the file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
