"""The loss around the parameters, and away from them."""
