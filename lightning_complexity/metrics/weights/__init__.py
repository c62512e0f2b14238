"""What is read off the weights alone."""
