"""What can go wrong with a device, and how it ends: a table that tests inject, and that the documentation shows."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal

Ending = Literal["error", "invalid", "fine"]
"""Exit code 4 in one line; a measurement that is marked invalid; what was wanted, with what the device tells."""

WORDS: dict[Ending, str] = {
    "error": "exit code 4",
    "invalid": "marked invalid",
    "fine": "measured as ever",
}


@dataclass(frozen=True)
class Fault:
    """A fault.

    Args:
        name: as the documentation has it.
        way: that the device is reached by.
        told: a regular expression for the line, or for the reason that a measurement is invalid.
        keeps: whether what was measured until then is kept, marked invalid.
    """

    name: str
    way: Literal["SSH", "adb"]
    ending: Ending
    told: str = ""
    keeps: bool = False


FAULTS = (
    Fault("cut before the first word", "SSH", "error", "connecting: .*connection"),
    Fault("cut while the first program is sent", "SSH", "error", "connecting: .*connection"),
    Fault("cut while files are sent", "SSH", "error", "sending files: .*connection"),
    Fault("cut while the agent starts", "SSH", "error", "starting the agent: .*connection"),
    Fault("cut while it measures", "SSH", "error", "measuring: .*connection", keeps=True),
    Fault("cut before the result", "SSH", "error", "measuring: .*connection", keeps=True),
    Fault("host key changed", "SSH", "error", "its host key is another than the known one.*ssh-keygen -R"),
    Fault("host key not known", "SSH", "error", "its host key is not known; log in once"),
    Fault("wrong key or password", "SSH", "error", "the login is refused; make ssh .* work without a password"),
    Fault("no SSH server", "SSH", "error", "nothing answers at port"),
    Fault("no such host", "SSH", "error", "there is no host of that name"),
    Fault("no ssh here", "SSH", "error", "there is no ssh on this machine; install"),
    Fault("no Python", "SSH", "error", "there is no .*; (install Python|check python)"),
    Fault("Python too old", "SSH", "error", r"is 3\.8\.18; install 3\.11 or newer"),
    Fault("its cache cannot be written", "SSH", "error", "cannot be written .*; name another by cache"),
    Fault("its disk is full", "SSH", "error", "its disk is full .*free some space"),
    Fault(
        "a wheel is missing",
        "SSH",
        "error",
        "(no wheel of|wheels of) .*; fill a wheelhouse by: pip download",
    ),
    Fault(
        "wheels of another processor", "SSH", "error", "(no wheel of|wheels of) .*; fill a wheelhouse by: pip download"
    ),
    Fault("the engine is not in its Python", "SSH", "error", "onnxruntime"),
    Fault("the agent is killed", "SSH", "error", "measuring: ", keeps=True),
    Fault("out of memory", "SSH", "error", "its memory is not enough"),
    Fault("it hangs", "SSH", "error", r"it says nothing for 2 s; check that it is in reach", keeps=True),
    Fault("it answers nonsense", "SSH", "error", "what it sent cannot be used"),
    Fault("its clock jumps", "SSH", "invalid", "the time of day jumped"),
    Fault("it is throttled", "SSH", "invalid", "the machine was throttled"),
    Fault("its sensors cannot be read", "SSH", "fine"),
    Fault("a login that talks", "SSH", "fine"),
    Fault("not allowed", "adb", "error", "allow USB debugging"),
    Fault("offline", "adb", "error", "adb says that it is offline"),
    Fault("no such serial", "adb", "error", "adb knows no device of that serial"),
    Fault("two with one serial", "adb", "error", "adb knows several devices by that serial; unplug all but one"),
    Fault("no adb here", "adb", "error", "there is no adb on this machine; install"),
    Fault("unplugged while files are sent", "adb", "error", "sending files: .*connection was lost"),
    Fault("unplugged while it measures", "adb", "error", "measuring: .*connection was lost", keeps=True),
)

INJECTED = "BOARD_FAULT"
"""The variable that says which fault the Python of a device has; the text of a ``sitecustomize.py`` for it follows."""

SITE = textwrap.dedent(f"""
    import errno, io, os, sys, time

    fault = os.environ.get({INJECTED!r}, "")
    agent = any("runtimes.agent" in word for word in sys.orig_argv)

    if fault == "its disk is full":
        def fsync(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync = fsync

    if fault == "out of memory" and agent:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))

    if fault == "its clock jumps" and agent:
        time_of_day, calls = time.time, [0]
        def jumping():
            calls[0] += 1
            return time_of_day() + 3600 * calls[0]
        time.time = jumping

    if fault == "its sensors cannot be read":
        opened = io.open
        def refusing(file, *arguments, **named):
            if str(file).startswith(("/sys/", "/proc/stat", "/proc/cpuinfo")):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return opened(file, *arguments, **named)
        io.open = refusing

    if fault == "the engine is not in its Python" and agent:
        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "onnxruntime":
                    raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        sys.meta_path.insert(0, Missing())
""")
