"""What runs on a device: the courier carries bytes, the worker decides and installs."""
