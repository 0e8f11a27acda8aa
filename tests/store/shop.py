"""Classes that stored values have."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from enum import Enum, Flag, IntEnum, StrEnum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from nowhere import Unknown

T = TypeVar("T")

made: list[str] = []
"""What ran code of its own while it was made."""


class Colour(Enum):
    RED = 1
    GREEN = "green"
    VERT = "green"  # noqa: PIE796  an alias


class Size(IntEnum):
    SMALL = 1


class Word(StrEnum):
    HELLO = auto()


class Right(Flag):
    READ = auto()
    WRITE = auto()


class Point(NamedTuple):
    x: float
    y: float = 0.0


@dataclass(frozen=True)
class Item:
    name: str
    right: Right = Right.READ
    colour: Colour | None = None
    missing: Unknown | None = None


@dataclass(frozen=True, slots=True)
class Slotted:
    a: int
    b: Any = None


@dataclass
class Order:
    items: list[Item]
    total: int = field(init=False, default=0)
    start: InitVar[int] = 0
    kinds: ClassVar[int] = 1

    def __post_init__(self, start: int) -> None:
        made.append("Order")
        self.total = start
        self.seen = True  # no field


@dataclass
class Box(Generic[T]):
    content: T


class Plainly:
    """Nothing says what its fields are."""


class Text(str):
    __slots__ = ()


class Rows(list[Any]):
    pass


class Twice(dict[Any, Any]):
    pass


@dataclass
class Tree:
    children: list[Tree]
    label: str = ""


@dataclass(frozen=True)
class Moody:
    """It has a hash only once."""

    name: str

    def __hash__(self) -> int:
        if "Moody" in made:
            raise RuntimeError("not again")
        made.append("Moody")
        return 1


def sell(order: Order, box: Box[Point], size: Size | None, word: Word) -> list[Slotted]: ...
