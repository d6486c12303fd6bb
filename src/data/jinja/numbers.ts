/**
 * Numbers as Python has them. An `int` is a number of JavaScript as long as that is exact, and a bigint beyond; a `float` is a number that
 * is not whole, or a `Float`, which holds a whole one (20.0), an infinite one or NaN, so that it is told from an `int`.
 */
export class Float {
  readonly value: number;

  constructor(value: number) {
    this.value = value;
  }
}

export type Int = number | bigint;
export type PyNumber = Int | Float;

/** Python prints no longer ones (`sys.set_int_max_str_digits`), and products must not grow without end. */
const largestInt = 10n ** 4300n;

export function float(value: number): PyNumber {
  return Number.isInteger(value) || !Number.isFinite(value) ? new Float(value) : value;
}

/** The shortest form of an exact integer. */
export function int(value: bigint | number): Int {
  if (typeof value === 'number') return Number.isSafeInteger(value) ? value + 0 : int(BigInt(value));
  if (value >= -9007199254740991n && value <= 9007199254740991n) return Number(value);
  if (value >= largestInt || value <= -largestInt) throw new Error('a number grows beyond 4300 digits');
  return value;
}

export function isFloat(value: unknown): value is number | Float {
  return value instanceof Float || (typeof value === 'number' && !Number.isInteger(value));
}

/** The double of a number. */
export function double(value: PyNumber): number {
  return value instanceof Float ? value.value : Number(value);
}

/** a + b, a − b, a · b, a / b, a // b, a % b, a ** b. */
export function arithmetic(operator: string, a: PyNumber, b: PyNumber): PyNumber {
  if (operator === '/') return float(quotient(double(a), double(b)));
  if (isFloat(a) || isFloat(b)) return float(floatArithmetic(operator, double(a), double(b)));
  if (operator === '**') return power(a, b);
  if (operator === '+' || operator === '-' || operator === '*') {
    if (typeof a === 'number' && typeof b === 'number') {
      const fast = operator === '+' ? a + b : operator === '-' ? a - b : a * b;
      if (Number.isSafeInteger(fast)) return fast + 0;
    }
    const [x, y] = [BigInt(a), BigInt(b)];
    return int(operator === '+' ? x + y : operator === '-' ? x - y : x * y);
  }
  const [x, y] = [BigInt(a), BigInt(b)];
  if (y === 0n) throw new Error('integer division or modulo by zero');
  const rest = x % y;
  const turned = rest !== 0n && rest < 0n !== y < 0n;
  if (operator === '%') return int(turned ? rest + y : rest);
  return int(x / y - (turned ? 1n : 0n));
}

function quotient(a: number, b: number): number {
  if (b === 0) throw new Error('division by zero');
  return a / b;
}

function floatArithmetic(operator: string, a: number, b: number): number {
  switch (operator) {
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b;
    case '**': {
      if (a === 0 && b < 0) throw new Error('0.0 cannot be raised to a negative power');
      const result = a ** b;
      if (Number.isNaN(result) && !Number.isNaN(a) && !Number.isNaN(b)) throw new Error('complex numbers are not supported');
      return a === 1 || b === 0 ? 1 : result;
    }
  }
  if (b === 0) throw new Error('float division or modulo by zero');
  let rest = a % b;
  if (rest !== 0 && rest < 0 !== b < 0) rest += b;
  if (operator === '%') return rest === 0 ? (b < 0 ? -0 : 0) : rest;
  const exact = (a - rest) / b;
  const whole = Math.floor(exact);
  return exact - whole > 0.5 ? whole + 1 : whole;
}

function power(a: Int, b: Int): PyNumber {
  if (b < 0) {
    if (Number(a) === 0) throw new Error('0.0 cannot be raised to a negative power');
    return float(Number(a) ** Number(b));
  }
  const [base, exponent] = [BigInt(a), BigInt(b)];
  if (base === 0n || base === 1n || base === -1n) return int(base ** (exponent > 1n ? 2n + (exponent % 2n) : exponent));
  if (exponent > 15000n || Number(exponent) * base.toString().length > 2 * 4300) throw new Error('a number grows beyond 4300 digits');
  return int(base ** exponent);
}

/** `repr` of a number: the shortest digits that give the double back, written with an exponent where Python does. */
export function numberText(value: PyNumber): string {
  if (!isFloat(value)) return value.toString();
  const x = double(value);
  if (Number.isNaN(x)) return 'nan';
  if (!Number.isFinite(x)) return x < 0 ? '-inf' : 'inf';
  const sign = x < 0 || Object.is(x, -0) ? '-' : '';
  const [mantissa, exponentText] = Math.abs(x).toExponential().split('e');
  const digits = mantissa.replace('.', '');
  const exponent = Number(exponentText);
  if (exponent < -4 || exponent >= 16) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : '';
    return `${sign}${digits[0]}${fraction}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`;
  }
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`;
  const whole = digits.padEnd(exponent + 1, '0');
  return `${sign}${whole.slice(0, exponent + 1)}.${whole.slice(exponent + 1) || '0'}`;
}

/** All decimal digits of a finite double ≥ 0: 0.digits × 10^point, exactly. */
function exactDigits(x: number): { digits: string; point: number } {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, x);
  const bits = view.getBigUint64(0);
  const field = Number((bits >> 52n) & 0x7ffn);
  const mantissa = (bits & 0xfffffffffffffn) | (field > 0 ? 1n << 52n : 0n);
  const exponent = Math.max(field, 1) - 1075;
  const digits = (exponent >= 0 ? mantissa << BigInt(exponent) : mantissa * 5n ** BigInt(-exponent)).toString();
  return { digits, point: digits.length + Math.min(exponent, 0) };
}

/** The first `keep` of exact digits, rounded half to even, and whether the rounding carried into a digit before the first. */
function roundDigits(digits: string, keep: number): { digits: string; carried: boolean } {
  if (keep < 0) return { digits: '', carried: false };
  const head = digits.slice(0, keep).padEnd(keep, '0');
  const next = digits[keep] ?? '0';
  const beyond = /[1-9]/.test(digits.slice(keep + 1));
  const odd = keep > 0 && Number(head.at(-1)) % 2 === 1;
  if (next < '5' || (next === '5' && !beyond && !odd)) return { digits: head, carried: false };
  const up = (BigInt(head || '0') + 1n).toString().padStart(keep, '0');
  return { digits: up, carried: up.length > keep };
}

/** A finite double ≥ 0 with so many decimals, as C's `%.*f`; fewer than 0 round before the point. */
export function fixed(x: number, decimals: number): string {
  const { digits, point } = exactDigits(x);
  const padded = point < 0 ? '0'.repeat(-point) + digits : digits;
  const whole = Math.max(point, 0);
  const rounded = roundDigits(padded, whole + decimals);
  const places = whole + (rounded.carried ? 1 : 0);
  const all = rounded.digits.padEnd(places, '0');
  const fraction = decimals > 0 ? `.${all.slice(places)}` : '';
  return (all.slice(0, places).replace(/^0+(?=\d)/, '') || '0') + fraction;
}

/** A finite double ≥ 0 as digits d.ddd with `decimals` of them and a decimal exponent, as C's `%.*e`. */
export function scientific(x: number, decimals: number): { digits: string; exponent: number } {
  if (x === 0) return { digits: '0'.repeat(decimals + 1), exponent: 0 };
  const { digits, point } = exactDigits(x);
  const rounded = roundDigits(digits, decimals + 1);
  return { digits: rounded.digits.slice(0, decimals + 1), exponent: point - 1 + (rounded.carried ? 1 : 0) };
}

/** `round(x, places)` of a float. */
export function roundFloat(x: number, places: number): number {
  if (!Number.isFinite(x) || places > 323) return x;
  if (places < -308) return x < 0 ? -0 : 0;
  return (x < 0 ? -1 : 1) * Number(fixed(Math.abs(x), places));
}

/** Decimal digits of any script as those of ASCII. */
function asciiDigits(text: string): string {
  return text.replace(/(?![0-9])\p{Nd}/gu, (digit) => {
    // The ten digits of a script follow each other, and so may scripts.
    let zero = digit.codePointAt(0) ?? 0;
    while (/\p{Nd}/u.test(String.fromCodePoint(zero - 1))) zero--;
    return String(((digit.codePointAt(0) ?? 0) - zero) % 10);
  });
}

/** `int(text, base)`, or undefined. */
export function parseInteger(text: string, base = 10): Int | undefined {
  const match = /^([+-]?)(0[xX](?=[\da-zA-Z_])|0[oO]|0[bB])?((?:_?[\da-zA-Z])+)$/.exec(asciiDigits(text));
  if (!match) return undefined;
  const [, sign, prefix = '', rest] = match;
  const prefixBase = { x: 16, o: 8, b: 2 }[prefix.slice(1).toLowerCase()];
  const taken = prefixBase !== undefined && (base === 0 || base === prefixBase);
  const digits = (taken ? rest : prefix + rest).replace(taken ? /^_|_/g : /_/g, '').toLowerCase();
  if (!taken && rest.startsWith('_')) return undefined;
  const radix = base === 0 ? (taken ? (prefixBase ?? 10) : 10) : base;
  if (radix < 2 || radix > 36 || digits.length > 4300) return undefined;
  if (base === 0 && !taken && /^0+[1-9]/.test(digits)) return undefined;
  let value = 0n;
  for (const digit of digits) {
    const figure = Number.parseInt(digit, 36);
    if (Number.isNaN(figure) || figure >= radix) return undefined;
    value = value * BigInt(radix) + BigInt(figure);
  }
  return int(sign === '-' ? -value : value);
}

/** `float(text)`, or undefined. */
export function parseFloatText(text: string): number | undefined {
  const trimmed = asciiDigits(text);
  const special = /^([+-]?)(inf|infinity|nan)$/i.exec(trimmed);
  if (special) return special[2].toLowerCase() === 'nan' ? Number.NaN : special[1] === '-' ? -Infinity : Infinity;
  if (!/^[+-]?(\d(_?\d)*\.?(\d(_?\d)*)?|\.\d(_?\d)*)([eE][+-]?\d(_?\d)*)?$/.test(trimmed)) return undefined;
  return Number(trimmed.replaceAll('_', ''));
}
