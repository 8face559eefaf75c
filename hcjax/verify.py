"""The door of `python -m hcjax.verify`; all of it is in `app`."""

import sys

from hcjax.app.verify import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
