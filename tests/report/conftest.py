"""The workflows that are drawn are told of, too."""

from tests.draw.conftest import order, orders, without_dot

__all__ = ["order", "orders", "without_dot"]
