"""Command lines: parsers that are made when their command is used, mistakes in one line, exit statuses that hold.

1. A program has a table of commands: name, line of help, the module that holds the rest.
2. Its `Parser` imports that module when the command is parsed, and calls its `configure(parser)`, which adds the
   arguments and sets `run`: a function that takes the parsed arguments and returns the exit status.
3. `run_program` calls it, and turns what it raises into one line and an exit status.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from overlayd.core.errors import ReportedError

EXIT_STATUS = "exit status: 0 success, 1 failure or a problem reported, 2 usage error"
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Command(NamedTuple):
    """A row of a table of commands."""

    name: str
    help: str | None
    """None: the command is not listed."""
    module: str
    function: str = "configure"

    def configure(self, parser: Parser) -> None:
        """Import the module and have it add the command's arguments."""
        getattr(import_module(self.module), self.function)(parser)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose arguments may be added as late as it parses; what is wrong with them is one line."""

    def __init__(self, *, configure: Callable[[Parser], None] | None = None, **named: Any) -> None:
        super().__init__(allow_abbrev=False, **named)
        self._configure = configure

    def complete(self) -> None:
        """Add the arguments that are still to be added."""
        configure, self._configure = self._configure, None
        if configure is not None:
            configure(self)

    @property
    def flags(self) -> frozenset[str]:
        """Every spelling of every option."""
        return frozenset(self._option_string_actions)

    def add_commands(self, commands: Iterable[Command], *, required: bool = True) -> None:
        """One of these commands has to follow, or may."""
        verbs = self.add_subparsers(title="commands", required=required, metavar="COMMAND", prog=self.prog)
        for one in commands:
            listed: dict[str, Any] = {} if one.help is None else {"help": one.help}
            verbs.add_parser(one.name, configure=one.configure, **listed)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but nothing may be left over: the parser that was given it says so."""
        self.complete()
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(self._unknown(rest[0]))
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        """End with status 2, and one line instead of the whole usage."""
        see = " See" if message.endswith("?") else "; see"
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}{see} '{self.prog} --help'\n")

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument {word!r}"
        flag = word.partition("=")[0]
        return f"unknown option {flag}{did_you_mean(flag, self.flags)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, argparse._SubParsersAction):
            listed = [one.dest for one in action._get_subactions()]
            hint = did_you_mean(value, listed) or f"; the commands are {', '.join(listed)}"
            raise argparse.ArgumentError(None, f"unknown command {value!r}{hint}")
        words = [str(one) for one in action.choices]
        raise argparse.ArgumentError(action, f"{value} is not one of {', '.join(words)}{did_you_mean(value, words)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to a message about a word that is not known: the nearest of those that are, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def run_program(program: str, run: Callable[[], int]) -> int:
    """The exit status of `run`; errors that are made to be read are printed, and a closed pipe ends it quietly."""
    try:
        try:
            status = run()
        finally:
            sys.stdout.flush()  # a reader that has left is noticed here, not in the interpreter's last moments
    except ReportedError as error:
        report(program, str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # `overlayctl lease list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def report(program: str, text: str) -> None:
    """Print what is wrong to standard error, each line with the program's name."""
    for line in text.splitlines():
        print(f"{program}: {line}", file=sys.stderr)


def print_json(value: Sequence[Any] | dict[str, Any]) -> None:
    """What `--json` prints."""
    import json

    print(json.dumps(value, indent=2))
