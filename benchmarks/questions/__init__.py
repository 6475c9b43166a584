"""One module for each question; each has ``run(lab, sizes)``, which returns the rows of its part of the table."""
