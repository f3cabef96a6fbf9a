"""The torch side: checkpoint to reference modules to ONNX bundle."""
