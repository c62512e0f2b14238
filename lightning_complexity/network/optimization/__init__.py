"""What a training does: its optimizers, their steps and the places that the weights went through."""
