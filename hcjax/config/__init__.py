"""Config files and the values in them; only `app` reads them."""
