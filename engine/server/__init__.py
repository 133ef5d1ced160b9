"""The HTTP endpoint: requests in OpenAI's format to engine requests, engine outputs to responses and streams."""
