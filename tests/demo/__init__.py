"""`make demo`: one patient's three studies through a PACS and the whole service, and the results back."""
