"""The door of `python -m hcjax`, which is the command `hcjax`; all of it is in `app`."""

import sys

from hcjax.app.commands import main

if __name__ == "__main__":
    sys.exit(main(["python -m hcjax", *sys.argv[1:]]))
