"""One file per kind of data that a person may have; each turns it into a Source."""
