"""What a trial of a search is: networks trained on data in memory, a table of known networks, a user's own module."""
