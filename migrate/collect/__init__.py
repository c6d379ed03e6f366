"""Collectors: run on the host, write raw records, judge nothing.

A leaf: asyncio and aiohttp, nothing else of `migrate`.
"""
