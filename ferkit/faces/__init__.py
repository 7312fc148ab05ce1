"""From images to face crops: find, align, cut out."""
