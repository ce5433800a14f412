"""How attacks look: the same attack the same in every figure of every report."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from zlib import crc32

from orchestrator.reporting.canvas import MARKS
from orchestrator.reporting.naming import distinct

# Okabe and Ito's colours that show on white and on black; with the marks they make 42 pairs.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
DASHES = ("", "6 3", "2 2.5", "8 3 2 3", "1 3", "10 4", "4 2 1 2")  # of attacks of one colour
KNOWN = (  # never to be reordered: the place is the look; other names have places after these
    *("badnets", "blended", "sig", "lc", "lf", "ssba", "trojannn", "input_aware", "wanet"),
    *("bpp", "lira", "blind", "refool", "ctrl", "ftrojan", "adaptive_blend", "adaptive_patch"),
    *("tact", "poison_ink"),
)
_PLACES = len(COLOURS) * len(MARKS)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How an attack looks."""

    colour: str
    mark: str
    dash: str

    def line(self) -> dict[str, str]:
        """Return how its line is drawn."""
        return {"stroke": self.colour, **({"stroke_dasharray": self.dash} if self.dash else {})}


Styles = Mapping[str, Style]  # by the attack's name


def attack_styles(attacks: Iterable[str]) -> Styles:
    """Return each attack's style, which its name alone decides.

    Variants of an attack, told apart by options in brackets, share its colour. Only where two
    variants, or two attacks that are not of this project, would look the same does one of
    them look otherwise than elsewhere.
    """
    shown = distinct(attacks)
    places: dict[str, int] = {}
    for attack in sorted(shown, key=lambda name: (name not in KNOWN, name)):
        candidates = list(_candidates(attack))
        free = (place for place in candidates if place not in places.values())
        places[attack] = next(free, candidates[0])
    return {attack: _style(places[attack]) for attack in shown}


def _style(place: int) -> Style:
    return Style(
        colour=COLOURS[place % len(COLOURS)],
        mark=MARKS[place % len(MARKS)],
        dash=DASHES[place // len(COLOURS)],
    )


def _candidates(attack: str) -> Iterator[int]:
    """Yield the places an attack may have, the best first."""
    name = attack.partition("(")[0]
    others = range(len(KNOWN), _PLACES)
    own = KNOWN.index(name) if name in KNOWN else others[crc32(name.encode()) % len(others)]
    if attack == name:
        return chain([own], _from(own, others), range(len(KNOWN)))
    colour = [place for place in others if (place - own) % len(COLOURS) == 0]
    first = colour[crc32(attack.encode()) % len(colour)]
    return chain(_from(first, colour), _from(own, others), range(len(KNOWN)))


def _from(first: int, places: Iterable[int]) -> Iterator[int]:
    """Yield places in a ring that begins at the first one."""
    ordered = list(places)
    return chain((p for p in ordered if p >= first), (p for p in ordered if p < first))
