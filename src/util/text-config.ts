/** What a config.json says of the model that reads and writes text: in a multimodal one that is a part of its own. */
export function textConfigOf(config: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const { text_config: text } = config;
  return typeof text === 'object' && text !== null ? (text as Readonly<Record<string, unknown>>) : config;
}
