"""What tests share and is no test: how much they try."""
