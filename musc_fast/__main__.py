"""`python -m musc_fast` is the `musc-fast` command."""

from .cli import main

if __name__ == "__main__":
    main()
