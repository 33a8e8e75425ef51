"""The demo web page: HTTP backend and static page."""
