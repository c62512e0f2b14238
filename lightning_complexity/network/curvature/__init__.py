"""Curvature of the loss: the Hessian, the Gauss-Newton matrix and the Fisher matrix."""
