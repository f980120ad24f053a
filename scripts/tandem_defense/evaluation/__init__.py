"""From prediction rows to tables, figures and their uncertainty."""
