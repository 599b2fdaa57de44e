"""`python -m ptq_export` is the command `ptq-export`."""

from ptq_export.cli import main

if __name__ == "__main__":
    main()
