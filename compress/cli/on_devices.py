"""What commands do on every device of ``--on``, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..siblings import runtimes
    from ..stage import Progress
    from .session import Options


@dataclass
class OnDevices:
    """What was done on devices.

    Args:
        facts: of each device that answered, with the bytes that were sent to it.
        failures: of the others.
        ended: what kept the rest from their turn: an interrupt, or an error that is no device's own.
    """

    facts: list[dict[str, Any]] = field(default_factory=list)
    failures: list[runtimes.errors.DeviceError] = field(default_factory=list)
    ended: BaseException | None = None

    @property
    def whole(self) -> bool:
        """Whether all was done on all devices."""
        return not self.failures and self.ended is None

    def require_all(self) -> None:
        """Raise what ended it before its time; else what the first device failed with, and how many did."""
        if self.ended is not None:
            raise self.ended
        if self.failures:
            first, *others = self.failures
            raise type(first)(f"{first}{f' (and {len(others)} other devices fail)' if others else ''}") from first


@contextmanager
def _opened(call: Options, progress: Progress) -> Iterator[Sequence[runtimes.devices.device.Device]]:
    """The devices; this machine alone is there without torch."""
    if not call.on:
        from ..siblings import runtimes

        yield [runtimes.devices.local.LocalDevice()]
        return
    from .. import deploy

    with deploy.opened(call.on, call.devices_file, progress) as devices:
        yield devices


def on_devices(
    call: Options,
    progress: Progress,
    work: Callable[[runtimes.devices.device.Device], None],
    require: Callable[[runtimes.devices.device.Device], None] | None = None,
) -> OnDevices:
    """Do ``work`` on each device; where one fails, the others still have their turn.

    What else breaks it off is raised by :meth:`OnDevices.require_all`: what was done until then can be told first.

    Args:
        require: raises DeviceError where a device is known to be unfit; then there is no work on any.
    """
    from ..siblings import runtimes

    done = OnDevices()
    with _opened(call, progress) as devices:
        if require is not None:
            for device in devices:
                require(device)
        for device in devices:
            try:
                work(device)
                done.facts.append(runtimes.devices.device.facts_of(device))
            except runtimes.errors.DeviceError as error:
                done.failures.append(error)
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised again when the rest is told
                done.ended = error
                break
            finally:
                device.close()
    for facts in done.facts:
        if "sent_bytes" in facts:
            call.console.print(f"{facts['name']}: {facts['sent_bytes']:,} bytes of files sent")
    return done
