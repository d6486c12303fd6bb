import { LowrankError } from '../util/errors.js';
import { textConfigOf } from '../util/text-config.js';
import type { Family } from './family.js';

/** The paths of the text part from transformers 4.52 on, which are PEFT's names, too. */
const paths = {
  embedding: 'model.language_model.embed_tokens',
  layers: 'model.language_model.layers',
  norm: 'model.language_model.norm',
  head: 'lm_head',
};

/** What is particular to a multimodal model around its text part. */
type Facts = Pick<Family, 'modelType' | 'models' | 'architecture' | 'otherParts' | 'prefixes' | 'storedHead' | 'shapes'>;

/**
 * A multimodal model, of which the text part is loaded and trained: as one of the families `texts`, by the `model_type` of text_config,
 * or the first where config.json has none. What sees or hears is left as it is.
 */
export function textPartOf(texts: Readonly<Record<string, Family>>, { otherParts, ...facts }: Facts): Family {
  const [[usual, { defaultTargets }]] = Object.entries(texts);
  return {
    ...facts,
    paths,
    otherParts,
    defaultTargets,
    build(config, build, backend, dtype) {
      const text = textConfigOf(config);
      const type = text === config ? usual : (text.model_type ?? usual);
      const family = typeof type === 'string' && Object.hasOwn(texts, type) ? texts[type] : undefined;
      if (!family) {
        throw new LowrankError(`the text part's model_type ${JSON.stringify(type)} is not supported`, {
          place: `${build.name}: config.json: text_config`,
          expected: Object.keys(texts).join(', '),
          mend: 'choose a model with one of these',
        });
      }
      const tie_word_embeddings = config.tie_word_embeddings ?? text.tie_word_embeddings;
      const whole = { config: { architectures: [facts.architecture], ...config }, paths, defaultTargets, otherParts };
      return family.build({ ...text, tie_word_embeddings }, build, backend, dtype, whole);
    },
  };
}

/** What LLaVA and those after it have besides: files of before 4.52 called the text part `language_model`, with its head in it. */
export const likeLlava = {
  otherParts: ['model.vision_tower', 'model.multi_modal_projector'],
  prefixes: ['language_model.model.', 'language_model.'],
  storedHead: 'language_model.lm_head',
} as const;

/** What Qwen's have besides; files of before 4.52 have the text part where a language model alone would be. */
export const likeQwenVl = { otherParts: ['model.visual'], prefixes: ['model.'] } as const;
