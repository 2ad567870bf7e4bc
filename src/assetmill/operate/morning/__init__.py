"""The morning report: what a night made, what of it deserves a look, and how it compares with the nights before."""
