"""Numbers with their nouns."""


def count(number: int, word: str) -> str:
    """Return how many there are of something: ``1 trial``, ``2,000 trials``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
