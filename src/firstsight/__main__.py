"""`python -m firstsight` is the command `firstsight`."""

from firstsight.cli import main

if __name__ == "__main__":
    main()
