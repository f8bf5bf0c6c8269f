"""`import netc.as_caffe` makes netc be `caffe` in this process: one line lets a Caffe user's program run.

    import netc.as_caffe
    import caffe
    from caffe import layers as L, params as P
    from caffe.proto import caffe_pb2

`caffe` is the module `netc` itself, and so are its submodules. Raises NetcError where another caffe has been
imported before.
"""

from netc.aliases import be_caffe

be_caffe()
