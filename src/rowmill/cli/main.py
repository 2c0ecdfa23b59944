"""The program: finds the language, builds the commands, turns errors into words and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import typer
from typer import rich_utils
from typer.exceptions import TyperException

from rowmill.cli import append, control, fake, reading, run
from rowmill.cli.pinning import spell_out
from rowmill.cli.session import BAD_USE, INTERRUPTED, OK, Session
from rowmill.domain.errors import RowmillError
from rowmill.texts import Speech, language

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

INTERNAL_ERROR = 70

_COMMANDS: dict[str, Callable[..., None]] = {
    "template": reading.template,
    "run": run.run,
    "batches": reading.batches,
    "show": reading.show,
    "export": reading.export,
    "retry": run.retry,
    "pause": control.pause,
    "stop": control.stop,
    "resume": control.resume,
    "delete": control.delete,
    "append": append.append,
    "doctor": reading.doctor,
    "demo": fake.demo,
    "fake-dify": fake.fake_dify,
}


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command; returns the exit code: 0 all well, 1 some rows did not succeed, 2 bad use or configuration,
    130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    environ = os.environ if environ is None else environ
    args, asked = _take_language(args)
    session = Session(Speech(language(environ, asked)), environ)
    session.json = "--json" in args
    try:
        return _run(args, session)
    except RowmillError as error:
        session.fail(error)
        return BAD_USE
    except KeyboardInterrupt:
        session.tell("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # noqa: BLE001 -- the edge: a bug must end in words and a report, not in silence
        traceback.print_exc()
        session.fail(RowmillError("internal", kind=type(error).__name__))
        return INTERNAL_ERROR


def _take_language(args: list[str]) -> tuple[list[str], str | None]:
    """`--lang zh` may stand anywhere."""
    rest: list[str] = []
    asked: str | None = None
    waiting = iter(args)
    for arg in waiting:
        if arg == "--lang":
            asked = next(waiting, None)
        elif arg.startswith("--lang="):
            asked = arg.partition("=")[2]
        else:
            rest.append(arg)
    return rest, asked


def _run(args: list[str], session: Session) -> int:
    command = _build(session.say)
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
            near = ", ".join(getattr(error, "possibilities", None) or [])
            return RowmillError("no_such_option", option=option, near=near)
        case "MissingParameter":
            return RowmillError("missing_parameter", name=name)
        case "BadOptionUsage":
            return RowmillError("option_needs_value", option=option)
        case "NoArgsIsHelpError":
            return RowmillError("no_command", commands=", ".join(_COMMANDS))
        case "BadParameter":
            return RowmillError("bad_value", name=name, message=message)
        case _ if message.startswith("No such command"):
            found = message.removeprefix("No such command").strip(" '.\"")
            return RowmillError("no_such_command", command=found, commands=", ".join(_COMMANDS))
        case _:
            return RowmillError("bad_usage", message=message)


def _build(say: Speech) -> Any:
    """The commands with their help in one language."""
    app = typer.Typer(
        add_completion=False,
        help=say("help.rowmill"),
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, function in _COMMANDS.items():
        app.command(name, help=say(f"help.command.{name}"))(function)
    app.callback(invoke_without_command=True)(_greet)
    command: Any = typer.main.get_command(app)
    for sub in command.commands.values():
        for param in sub.params:
            if param.help:
                param.help = say(param.help)
    rich_utils.OPTIONS_PANEL_TITLE = say("help.options")
    rich_utils.ARGUMENTS_PANEL_TITLE = say("help.arguments")
    rich_utils.COMMANDS_PANEL_TITLE = say("help.commands")
    return command


def _greet(context: typer.Context, version: bool = typer.Option(False, "--version", help="help.version")) -> None:
    session: Session = context.obj
    if version:
        from importlib.metadata import version as installed  # noqa: PLC0415 -- 20 ms that only this option needs

        session.out.print(f"rowmill {installed('rowmill')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
