const days = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const months = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'];

/** Python's `strftime` in the C locale and local time, for the directives that dates in chat templates use; others stay as they are. */
export function strftime(date: Date, format: string): string {
  const padded = (value: number, width = 2) => String(value).padStart(width, '0');
  const hours = date.getHours();
  const midnight = (year: number, month: number, day: number) => Date.UTC(year, month, day);
  const dayOfYear = (midnight(date.getFullYear(), date.getMonth(), date.getDate()) - midnight(date.getFullYear(), 0, 0)) / 86_400_000;
  const directives: Record<string, string> = {
    a: days[date.getDay()].slice(0, 3),
    A: days[date.getDay()],
    b: months[date.getMonth()].slice(0, 3),
    B: months[date.getMonth()],
    d: padded(date.getDate()),
    '-d': String(date.getDate()),
    H: padded(hours),
    I: padded(hours % 12 || 12),
    j: padded(dayOfYear, 3),
    m: padded(date.getMonth() + 1),
    M: padded(date.getMinutes()),
    p: hours < 12 ? 'AM' : 'PM',
    S: padded(date.getSeconds()),
    y: padded(date.getFullYear() % 100),
    Y: String(date.getFullYear()),
    '%': '%',
  };
  return format.replace(/%(-?[a-zA-Z%])/g, (whole, name) => directives[name] ?? whole);
}
