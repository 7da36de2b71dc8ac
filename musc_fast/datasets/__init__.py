"""Image folders, benchmark layouts and the sample: where images, labels and masks come from."""
