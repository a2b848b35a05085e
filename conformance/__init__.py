"""Checks an API in the style of the Flask Mega-Tutorial: `python -m conformance URL`."""
