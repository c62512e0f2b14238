"""What a network does with its inputs: how sure, how sensitive, in how many pieces."""
