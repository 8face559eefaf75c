"""The door of `python -m hcjax.export`, which is `hcjax export`; all of it is in `app`."""

import sys

from hcjax.app.exporting import main

if __name__ == "__main__":
    sys.exit(main(["python -m hcjax.export", *sys.argv[1:]]))
