"""From pictures to face crops: find, align, cut out."""
