"""Runs as pictures, numbers and words: a page to look at, and a report for programs."""
