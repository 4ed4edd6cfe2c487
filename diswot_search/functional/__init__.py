"""Pure functions of tensors that proxies and distillers share."""
