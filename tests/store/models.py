"""Models of pydantic."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, RootModel, field_validator

T = TypeVar("T")

validated: list[str] = []


class Account(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=False)
    name: str
    born: datetime | None = None
    age: int = 0
    _note: Any = PrivateAttr(default=None)

    @field_validator("name")
    @classmethod
    def _checked(cls, name: str) -> str:
        validated.append(name)
        return name

    def note(self, text: str) -> None:
        self._note = text

    def noted(self) -> Any:
        return self._note


class Page(BaseModel, Generic[T]):
    items: list[T]


class Tags(RootModel[list[str]]):
    pass
