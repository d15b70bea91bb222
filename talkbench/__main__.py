"""`python -m talkbench` is the `talkbench` command."""

from talkbench.cli.app import main

if __name__ == "__main__":
    main()
