"""The /v1 side for new clients: passed through, with keys and limits, and the pages that show it."""
