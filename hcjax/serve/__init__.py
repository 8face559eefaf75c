"""A server of networks: the Open Inference Protocol v2 over HTTP, and a page to try them.

`hcjax.app.serving` is the command. Needs the extra `serve`.
"""
