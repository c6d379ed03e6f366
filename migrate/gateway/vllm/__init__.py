"""The vLLM servers behind the gateway: which gets a request, how many at once, and what they answer."""
