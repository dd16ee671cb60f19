"""Analysis: decoding, children, choice of images, and a case from claim to results."""
