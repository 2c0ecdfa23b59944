"""The program: finds the language, builds the commands, turns errors into words and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from rowmill.cli.pinning import spell_out
from rowmill.cli.session import BAD_USE, INTERRUPTED, NOT_WRITTEN, OK, Session
from rowmill.domain.errors import RowmillError, UsageError, os_detail
from rowmill.texts import LANGUAGES, Speech, language

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INTERNAL_ERROR = 70

# Command -> module and function. Only the module of the command that is called is imported: each costs a start.
_COMMANDS = {
    "template": ("reading", "template"),
    "run": ("run", "run"),
    "batches": ("reading", "batches"),
    "show": ("reading", "show"),
    "export": ("reading", "export"),
    "retry": ("run", "retry"),
    "check": ("check", "check"),
    "pause": ("control", "pause"),
    "stop": ("control", "stop"),
    "resume": ("control", "resume"),
    "delete": ("control", "delete"),
    "append": ("append", "append"),
    "doctor": ("reading", "doctor"),
    "demo": ("fake", "demo"),
    "fake-dify": ("fake", "fake_dify"),
}


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command; returns the exit code: 0 all well, 1 some rows did not succeed, 2 bad use or configuration,
    3 the results could not be written, 130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    environ = os.environ if environ is None else environ
    rest, asked, missing = _take_language(args)
    session = Session(Speech(language(environ, asked)), environ)
    session.json = "--json" in args
    try:
        _refuse_language(asked, missing=missing)
        return _run(rest, session)
    except RowmillError as error:
        session.fail(error)
        return NOT_WRITTEN if error.code == "results_not_written" else BAD_USE
    except KeyboardInterrupt:
        session.tell("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # noqa: BLE001 -- the edge: a bug must end in words and a report, not in silence
        if isinstance(error, OSError) and error.filename:
            session.fail(RowmillError("file_trouble", path=str(error.filename), detail=os_detail(error)))
            return BAD_USE
        traceback.print_exc()
        session.fail(RowmillError("internal", kind=type(error).__name__))
        return INTERNAL_ERROR


def _take_language(args: list[str]) -> tuple[list[str], str | None, bool]:
    """`--lang zh` may stand anywhere. The other arguments, the language, and whether it was left out."""
    rest: list[str] = []
    asked: str | None = None
    missing = False
    waiting = iter(args)
    for arg in waiting:
        if arg == "--lang":
            asked = next(waiting, None)
            missing = asked is None
        elif arg.startswith("--lang="):
            asked = arg.partition("=")[2]
        else:
            rest.append(arg)
    return rest, asked, missing


def _refuse_language(asked: str | None, *, missing: bool) -> None:
    if missing:
        raise UsageError("option_needs_value", option="--lang")
    if asked is not None and asked.lower().replace("-", "_").partition("_")[0] not in LANGUAGES:
        raise UsageError("lang_unknown", found=asked, known=LANGUAGES)


def _run(args: list[str], session: Session) -> int:
    if args == ["--version"]:
        _show_version(session)
        return OK
    command = _build(session.say, next((arg for arg in args if arg in _COMMANDS), None))
    try:
        code = command.main(spell_out(args), prog_name="rowmill", standalone_mode=False, obj=session)
    except typer.Exit as leaving:
        return leaving.exit_code
    except typer.Abort:
        session.tell("interrupted")
        return INTERRUPTED
    except TyperException as error:
        session.fail(_bad_use(error))
        return BAD_USE
    return code if isinstance(code, int) else OK


def _bad_use(error: TyperException) -> RowmillError:
    """What typer found wrong with the command line, as one of our errors."""
    option = getattr(error, "option_name", None)
    param = getattr(error, "param", None)
    name = (param.opts[0] if param.param_type_name == "option" else param.metavar or param.name) if param else option
    message = getattr(error, "message", "") or str(error)
    match type(error).__name__:
        case "NoSuchOption":
            near = tuple(getattr(error, "possibilities", None) or ())
            return RowmillError("no_such_option_near" if near else "no_such_option", option=option, near=near)
        case "MissingParameter":
            return RowmillError("missing_parameter", name=name)
        case "BadOptionUsage":
            return RowmillError("option_needs_value", option=option)
        case "NoArgsIsHelpError":
            return RowmillError("no_command", commands=tuple(_COMMANDS))
        case "BadParameter":
            return _bad_value(error, param, name, message)
        case _ if message.startswith("No such command"):
            found = message.removeprefix("No such command").strip(" '.\"")
            return RowmillError("no_such_command", command=found, commands=tuple(_COMMANDS))
        case _ if message.startswith("Got unexpected extra argument"):
            return RowmillError("too_many_arguments", found=message.partition(" (")[2].removesuffix(")"))
        case _:
            return RowmillError("bad_usage", message=message)


def _bad_value(error: TyperException, param: Any, name: str | None, message: str) -> RowmillError:
    """A number outside its range, or no number; typer itself tells the value only to its own cause."""
    lowest, highest = getattr(param, "min", None), getattr(param, "max", None)
    told: list[Any] = getattr(error.__cause__, "errors", list)()
    if lowest is None or not told:
        return RowmillError("bad_value", name=name, message=message)
    kind = "whole" if isinstance(lowest, int) else "number"
    code = f"bad_value_{kind}" if highest is not None else f"bad_value_{kind}_from"
    return RowmillError(code, name=name, found=str(told[0]["input"]), lowest=lowest, highest=highest)


class _Translated:
    """Help in the language of the session: typer has its own headings in English only."""

    def get_help(self, ctx: Any) -> str:
        text: str = super().get_help(ctx)  # type: ignore[misc]
        say = ctx.find_root().obj.say
        for english, code in _HEADINGS.items():
            text = text.replace(english, say(code))
        return text


class _Command(_Translated, TyperCommand):
    pass


class _Group(_Translated, TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(_COMMANDS)


_HEADINGS = {
    "Usage: ": "help.usage",
    "[OPTIONS] COMMAND [ARGS]...": "help.usage_group",
    "[OPTIONS]": "help.usage_options",
    "\nArguments:\n": "help.arguments",
    "\nOptions:\n": "help.options",
    "\nCommands:\n": "help.commands",
    "Show this message and exit.": "help.help",
    "[required]": "help.required",
    "[default: ": "help.default",
    "<path>": "help.path",
    "<text>": "help.text",
}


def _build(say: Speech, wanted: str | None) -> Any:
    """The commands with their help in one language; only the wanted one can be run."""
    app = typer.Typer(
        cls=_Group,
        add_completion=False,
        help=say("help.rowmill"),
        epilog=say("help.exit_codes"),
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, (module, function) in _COMMANDS.items():
        run = getattr(import_module(f"rowmill.cli.{module}"), function) if name == wanted else _not_wanted
        epilog = say("help.exit_codes") if name in ("run", "retry") else None
        app.command(name, cls=_Command, help=say(f"help.command.{name}"), epilog=epilog)(run)
    app.callback(invoke_without_command=True)(_greet)
    command: Any = typer.main.get_command(app)
    lang = next(param for param in command.params if param.name == "lang")
    lang.expose_value = False
    for part in command.commands.values():
        part.params.append(lang)
    for param in {id(param): param for part in (command, *command.commands.values()) for param in part.params}.values():
        if param.help:
            param.help = say(param.help)
    return command


def _not_wanted() -> None:
    """Stands for a command that is only listed."""


def _greet(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="help.version"),
    lang: str = typer.Option("", "--lang", metavar="en|zh", help="help.lang", show_default=False),
) -> None:
    del lang  # only for the help: it is taken out of the arguments before
    session: Session = context.obj
    if version:
        _show_version(session)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def _show_version(session: Session) -> None:
    from importlib.metadata import version  # noqa: PLC0415 -- 20 ms that only this option needs

    session.out.print(f"rowmill {version('rowmill')}")
