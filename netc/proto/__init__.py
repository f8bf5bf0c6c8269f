"""The protobuf messages, generated from `proto/netc.proto` when the package is built."""
