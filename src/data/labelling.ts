import { LowrankError } from '../util/errors.js';
import type { JsonValue } from '../util/json.js';
import { type Encoding, encodeText } from './align.js';
import { type Draft, draftConversation, type Labelled, refuseDoubleBos } from './chat.js';
import type { ChatTemplate } from './chat-template.js';
import type { Checks } from './checks.js';
import type { DatasetOptions, Sample } from './formats/index.js';
import type { Tokenizer } from './tokenizer.js';
import { readableToolCalls } from './tool-calls.js';

/** The tokens of a sample and their labels, as they are trained. */
export function label(sample: Sample, tokenizer: Tokenizer, template: ChatTemplate | undefined, dataset: DatasetOptions): Labelled {
  const draft = draftSample(sample, tokenizer, template, { dataset });
  return draft.label(encodeText(tokenizer, draft.text));
}

/** What is to be encoded of a sample, and how it is labelled then; `checks` looks at what is lost on the way. */
export function draftSample(
  sample: Sample,
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  { dataset = {}, name = sample.place }: { dataset?: DatasetOptions; name?: string },
  checks?: Checks,
): Draft {
  switch (sample.kind) {
    case 'conversation': {
      if (!template)
        throw new LowrankError('the base model has no chat template, and the data set holds conversations', {
          place: name,
          mend: 'name one in the recipe, as chat_template: chatml, or take an instruction-tuned base model',
        });
      const readable = { ...sample, messages: readableToolCalls(template, sample.messages, sample.tools) };
      const { text, rendering, label } = draftConversation(tokenizer, template, readable, dataset);
      const checked = (encoding: Encoding): Labelled => {
        const labelled = label(encoding);
        checks?.conversation(template, readable, rendering, dataset);
        checks?.tokens(tokenizer, text, encoding.ids, sample.place);
        return labelled;
      };
      return { text, label: checked };
    }
    case 'text': {
      const { text, label } = draftText(sample, tokenizer, dataset);
      const checked = (encoding: Encoding): Labelled => {
        checks?.tokens(tokenizer, text, encoding.ids, sample.place);
        return label(encoding);
      };
      return { text, label: checked };
    }
    case 'tokens':
      return { text: '', label: () => labelTokens(sample, tokenizer) };
  }
}

/** A prompt that is not learnt and a completion that is, with the tokenizer's bos before them and the end-of-text token after. */
function draftText({ prompt, completion, place }: Sample & { kind: 'text' }, tokenizer: Tokenizer, options: DatasetOptions): Draft {
  const { eosTokenId: eos, prefixIds } = tokenizer;
  if (eos === undefined)
    throw new LowrankError('the tokenizer has no eos_token, so the model would not learn to stop', {
      place,
      mend: 'use a base model whose tokenizer_config.json names one, or data with messages',
    });
  const text = prompt + completion;
  const label = (encoding: Encoding): Labelled => {
    const inputIds = [...prefixIds, ...encoding.ids, eos];
    refuseDoubleBos(tokenizer, inputIds, place);
    const labels = [...inputIds];
    if (prompt !== '' && !options.train_on_inputs) {
      const [[first]] = encoding.ranges([[prompt.length, text.length]]);
      labels.fill(-100, 0, prefixIds.length + first);
    }
    // Nothing precedes the first token, so nothing predicts it.
    labels[0] = -100;
    if (options.train_on_eos === 'none') labels[labels.length - 1] = -100;
    return { inputIds, labels };
  };
  return { text, label };
}

/** Token ids and labels made elsewhere: checked, and refused where a supervised run stops just before its end-of-text token. */
function labelTokens({ inputIds, labels, place }: Sample & { kind: 'tokens' }, tokenizer: Tokenizer): Labelled {
  if (inputIds.length !== labels.length || inputIds.length === 0) {
    throw new LowrankError(`input_ids has ${inputIds.length} entries and labels ${labels.length}`, {
      place,
      expected: 'equal lengths, at least 1',
      mend: 'correct the row',
    });
  }
  const isId = (id: JsonValue): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < tokenizer.vocabSize;
  inputIds.forEach((id, t) => {
    const expected = `a whole number from 0 to ${tokenizer.vocabSize - 1}`;
    if (!isId(id)) throw new LowrankError(`input_ids[${t}] is ${JSON.stringify(id)}`, { place, expected, mend: 'correct the row' });
    if (labels[t] !== -100 && labels[t] !== id) {
      const mend = 'write the label of a token at the token’s own position; the loss shifts them';
      throw new LowrankError(`labels[${t}] is ${JSON.stringify(labels[t])} and input_ids[${t}] is ${id}`, {
        place,
        expected: 'the same, or −100',
        mend,
      });
    }
    if (t > 0 && id === tokenizer.eosTokenId && labels[t] === -100 && labels[t - 1] !== -100) {
      throw new LowrankError(`the eos token at position ${t} is masked, so the model would not learn to stop`, {
        place,
        mend: 'set its label',
      });
    }
  });
  return { inputIds: inputIds as number[], labels: labels as number[] };
}
