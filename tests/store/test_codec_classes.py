"""Instances of classes that annotations name, taken apart and made without their own code."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NewType, TypedDict

import pytest

from fast_dag.store.codec import Plain
from fast_dag.store.errors import DecodeError, EncodeError
from tests.patience import LONG
from tests.store import shop
from tests.store.shop import (
    Box,
    Colour,
    Item,
    Moody,
    Order,
    Plainly,
    Point,
    Right,
    Size,
    Slotted,
    Tree,
    Word,
    sell,
)
from tests.store.support import again

Stock = NewType("Stock", Item)


class Shelf(TypedDict):
    slotted: Slotted


ORDER = Order([Item("tea", Right.READ | Right.WRITE, Colour.GREEN)], start=5)
VALUES = [
    ORDER,
    Item("cup", Right(0)),
    Slotted(1, (Slotted(2),)),
    Box(Point(1.5)),
    Box[int](1),
    Size.SMALL,
    Word.HELLO,
    Colour.VERT,
    Right.WRITE,
    {Point(1, 2): {Item("a")}, Colour.RED: [Slotted(1)] * 3},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_instance_is_the_same_when_it_is_read_again(value: Any) -> None:
    shop.made.clear()
    plain = Plain(annotations=[sell])
    copy = again(value, plain)
    assert type(copy) is type(value)
    assert copy == value
    assert repr(copy) == repr(value)
    assert shop.made == []


def test_member_of_an_enum_is_itself() -> None:
    assert again([Colour.GREEN, Size.SMALL], Plain([Colour, Size])) == [Colour.GREEN, Size.SMALL]
    assert again(Colour.GREEN, Plain([Colour])) is Colour.GREEN


def test_attributes_beside_the_fields_are_kept() -> None:
    copy = again(ORDER, Plain([Order, Item, Right, Colour]))
    assert vars(copy) == {"items": ORDER.items, "total": 5, "seen": True}


def test_field_that_is_not_set_is_not_set_again() -> None:
    order = object.__new__(Order)
    order.items = []
    slotted = object.__new__(Slotted)
    object.__setattr__(slotted, "b", None)
    order_copy, slotted_copy = again([order, slotted], Plain([Order, Slotted]))
    assert vars(order_copy) == {"items": []}
    assert not hasattr(slotted_copy, "a")
    assert slotted_copy.b is None


@pytest.mark.parametrize(
    "annotation",
    [
        Order,
        list[Order],
        Order | None,
        dict[str, tuple[Order, ...]],
        Box[Order],
        Literal["x", Colour.RED],
        Stock,
        Shelf,
        [int, Item],
        shop.T,
        sell,
    ],
)
def test_annotations_of_every_form_are_read(annotation: Any) -> None:
    values: dict[str, Any] = {
        "Literal": Colour.RED,
        "Stock": Item("x"),
        "Shelf": Slotted(1),
        "[": Item("x"),
        "~T": 1,
    }
    value = next((values[name] for name in values if name in repr(annotation)), ORDER)
    assert again(value, Plain(annotations=[annotation])) == value


def test_annotations_are_followed_however_far(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("chained")
    monkeypatch.setitem(sys.modules, "chained", module)
    lines = ["from dataclasses import dataclass"]
    for number in range(100):
        lines += ["@dataclass", f"class C{number}:", f"    inner: 'C{number + 1} | None' = None"]
    exec("\n".join([*lines, "@dataclass", "class C100: pass"]), vars(module))
    assert again(module.C100(), Plain(annotations=[module.C0])) == module.C100()


def test_class_that_nothing_names_is_refused_with_the_way_out() -> None:
    with pytest.raises(EncodeError, match=r"allow=\['tests.store.shop:Tree'\]") as caught:
        Plain(allow=[Order, Item, Right]).encode({"a": [Item("tea"), Tree([], "x")]})
    assert (caught.value.place, caught.value.type) == ("['a'][1]", "tests.store.shop.Tree")


def test_places_go_through_fields() -> None:
    tree = Tree([Tree([]), Tree([Tree([], label=object())])])  # type: ignore[arg-type]
    with pytest.raises(EncodeError) as caught:
        Plain([Tree]).encode({"t": tree})
    assert caught.value.place == "['t'].children[1].children[0].label"


def test_places_name_attributes_that_are_no_fields() -> None:
    order = Order([])
    order.seen = print  # type: ignore[assignment]
    with pytest.raises(EncodeError) as caught:
        Plain([Order]).encode([order])
    assert caught.value.place == "[0].seen"


def test_cycle_of_instances_is_refused() -> None:
    tree = Tree([Tree([])])
    tree.children[0].children.append(tree)
    with pytest.raises(EncodeError, match="contains itself") as caught:
        Plain([Tree]).encode([tree])
    assert caught.value.place == "[0].children[0].children[0]"


def test_class_that_says_nothing_of_its_fields_is_refused() -> None:
    with pytest.raises(EncodeError, match="none of the data"):
        Plain([Plainly]).encode(Plainly())


@dataclass
class LoudError(Exception):
    text: str


def test_dataclass_that_derives_from_a_built_in_class_is_refused() -> None:
    with pytest.raises(EncodeError):
        Plain([LoudError]).encode(LoudError("x"))


@dataclass(frozen=True)
class Special(Item):
    pass


def test_subclass_of_a_class_that_is_named_is_refused() -> None:
    with pytest.raises(EncodeError, match="Special"):
        Plain([Item]).encode(Special("x"))


def test_other_class_of_the_same_name_is_refused() -> None:
    other: Any = dataclass(type("Item", (), {"__module__": "tests.store.shop"}))
    with pytest.raises(EncodeError):
        Plain([Item]).encode(other())


def test_what_cannot_be_read_again_is_not_stored() -> None:
    shop.made.clear()
    with pytest.raises(EncodeError, match="not again"):
        Plain([Moody]).encode({Moody("x")})


def test_class_that_has_changed_since_is_told() -> None:
    data = Plain([Slotted]).encode(Slotted(1))
    changed: Any = dataclass(
        type("Slotted", (), {"__annotations__": {"a": int}, "__module__": "tests.store.shop"})
    )
    with pytest.raises(DecodeError, match="has changed") as caught:
        Plain([changed]).decode(data)
    assert caught.value.name == "tests.store.shop:Slotted"


def test_member_that_is_gone_is_told() -> None:
    data = Plain([Colour]).encode(Colour.RED)
    fewer: Any = Enum("Colour", {"BLUE": 3}, module="tests.store.shop")
    with pytest.raises(DecodeError, match="no member 'RED'"):
        Plain([fewer]).decode(data)


def test_bytes_do_not_depend_on_the_order_of_sets() -> None:
    values = [Item(f"{number}") for number in range(20)] + [Point(1, each) for each in range(20)]
    plain = Plain([Item, Point, Right])
    assert plain.encode({*values}) == plain.encode({*values[::-1]})


@pytest.mark.parametrize(
    "allow", [["json_shop:Tea"], ["json_shop"], "json_shop", ["json_shop:Tea", "other"]]
)
def test_texts_in_allow_import_a_module_when_a_value_needs_it(
    allow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from dataclasses import dataclass\n@dataclass\nclass Tea:\n    cups: int\n"
    (tmp_path / "json_shop.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    plain = Plain(allow)
    plain.decode(plain.encode([1]))
    assert "json_shop" not in sys.modules
    import json_shop  # type: ignore[import-not-found]

    data = plain.encode(json_shop.Tea(2))
    del sys.modules["json_shop"]
    with pytest.raises(DecodeError, match="allow="):
        Plain().decode(data)
    assert "json_shop" not in sys.modules
    assert Plain(allow).decode(data).cups == 2
    del sys.modules["json_shop"]


def test_class_of_a_script_has_one_name(tmp_path: Path) -> None:
    script = tmp_path / "flow.py"
    script.write_text(
        "from dataclasses import dataclass\n"
        "from fast_dag.store.codec import Plain\n"
        "@dataclass\nclass Tea:\n    cups: int\n"
        "plain = Plain(['__main__' if __name__ == '__main__' else 'flow:Tea'])\n"
        "if __name__ == '__main__':\n    print(plain.encode(Tea(2)).hex())\n"
    )
    told = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=LONG
    )
    code = f"import flow; print(flow.plain.decode(bytes.fromhex('{told.stdout.strip()}')))"
    read = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
        cwd=tmp_path,
    )
    assert read.stdout == "Tea(cups=2)\n"


def test_allow_is_checked() -> None:
    with pytest.raises(TypeError, match="classes and modules"):
        Plain([1])  # type: ignore[list-item]
