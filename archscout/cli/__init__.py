"""The command line: one verb a file, each a thin wrapper of the Python function of the same name."""

from __future__ import annotations

import logging
import os
import sys

import typer

from archscout import naming
from archscout.errors import UserError

app = typer.Typer(
    name="archscout",
    help="Finds the neural network for your images and your hardware, without training every candidate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 something broke (add --debug for the traceback), 2 something for you to mend.",
)


@app.callback(invoke_without_command=True)
def version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
    quiet: bool = typer.Option(False, "--quiet", help="Say nothing but warnings on the way; anywhere in the line."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error; anywhere in the line."),
) -> None:
    """Finds the neural network for your images and your hardware, without training every candidate."""
    if version:
        from importlib.metadata import version as installed

        print(installed("archscout"))
        raise typer.Exit


def register() -> None:
    """Import every verb file, each of which adds its command to `app`."""
    from archscout.cli import (  # noqa: F401
        bench,
        bench_kit,
        demo,
        device,
        export,
        list_methods,
        predict,
        profile,
        rank,
        report,
        resume,
        search,
        select,
        train,
    )


def main(argv: list[str] | None = None) -> None:
    """Run a command line; exits with 0, 1 or 2 and prints a traceback only with --debug."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    quiet = "--quiet" in arguments
    arguments = [a for a in arguments if a not in ("--debug", "--quiet")]
    narrate(quiet)
    reach_here()
    register()
    try:
        code = app(arguments, standalone_mode=False)
        if code == 130:  # typer's word for Ctrl-C
            raise KeyboardInterrupt
        if isinstance(code, int) and code:
            sys.exit(code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except UserError as error:
        fail(f"error: {error}", 2, debug)
    except (KeyboardInterrupt, typer.Abort):
        fail("stopped; what was computed is kept: continue a run with  archscout resume RUN", 1, debug)
    except OSError as error:
        mine = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
        full = error.errno == 28
        advice = "; free space on the disk, then  archscout resume RUN" if full else ""
        fail(
            f"error: {error.strerror or error}: {error.filename or ''}{advice}".rstrip(": "),
            2 if mine or full else 1,
            debug,
        )
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            fail(f"error: {error.format_message()}", 2, debug)
        fail(f"error: {type(error).__name__}: {error} (add --debug for the traceback)", 1, debug)


def reach_here() -> None:
    """Let module:function name a file of the working folder, in this process and in those that it starts.

    The folder comes last, so that nothing that is installed is hidden by a file of the same name, and only once such a
    name is followed, so that nothing else in the folder is ever imported.
    """
    naming.FOLDERS[:] = [os.getcwd()]


def fail(message: str, code: int, debug: bool) -> None:
    """Print one line on stderr, or the traceback under --debug, and exit."""
    if debug:
        import traceback

        traceback.print_exc()
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def narrate(quiet: bool) -> None:
    """Show the program's own messages on stderr."""
    log = logging.getLogger("archscout")
    log.setLevel(logging.INFO)
    if not any(getattr(h, "archscout_console", False) for h in log.handlers):
        console = logging.StreamHandler()
        console.setFormatter(logging.Formatter("%(message)s"))
        console.archscout_console = True  # type: ignore[attr-defined]
        log.addHandler(console)
    for handler in log.handlers:
        if getattr(handler, "archscout_console", False):
            handler.setLevel(logging.WARNING if quiet else logging.INFO)
