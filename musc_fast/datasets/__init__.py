"""Where images, labels and masks come from: image folders, benchmark layouts, a drawn sample."""
