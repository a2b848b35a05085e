"""Tokens, passwords and rate limits; knows neither HTTP nor a table."""
