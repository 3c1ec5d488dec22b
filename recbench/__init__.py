"""recbench: train, evaluate and compare device-cloud recommenders under one stated protocol."""

__version__ = "0.1.0"
