"""What the page and the terminal tell of a report, one section each: values, sentences and figures."""
