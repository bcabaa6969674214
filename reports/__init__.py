"""What came out of a sweep: collected from the tracker, put into tables, figures and one page."""
