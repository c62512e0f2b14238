"""Studies: many networks, trained to a stated criterion, and what measures of complexity say about them."""
