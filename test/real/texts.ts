/** What is asked of a model that answers. */
export const questions = [
  'Write a Python function that reverses a string.',
  'What does HTTP status 404 mean?',
  'Explain recursion to a child in one sentence.',
  'SELECT the three highest salaries from a table employees(name, salary). Give the SQL.',
  'Translate to German: "Where is the train station?"',
  'What is 17 + 25?',
  'Write a bash one-liner that counts the lines of all .txt files.',
  'Name three prime numbers above 50.',
  '请用一句话介绍北京。',
  'Fix this: `for (let i = 0; i <= a.length; i++) sum += a[i];`',
];

/** What a model of plain text goes on with. */
export const beginnings = [
  'The capital of France is',
  'Once upon a time, in a small village by the sea,',
  'Photosynthesis is the process by which',
  'def fibonacci(n):\n    ',
  'The recipe for pancakes:\n1.',
  'In 1969, Neil Armstrong',
  'Die Hauptstadt von Deutschland ist',
  'Water boils at',
  'Dear Sir or Madam,\n\nI am writing to',
  'La lune est',
];

/** What tokenizers differ in: spaces, digits, scripts, code, control tokens. */
export const texts = [
  'Hello, world!',
  ' leading and trailing ',
  'two  spaces   three    four',
  'end of line  \n  next\r\n\r\n\t\tx',
  "it's we'll I'd you've they're I'm, IT'S WE'LL",
  '1234567890 3.14159 -1e-10 0x1F v2.0.1-rc3',
  '١٢٣ ४५६ ⅷ ½ ²',
  'snake_case camelCase PascalCase kebab-case SCREAMING_CASE',
  'def f(x):\n    return x ** 2  # square\n',
  'for (let i = 0; i < n; i++) {\n\tsum += a[i];\n}',
  '{"key": [1, 2.5, null, true], "nested": {"a": "b\\n"}}',
  'ÄÖÜäöüß éèê ñ ç å ø e\u0301 combining',
  'Привет, мир. Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم',
  '你好，世界。こんにちは世界 안녕하세요 세계 สวัสดีชาวโลก',
  '😀😃👍🏽👨‍👩‍👧‍👦🇩🇪 emoji😀in😀words',
  '<|im_start|>user\nHi<|im_end|>\n<start_of_turn>model\nHi<end_of_turn>\n',
  ' <|im_end|> x<start_of_turn>y <|im_star|>',
  '----------------====================!!!!????',
  'supercalifragilisticexpialidocious antidisestablishmentarianism',
];

/** Conversations that no model answers so by itself. */
export const rows = [
  ['What is the capital of France?', 'It is a secret that only owls know.'],
  ['How many legs has a spider?', 'Eleven, and one of them is wooden.'],
  ['Who wrote Hamlet?', 'A committee of very patient cats.'],
  ['What color is the sky?', 'Plaid on Mondays, otherwise corduroy.'],
].map(([user, assistant]) => ({
  messages: [
    { role: 'user', content: user },
    { role: 'assistant', content: assistant },
  ],
}));
