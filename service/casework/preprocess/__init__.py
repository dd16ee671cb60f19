"""Pixels to tensors and the way back; shared by training and serving."""
