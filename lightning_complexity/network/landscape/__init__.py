"""The loss around the parameters: walks, slices, and paths between networks."""
