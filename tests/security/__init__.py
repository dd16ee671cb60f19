"""What would hurt a hospital: leaks, hostile files, wrong pixels; and the papers that say how each is kept out."""
