"""Matrix products: netc's own kernels, the choice between them and the library's, and InnerProduct."""
