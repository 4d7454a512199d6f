"""One compiled module for each vPMU design: a table of reactions that the machine calls."""
