"""Each op once: its contract, and which backend serves it.

`regfast.ops.<family>` holds the contract: signature, docstring, and the call of the backend that `dispatch` chooses.
Backends define functions of the same name and signature in modules of the same name. Ops take raw tensors and trust
their callers with shapes; `regfast.functional` is where users' arguments are unpacked and checked.
"""
