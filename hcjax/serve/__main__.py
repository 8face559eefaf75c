"""The door of `python -m hcjax.serve`; all of it is in `app`."""

import sys

from hcjax.app.serving import main

if __name__ == "__main__":
    sys.exit(main(["python -m hcjax.serve", *sys.argv[1:]]))
