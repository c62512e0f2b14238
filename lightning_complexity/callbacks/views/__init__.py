"""What a run shows beside its curves: charts, distributions, pictures, hyper-parameters and a summary in words."""
