"""Preparing by transformers and tokenizers, a file of rows for each request on standard input. The only argument is a DataRun as JSON.

Each row is rendered, encoded and masked by apply_chat_template, as trainers call it row by row; the result is what a trainer keeps: ids
and labels.
"""

import json
import resource
import sys
import time

from transformers import PreTrainedTokenizerFast

run = json.loads(sys.argv[1])
tokenizer = PreTrainedTokenizerFast(tokenizer_file=run["tokenizer"] + "/tokenizer.json")
tokenizer.chat_template = run["template"]

for line in sys.stdin:
    start, used = time.perf_counter(), time.process_time()
    tokens = supervised = 0
    examples = []
    with open(run["rows"]) as file:
        for row in file:
            encoded = tokenizer.apply_chat_template(
                json.loads(row)["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            ids, mask = encoded["input_ids"], encoded["assistant_masks"]
            labels = [i if m else -100 for i, m in zip(ids, mask)]
            examples.append((ids, labels))
            tokens += len(ids)
            supervised += sum(mask)
    print(
        json.dumps(
            {
                "tokens": tokens,
                "supervised": supervised,
                "cpu_seconds": time.process_time() - used,
                "seconds": time.perf_counter() - start,
                "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            }
        ),
        flush=True,
    )
