"""What is shown of labels: a report, one HTML file that needs nothing else, and figures."""
