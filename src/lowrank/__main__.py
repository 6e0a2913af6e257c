"""`python -m lowrank`: the command line for launchers that start modules, such as torchrun."""

from lowrank.cli import main

if __name__ == "__main__":
    main(prog_name="lowrank")
