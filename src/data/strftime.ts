const days = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const months = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'];

/** Directives that stand for several others. */
const compound: Record<string, string> = {
  c: '%a %b %e %H:%M:%S %Y',
  D: '%m/%d/%y',
  F: '%Y-%m-%d',
  h: '%b',
  n: '\n',
  r: '%I:%M:%S %p',
  R: '%H:%M',
  t: '\t',
  T: '%H:%M:%S',
  x: '%m/%d/%y',
  X: '%H:%M:%S',
};

/**
 * Python's `strftime` on Linux, in the C locale and local time without a zone; `-`, `_` and `0` after the percent sign say how a number is
 * padded. What is no directive stays as it is.
 */
export function strftime(date: Date, format: string): string {
  return format.replace(/%([-_0])?([a-zA-Z%])/g, (whole, flag: string | undefined, name: string) => {
    if (name in compound) return strftime(date, compound[name]);
    const value = textOf(date, name) ?? numberOf(date, name);
    if (value === undefined) return whole;
    if (typeof value === 'string') return value;
    const [number, width, fill] = value;
    return flag === '-' ? String(number) : String(number).padStart(width, flag === '_' ? ' ' : flag === '0' ? '0' : fill);
  });
}

function textOf(date: Date, name: string): string | undefined {
  switch (name) {
    case 'a':
      return days[date.getDay()].slice(0, 3);
    case 'A':
      return days[date.getDay()];
    case 'b':
      return months[date.getMonth()].slice(0, 3);
    case 'B':
      return months[date.getMonth()];
    case 'p':
      return date.getHours() < 12 ? 'AM' : 'PM';
    case 'P':
      return date.getHours() < 12 ? 'am' : 'pm';
    case 'f':
      return String(date.getMilliseconds() * 1000).padStart(6, '0');
    case 'z':
    case 'Z':
      return '';
    case '%':
      return '%';
  }
  return undefined;
}

/** A number with its width and what fills it. */
function numberOf(date: Date, name: string): readonly [number: number, width: number, fill: string] | undefined {
  const [year, weekday, hours] = [date.getFullYear(), date.getDay(), date.getHours()];
  const midnight = (month: number, day: number, ofYear = year) => Date.UTC(ofYear, month, day) / 86_400_000;
  const dayOfYear = midnight(date.getMonth(), date.getDate()) - midnight(0, 0);
  const twelve = hours % 12 || 12;
  /** The Thursday of the week says to which year an ISO week belongs. */
  const thursday = new Date((midnight(date.getMonth(), date.getDate()) + 3 - ((weekday + 6) % 7)) * 86_400_000);
  const isoYear = thursday.getUTCFullYear();
  const numbers: Record<string, readonly [number, number, string]> = {
    C: [Math.floor(year / 100), 2, '0'],
    d: [date.getDate(), 2, '0'],
    e: [date.getDate(), 2, ' '],
    g: [isoYear % 100, 2, '0'],
    G: [isoYear, 4, '0'],
    H: [hours, 2, '0'],
    I: [twelve, 2, '0'],
    j: [dayOfYear, 3, '0'],
    k: [hours, 2, ' '],
    l: [twelve, 2, ' '],
    m: [date.getMonth() + 1, 2, '0'],
    M: [date.getMinutes(), 2, '0'],
    s: [Math.floor(date.getTime() / 1000), 1, '0'],
    S: [date.getSeconds(), 2, '0'],
    u: [weekday || 7, 1, '0'],
    U: [Math.floor((dayOfYear + 6 - weekday) / 7), 2, '0'],
    V: [Math.floor((thursday.getTime() / 86_400_000 - midnight(0, 1, isoYear)) / 7) + 1, 2, '0'],
    w: [weekday, 1, '0'],
    W: [Math.floor((dayOfYear + 6 - ((weekday + 6) % 7)) / 7), 2, '0'],
    y: [year % 100, 2, '0'],
    Y: [year, 1, '0'],
  };
  return numbers[name];
}
