"""One inference, free of protocols: what a request is, which model it is for, whether it is right, who answers it."""
