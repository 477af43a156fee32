"""The attacks that exist, by the name that users write; what a study runs by default is its own list."""

from __future__ import annotations

from regfast.attacks.base import Runnable
from regfast.registry import Registry

ATTACKS: Registry[Runnable] = Registry("attack", Runnable)
