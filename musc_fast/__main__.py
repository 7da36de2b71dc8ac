"""`python -m musc_fast` is the `musc-fast` command."""

from .cli.app import main

if __name__ == "__main__":
    main()
