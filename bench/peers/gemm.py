"""Matrix products of PyTorch: each request {form, m, k, n, dtype, repeat} is answered with the seconds of one product."""
import json
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
forms = {
    "NT": (lambda m, k, n: ((m, k), (n, k)), torch.nn.functional.linear),
    "NN": (lambda m, k, n: ((m, k), (k, n)), lambda a, b: a @ b),
    "TN": (lambda m, k, n: ((k, m), (k, n)), lambda a, b: a.t() @ b),
}
for line in sys.stdin:
    request = json.loads(line)
    shapes, product = forms[request["form"]]
    dtype = torch.bfloat16 if request["dtype"] == "bf16" else torch.float32
    a, b = (torch.full(shape, 0.01, dtype=dtype) for shape in shapes(request["m"], request["k"], request["n"]))
    with torch.no_grad():
        product(a, b)
        start = time.perf_counter()
        for _ in range(request["repeat"]):
            product(a, b)
        seconds = (time.perf_counter() - start) / request["repeat"]
    print(json.dumps({"seconds": seconds}), flush=True)
