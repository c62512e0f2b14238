"""Stop trials whose end, as predicted from a share of their training, would be no use. Needs Optuna."""
