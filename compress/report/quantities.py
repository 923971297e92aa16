"""Numbers as a person reads them: three significant digits, the unit always there, a dash for what is not known."""

from __future__ import annotations

import math

from ..tasks.record import ScoreRecord

UNKNOWN = "–"
_SPACE = "\u00a0"


def significant(value: float | None, digits: int = 3) -> str:
    """``value`` to so many significant digits, never in exponent form unless it is far from one.

    >>> [significant(v) for v in (0.18249, 1.4921, 161.4, 1234.5, 0.0, None)]
    ['0.182', '1.49', '161', '1,234', '0', '–']
    >>> significant(3.2e-7), significant(float("inf"))
    ('3.2e-07', '∞')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude < 1e-4 or magnitude >= 1e9:
        return f"{value:.{digits - 2}e}"
    rounded = round(value, digits - 1 - math.floor(math.log10(magnitude)))
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded if decimals else value:,.{decimals}f}"


def _scaled(value: float | None, units: tuple[str, ...], step: float = 1000.0) -> str:
    if value is None or not math.isfinite(value):
        return UNKNOWN
    index = 0
    while index < len(units) - 1 and abs(value) >= 0.9995 * step:
        value, index = value / step, index + 1
    text = f"{value:,.0f}" if index == 0 else significant(value)
    return f"{text}{_SPACE}{units[index]}".strip(_SPACE)


def count(value: float | None) -> str:
    """A number of parameters or multiply-adds.

    >>> [count(v) for v in (0, 990, 271117, 161_400_000, 999_960, None)]
    ['0', '990', '271\\xa0k', '161\\xa0M', '1.00\\xa0M', '–']
    """
    return _scaled(value, ("", "k", "M", "G", "T"))


def size(value: float | None) -> str:
    """A number of bytes in decimal units (1 kB is 1000 bytes).

    >>> [size(v) for v in (512, 136_000, 4_390_000)]
    ['512\\xa0B', '136\\xa0kB', '4.39\\xa0MB']
    """
    return _scaled(value, ("B", "kB", "MB", "GB"))


def milliseconds(value: float | None) -> str:
    """A latency given in milliseconds.

    >>> [milliseconds(v) for v in (0.1824, 0.0083, 15.52, 2310.0)]
    ['0.182\\xa0ms', '8.30\\xa0µs', '15.5\\xa0ms', '2.31\\xa0s']
    """
    return _thousandths(value, "s")


def millijoules(value: float | None) -> str:
    """An energy given in millijoules.

    >>> [millijoules(v) for v in (0.0042, 3.14, 2500.0, None)]
    ['4.20\\xa0µJ', '3.14\\xa0mJ', '2.50\\xa0J', '–']
    """
    return _thousandths(value, "J")


def _thousandths(value: float | None, unit: str) -> str:
    """A quantity given in thousandths of a unit, told in these, in thousands of them, or in thousandths of them."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= 1000:
        return f"{significant(value / 1000)}{_SPACE}{unit}"
    if 0 < abs(value) < 0.1:
        return f"{significant(value * 1000)}{_SPACE}µ{unit}"
    return f"{significant(value)}{_SPACE}m{unit}"


def seconds(value: float | None) -> str:
    """A duration given in seconds.

    >>> [seconds(v) for v in (0.25, 42.0, 95.0, 3725.0)]
    ['0.25\\xa0s', '42\\xa0s', '1\\xa0min 35\\xa0s', '1\\xa0h 2\\xa0min']
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 10:
        return f"{significant(value, 2)}{_SPACE}s"
    if value < 59.5:
        return f"{value:.0f}{_SPACE}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
    return f"{minutes // 60}{_SPACE}h {minutes % 60}{_SPACE}min"


def ratio(value: float | None) -> str:
    """A factor.

    >>> [ratio(v) for v in (8.13, 11.94, 0.834, 1.0, 143.0, None)]
    ['8.1×', '11.9×', '0.83×', '1.0×', '143×', '–']
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:.{2 if value < 0.995 else 1 if value < 99.95 else 0}f}×"


def percent(value: float | None, decimals: int = 2) -> str:
    """A percentage given in percent.

    >>> percent(99.444), percent(61.2, 0), percent(0.02, 0), percent(None)
    ('99.44\\xa0%', '61\\xa0%', '<1\\xa0%', '–')
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if decimals == 0 and 0 < value < 0.5:
        return f"<1{_SPACE}%"
    return f"{value:.{decimals}f}{_SPACE}%"


def score(record: ScoreRecord | None) -> str:
    """A score with its unit.

    >>> score(ScoreRecord(name="top-1", value=95.1, unit=" %")), score(None)
    ('95.10\\xa0%', '–')
    """
    return UNKNOWN if record is None else str(record).replace(" ", _SPACE)


def points(value: float | None) -> str:
    """A difference of percentages, without its sign.

    >>> points(0.28), points(-1.0), points(0.001), points(None)
    ('0.28\\xa0points', '1.00\\xa0points', '0.00\\xa0points', '–')
    """
    return UNKNOWN if value is None or not math.isfinite(value) else f"{abs(value):.2f}{_SPACE}points"


def plural(number: int, singular: str, several: str | None = None) -> str:
    """A count with its noun.

    >>> plural(1, "layer"), plural(1200, "layer"), plural(2, "match", "matches")
    ('1\\xa0layer', '1,200\\xa0layers', '2\\xa0matches')
    """
    return f"{number:,}{_SPACE}{singular if number == 1 else several or singular + 's'}"


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a proportion measured on ``samples`` (Wilson, 1927, "Probable inference").

    >>> low, high = wilson_interval(0.5, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    z = 1.959963984540054
    centre = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return max(0.0, centre - half), min(1.0, centre + half)
