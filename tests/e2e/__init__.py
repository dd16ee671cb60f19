"""The whole service as its users meet it: processes, sockets, a PACS."""
