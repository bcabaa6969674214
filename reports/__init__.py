"""Reports on sweeps: tables, figures and one page, from tracked runs."""
