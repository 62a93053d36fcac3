"""Rows of the table of reliability, by what they are about."""
