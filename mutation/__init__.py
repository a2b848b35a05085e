"""Mutation testing: small changes to the code that decides over passwords and tokens.

Each change is made in a copy of the project, and tests run there. A change that they do not
notice shows what no test claims. See docs/mutation.md.
"""
