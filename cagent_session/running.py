"""Runs a program as it is, and adds the session ID to its calls: what ``cagent-session`` does."""

from __future__ import annotations

import argparse
import builtins
import importlib.util
import os
import pkgutil
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn

from cagent_session.context import run_program_in
from cagent_session.gateway import Gateway
from cagent_session.headers import FORWARD_HEADER, SESSION_ID_HEADER
from cagent_session.instrumentation import instrument
from cagent_session.report import Report

_USAGE = """\
cagent-session [--gateway URL] [--session ID] [--header NAME=VALUE ...] [--report]
                      [--session-header NAME] [--marker NAME] [--root-header NAME]
                      [--parent-header NAME]
                      (program.py | -m module) [arguments ...]"""

_DESCRIPTION = """\
Run a Python program as it is, and add the session's ID to its calls to the models gateway. The
program itself enters its sessions, unless you give --session. All calls by requests, httpx, httpx2,
aiohttp and botocore are covered, and so are the SDKs that use them.

Processes that the program forks are covered, too. Processes that it starts anew are not: those of
subprocess, and those of multiprocessing with the start methods spawn and forkserver."""

_EPILOG = """\
Example: run "python agent.py --fast" in the session job-17, and see which calls were attributed:

  cagent-session --gateway https://gateway.example --session job-17 --report agent.py --fast

"python -m cagent_session" does the same as "cagent-session"."""

_FLAGS = ("--report", "--help", "-h")  # the options that have no value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line. The usage would hide it."""
        self.exit(2, f"cagent-session: {message}\n")


class _NotFoundError(Exception):
    """There is no such program."""


def run(arguments: list[str], *, is_safe: bool) -> None:
    """Run the program that *arguments* name, as python would.

    An error in the arguments ends this process with status 2, before the program runs.

    :param is_safe: whether ``sys.path`` gets no folder, as with ``python -P``.
    """
    parser = _parser()
    own, program = _split(arguments)
    options, unknown = parser.parse_known_args(own)
    if unknown:
        parser.error(f"there is no option {unknown[0].partition('=')[0]}; see --help")
    if program in ([], ["-m"]):
        parser.error("say what to run: program.py or -m module; see --help")
    try:
        _prepare(options)
    except ValueError as error:
        parser.error(str(error))
    report = Report(package=program[1].partition(".")[0] if program[0] == "-m" else "")
    if options.report:
        report.start()
    module = ModuleType("__main__")
    # Which of these names there are depends on the version of Python.
    usual = {"__annotations__": dict[str, Any](), "__cached__": None}
    present = vars(sys.modules["__main__"])
    vars(module).update({name: usual[name] for name in usual if name in present})
    vars(module)["__builtins__"] = builtins
    sys.modules["__main__"] = module
    try:
        # exec() gives the program a namespace of its own. Running it is what this module is for.
        exec(_load(module, program, is_safe=is_safe), vars(module))  # noqa: S102
    except _NotFoundError as error:
        report.cancel()
        parser.error(str(error))
    except BaseException as error:
        _hide_our_frames(error)
        raise


def _parser() -> _Parser:
    parser = _Parser(
        prog="cagent-session",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--gateway",
        metavar="URL",
        help="the gateway's URL; by default that of the environment variable "
        "DOCKER_AGENT_MODELS_GATEWAY or CAGENT_MODELS_GATEWAY",
    )
    parser.add_argument("--session", metavar="ID", help="run the whole program in this session")
    parser.add_argument(
        "--header",
        metavar="NAME=VALUE",
        type=_header,
        action="append",
        default=[],
        help="add this X-Cagent-* header to calls to the gateway that have no marker. One of these "
        f"headers must be the marker, such as {FORWARD_HEADER} with the provider's URL. You can "
        "give this option several times",
    )
    parser.add_argument(
        "--session-header",
        metavar="NAME",
        default=SESSION_ID_HEADER,
        help="the header in which the gateway reads the session's ID; default: %(default)s",
    )
    parser.add_argument(
        "--marker",
        metavar="NAME",
        default=FORWARD_HEADER,
        help="the header that marks the calls for the gateway; default: %(default)s; none: every "
        "call to the gateway gets the session's ID",
    )
    for whose in ("root", "parent"):
        parser.add_argument(
            f"--{whose}-header",
            metavar="NAME",
            help=f"the header in which the gateway reads the {whose} session's ID; default: none",
        )
    parser.add_argument(
        "--report",
        action="store_true",
        help="at the end, print on standard error which calls were attributed, and for the others "
        "why not, and where your code made them",
    )
    return parser


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("give it as NAME=VALUE")
    if name.lower() == SESSION_ID_HEADER.lower():
        raise argparse.ArgumentTypeError("use --session for the session's ID")
    return name, value


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the options of this program, and the program to run with its own arguments."""
    end = 0
    while end < len(arguments) and arguments[end].startswith("-") and arguments[end] != "-m":
        end += 1 if arguments[end] in _FLAGS or "=" in arguments[end] else 2
    return arguments[:end], arguments[end:]


def _prepare(options: argparse.Namespace) -> None:
    """Apply the options. Raise ValueError for a value that is not valid."""
    names: Any = {
        "session_header": options.session_header,
        "marker": None if options.marker.lower() == "none" else options.marker,
        "root_header": options.root_header,
        "parent_header": options.parent_header,
    }
    if options.gateway is None:
        gateway = Gateway.from_environment(**names)
    else:
        gateway = Gateway(options.gateway, **names)
    if gateway is None:
        raise ValueError(
            "give the gateway's URL with --gateway, or set the environment variable "
            "DOCKER_AGENT_MODELS_GATEWAY"
        )
    headers = dict(options.header)
    if headers and gateway.marker is None:
        raise ValueError("--header is only for a gateway that has a marker")
    if headers and str(gateway.marker).lower() not in map(str.lower, headers):
        raise ValueError(f"--header needs the marker, too: --header {gateway.marker}=VALUE")
    if options.session is not None:
        run_program_in(options.session)
    instrument(gateway, headers=headers or None)


def _load(module: ModuleType, program: list[str], *, is_safe: bool) -> CodeType:
    """Prepare *module*, the program's ``__main__``, and :mod:`sys` as python does.

    :returns: the code to run in the module.
    :raises _NotFoundError: if there is no such program.
    """
    name = program[0]
    sys.argv = program
    if name == "-m":
        if not is_safe:
            _put_first(os.getcwd())  # noqa: PTH109 - sys.path has strings
        spec, name = _find(sys.argv.pop(1))
        code = _load_spec(module, spec, f"there is no Python module {name}")
        sys.argv[0] = str(vars(module)["__spec__"].origin)
        return code
    path = os.path.join(os.getcwd(), name)  # noqa: PTH109, PTH118 - python keeps "." and ".."
    if finder := pkgutil.get_importer(path):  # it is a folder or a zip file
        _put_first(path)  # as with python -P, too
        spec = finder.find_spec("__main__")
        return _load_spec(module, spec, f"there is no Python module __main__ in {name}")
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise _NotFoundError(f"can't open {name}: {error.strerror}") from None
    if not is_safe:
        _put_first(str(Path(path).resolve().parent))
    vars(module).update(__file__=path, __loader__=SourceFileLoader("__main__", path))
    return compile(source, path, "exec", dont_inherit=True)


def _find(name: str) -> tuple[ModuleSpec | None, str]:
    """Return the spec and the name of the module to run: *name*, or ``__main__`` in a package."""
    try:
        spec = importlib.util.find_spec(name) if all(name.split(".")) else None
        if spec is not None and spec.submodule_search_locations is not None:
            name += ".__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # a module that the package imports is missing
        spec = None
    return spec, name


def _load_spec(module: ModuleType, spec: ModuleSpec | None, problem: str) -> CodeType:
    loader: Any = spec and spec.loader
    code: CodeType | None = loader.get_code(spec.name) if spec else None
    if spec is None or code is None:  # a module in C has no code
        raise _NotFoundError(problem)
    vars(module).update(vars(importlib.util.module_from_spec(spec)), __name__="__main__")
    return code


def _put_first(folder: str) -> None:
    """Put *folder* first on ``sys.path``, so that its modules come first.

    Forget those modules of other folders with the same names that this package has imported.
    """
    sys.path.insert(0, folder)
    names = list(sys.modules)
    imported = names[names.index("cagent_session") + 1 :]
    hiding = {name for name in imported if "." not in name and _is_another(name, folder)}
    for name in imported:
        if name.partition(".")[0] in hiding:
            del sys.modules[name]


def _is_another(name: str, folder: str) -> bool:
    """Return whether *folder* has a module *name*, and it is not the one that was imported."""
    spec = PathFinder.find_spec(name, [folder])
    origin = spec and spec.origin  # None for a folder without __init__.py, which hides nothing
    present = getattr(sys.modules[name], "__spec__", None)
    return bool(origin) and origin != getattr(present, "origin", None)


def _hide_our_frames(error: BaseException) -> None:
    """Let Python print the traceback of *error* as if python had run the program."""
    traceback, hook = error.__traceback__, sys.excepthook
    while traceback is not None and traceback.tb_frame.f_globals is globals():
        traceback = traceback.tb_next

    def print_error(kind: type[BaseException], value: BaseException, _: object) -> None:
        sys.excepthook = hook
        hook(kind, value.with_traceback(traceback), traceback)

    sys.excepthook = print_error
