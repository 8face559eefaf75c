"""The door of `python -m hcjax.compare`; all of it is in `app`."""

import sys

from hcjax.app.compare import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
