"""One file per family of figures. Each takes plain arrays and returns a matplotlib ``Figure``."""

from regfast.report import need_extra

need_extra()
