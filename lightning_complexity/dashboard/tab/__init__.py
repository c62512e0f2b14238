"""The page as a tab of TensorBoard, over a log directory that grows."""
