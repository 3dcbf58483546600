"""Write the pickles of this folder: run with each Python and NumPy in turn (2.7 with 1.16.6, 3.6 with 1.13.3, …).

The same small dictionary, as batches of CIFAR and ImageNet have it, in every protocol (-p); by Python 2 also with cPickle (-c).
"""

import pickle
import sys
from os.path import dirname, join

import numpy as np

pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
batch = {
    "data": pixels,
    "labels": [3, 7],
    "fine": np.array([3, 300]),
    "mean": np.array([0.5, 2.0]),
    "fortran": np.asfortranarray(pixels),
    "filenames": ["a.png", "b.png"],
}
writers = {"p": pickle}
if sys.version_info[0] == 2:
    import cPickle

    writers["c"] = cPickle
for letter, writer in writers.items():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        name = "py%d.%d-np%s-%s%d.pkl" % (sys.version_info[0], sys.version_info[1], np.__version__, letter, protocol)
        with open(join(dirname(__file__), name), "wb") as f:
            f.write(writer.dumps(batch, protocol))
