"""The C++ library's sources (docs/serving/cpp.md), and the way to compile them against an installed ONNX Runtime."""
