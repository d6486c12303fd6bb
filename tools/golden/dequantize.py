"""The numbers of a GGUF file in F32, with the same metadata: dequantize.py FILE OUT

llama.cpp rounds what it multiplies by quantised weights to 8 bits. Over this file it computes in f32, with the same weights.
"""
import sys

import gguf
import numpy as np

source, out = sys.argv[1:]
reader = gguf.GGUFReader(source)
writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
for key, field in reader.fields.items():
    if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type", "general.quantization_version"):
        continue
    kind = field.types[0]
    more = {"sub_type": field.types[-1]} if kind == gguf.GGUFValueType.ARRAY else {}
    writer.add_key_value(key, field.contents(), kind, **more)
for tensor in reader.tensors:
    writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
