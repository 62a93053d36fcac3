"""The command `koosh`: results on stdout, the log on stderr, the exit codes of `EXIT_CODES`."""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from koosh_gadgets import examples
from koosh_gadgets.terminal import log_handler

log = logging.getLogger("koosh")

COMMANDS = (
    "simulate",
    "info",
    "convert",
    "report",
    "demo",
    "weights",
    "prepare",
    "train",
    "evaluate",
    "replay",
    "pet",
    "serve",
    "dicom",
    "doctor",
    "completion",
)
"""Modules of `koosh_gadgets.commands`; each registers its parser with `add(subparsers)` and imports torch late."""


EXIT_CODES = {
    0: "done",
    1: "something failed: this machine, our code, a check that found faults, files a PACS did not take",
    2: "bad input: an option, a file, an address, or what a server answered; one sentence says what to do",
    3: "memory ran out, whatever was made smaller; what was received is in the spool",
    42: "`koosh train` was stopped by a signal and has saved all: start it again with --resume auto",
    130: "interrupted from the keyboard",
}

NO_FAULT_OF_INPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE)
"""Troubles of the machine, which no other input mends."""


OUT_OF_MEMORY = 3


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line, or of the one command `only`, whose start then waits for no other's."""
    top = argparse.ArgumentParser(
        prog="koosh",
        description="3D non-Cartesian MRI with unrolled networks: simulate, reconstruct, serve, train.",
        epilog=epilog(),
    )
    top.add_argument("-v", "--verbose", action="store_true", help="log more, with tracebacks")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in (only,) if only in COMMANDS else COMMANDS:
        importlib.import_module(f"koosh_gadgets.commands.{name}").add(subparsers)
    examples.show(top)
    return top


def epilog() -> str:
    """The end of the help: exit codes and what images are for."""
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    return f"exit codes:\n{codes}\n\nResearch software: its images are not for diagnosis."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser(words[0] if words else None).parse_args(words)
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(level=level, handlers=[log_handler()])
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # whoever read our output has had enough; the interpreter must not try to flush the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        log.error("%s", sentence(error), exc_info=arguments.verbose)
        return 1 if getattr(error, "errno", None) in NO_FAULT_OF_INPUT else 2
    except ImportError as error:  # what is absent has its remedy in the message
        log.error("%s", sentence(error), exc_info=arguments.verbose)
        return 1
    except MemoryError as error:
        log.error("memory ran out: %s", sentence(error), exc_info=arguments.verbose)
        return OUT_OF_MEMORY
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    except Exception as error:
        log.error("%s: %s", type(error).__name__, sentence(error), exc_info=True)
        return 1


def sentence(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
