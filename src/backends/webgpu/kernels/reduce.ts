/** Threads that gather what all have found; each of them takes part of it. */
const gatherers = 16;

/**
 * `sum_of_all(lid, v)` and `max_of_all(lid, v)`: sum and maximum of all threads of a workgroup, always in the same order. Every thread
 * calls them. Two steps rather than a tree of halves: barriers are what costs, most of all where a processor plays the GPU.
 */
export function reductions(size: number): string {
  const part = size / gatherers;
  const reduce = (name: string, join: (a: string, b: string) => string) => `
fn ${name}(lid: u32, v: f32) -> f32 {
  workgroupBarrier();
  parts[lid] = v;
  workgroupBarrier();
  if (lid < ${gatherers}u) {
    var joined = parts[lid * ${part}u];
    for (var i = 1u; i < ${part}u; i++) { joined = ${join('joined', `parts[lid * ${part}u + i]`)}; }
    gathered[lid] = joined;
  }
  workgroupBarrier();
  var whole = gathered[0];
  for (var i = 1u; i < ${gatherers}u; i++) { whole = ${join('whole', 'gathered[i]')}; }
  return whole;
}
`;
  return `var<workgroup> parts: array<f32, ${size}>;
var<workgroup> gathered: array<f32, ${gatherers}>;
${reduce('sum_of_all', (a, b) => `${a} + ${b}`)}${reduce('max_of_all', (a, b) => `max(${a}, ${b})`)}`;
}
