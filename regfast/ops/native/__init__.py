"""The native extension's ops: thin Python over `torch.ops.regfast`. Importing this package loads the extension."""

import importlib

# By name: to import-linter a plain `import regfast._native` is an import of all of regfast.
importlib.import_module("regfast._native")
