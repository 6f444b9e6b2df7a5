"""The Python SDK: a synchronous client and an asynchronous one."""
