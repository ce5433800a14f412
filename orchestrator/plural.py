"""Numbers with their nouns."""

import re

DAY = 24 * 3600.0

LONG = 3 * DAY  # from there on nobody counts hours

_LONGEST_SLUG = 120  # file systems take 255 bytes


def count(number: int, word: str) -> str:
    """Return how many there are of something: ``1 trial``, ``2,000 trials``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def slug(text: str) -> str:
    """Return `text` as a part of a file name."""
    return re.sub(r"[^a-z0-9._=]+", "-", text.lower())[:_LONGEST_SLUG].strip("-.")


def span(seconds: float) -> str:
    """Return a duration as people write it: 0:42, 3:05, 2:10:00, 5.2 days."""
    if seconds >= LONG:
        return f"{seconds / DAY:,.1f} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
