"""`python -m regfast`: the command line."""

from regfast.cli import main

if __name__ == "__main__":
    main()
