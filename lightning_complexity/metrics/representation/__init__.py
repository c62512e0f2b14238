"""What a network makes of its inputs on the way: features, units, attention."""
