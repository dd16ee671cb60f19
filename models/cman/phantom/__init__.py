"""Phantoms: one made-up patient with known truth, as mammograms, dynamic MRI and ultrasound. Nothing here is clinical."""
