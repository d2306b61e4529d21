"""``python -m ssmnet``: the command line."""

from .entry import ssmnet

if __name__ == "__main__":
    ssmnet()
