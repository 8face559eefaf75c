"""The ground: tables of named functions, jaxprs, files written whole or not at all, text."""
