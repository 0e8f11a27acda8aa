"""The program of a worker process: import the main script, then answer one call after another."""

from __future__ import annotations

import os
import pickle
import pkgutil
import signal
import sys
import threading
from importlib.util import find_spec
from multiprocessing import process as current
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fast_dag.drive import payload, scripts

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    Pipe = Connection[Any, Any]

BEGINS = b"begins"
"""Sent by a worker when a call begins. If a worker dies before it sends this, it has not made the
call."""
END = b"end"
"""Sent to a worker that is not needed any more."""


def main(pipe: Pipe, alive: Pipe, home: dict[str, Any], tracker: int | None = None) -> None:
    """Answer calls until the parent sends `END`.

    Parameters
    ----------
    pipe:
        For calls and answers.
    alive:
        Nobody writes to it. It is closed when the parent has died.
    home:
        The result of `processes.preparation`: settings that make this process like the parent.
    tracker:
        The pipe to the parent's resource tracker, if there is one.
    """
    if tracker is not None:
        from multiprocessing import resource_tracker

        resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]
    # A terminal sends these signals to all processes, but they are for the parent, whose run then
    # ends this process. The handler is not SIG_IGN because programs that nodes start would inherit
    # that.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if hasattr(os, "register_at_fork"):
        # Else the pipes would stay open as long as a forked child lives, and the parent would not
        # see the end of this process.
        os.register_at_fork(after_in_child=pipe.close)
        os.register_at_fork(after_in_child=alive.close)
    threading.Thread(target=_end_with, args=(alive,), name="fast_dag parent", daemon=True).start()
    try:
        pipe.send_bytes(_prepared(home, alive))
        while (packed := pipe.recv_bytes()) != END:
            pipe.send_bytes(_answer(pipe, packed))
    except (EOFError, OSError):
        os._exit(1)  # the parent has died


def _answer(pipe: Pipe, packed: bytes) -> bytes:
    try:
        return payload.run_packed(packed, lambda: pipe.send_bytes(BEGINS))
    except OSError:
        raise
    except BaseException as error:
        text = f"its worker process could not report how it ended: {type(error).__name__}"
        return pickle.dumps((None, text, None, 0.0))


def _end_with(alive: Pipe) -> None:
    alive.poll(None)
    os._exit(1)


def _prepared(home: dict[str, Any], alive: Pipe) -> bytes:
    """Make this process like the parent. Returns the answer to the parent: what the main script
    defines, or what failed."""
    me: Any = current.current_process()
    me.authkey = home["authkey"]
    me.name = home["name"]
    current._parent_process = current._ParentProcess(*home["parent"], alive.fileno())  # type: ignore[attr-defined]
    sys.argv = home["argv"]
    scripts.know(home["files"])
    if home["start_method"] is not None:
        import multiprocessing

        multiprocessing.set_start_method(home["start_method"], force=True)
    # multiprocessing sets this, too, while a child imports the main script; see `processes.refuse`.
    me._inheriting = True
    try:
        module = _import_main(*home["main"])
    except BaseException as error:
        return payload.failure_of(error)
    finally:
        del me._inheriting
    return pickle.dumps((True, {} if module is None else payload.names_of(module)))


def _import_main(name: str | None, path: str | None) -> ModuleType | None:
    """Import the parent's main script, under the name that keeps it from running again."""
    if name is None and path is None:
        return None
    module = ModuleType("__mp_main__")
    if name is not None:
        spec = find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        module.__spec__, module.__file__, module.__package__ = spec, spec.origin, spec.parent
        code = spec.loader.get_code(name)  # type: ignore[attr-defined]
    else:
        assert path is not None
        module.__file__ = path
        with open(path, "rb") as file:
            code = pkgutil.read_code(file)
        if code is None:
            with open(path, "rb") as file:
                code = compile(file.read(), path, "exec")
    _OLD_MAIN.append(sys.modules["__main__"])
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    exec(code, vars(module))
    return module


_OLD_MAIN: list[ModuleType] = []  # kept because the globals of a freed module are cleared
