"""Tables, figures and pages, one module per kind; they only read what experiments computed."""
