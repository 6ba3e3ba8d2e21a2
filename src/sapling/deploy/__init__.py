"""Take a trained classifier to where it is used: export, measure, predict.

Import from the modules: ``sapling.deploy.predict`` needs no torch for an ONNX file, ``sapling.deploy.export`` does.
"""
