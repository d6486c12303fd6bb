import { Linear } from '../nn/layers.js';
import type { CausalLM } from '../nn/model.js';
import { LowrankError, messageOf, nearest } from '../util/errors.js';

/** The keys that say which layers are adapted and which modules are trained as a whole; PEFT's meaning and names. */
export interface TargetConfig {
  /** Names or path endings; one string is a regular expression for whole paths, or `all-linear`; null takes the architecture's default. */
  readonly target_modules?: string | readonly string[] | null;
  readonly exclude_modules?: string | readonly string[] | null;
  readonly layers_to_transform?: number | readonly number[] | null;
  readonly layers_pattern?: string | readonly string[] | null;
  readonly modules_to_save?: readonly string[] | null;
}

/** A linear layer that is to be adapted. */
export interface LinearTarget {
  readonly path: string;
  readonly module: Linear;
}

/** The linear layers that a configuration names, in the model's order; PEFT's rules (tuners_utils.check_target_module_exists). */
export function findTargets(model: CausalLM, config: TargetConfig): LinearTarget[] {
  const targets: LinearTarget[] = [];
  const wanted = config.target_modules ?? [...model.defaultTargets];
  for (const [path, module] of model.modules) {
    if (!matches(path, wanted, config, model)) continue;
    if (!(module instanceof Linear)) {
      throw new LowrankError(`target module "${path}" is not a linear layer`, {
        place: 'target_modules',
        mend: 'leave it out of the target modules; to train the whole module, name it in modules_to_save',
      });
    }
    targets.push({ path, module });
  }
  if (targets.length === 0) throw noTargets(model, wanted);
  return targets;
}

/** The modules that modules_to_save names: every path that ends with one of the names, as in PEFT. */
export function findSaved(model: CausalLM, config: TargetConfig): string[] {
  const names = config.modules_to_save ?? [];
  for (const name of names) {
    if ([...model.modules.keys()].some((path) => path.endsWith(name))) continue;
    const near = nearest(name, endings(model));
    throw new LowrankError(`no module ends with "${name}"`, {
      place: 'modules_to_save',
      mend: near ? `write "${near}"` : `name one of: ${endings(model).join(', ')}`,
    });
  }
  return [...model.modules.keys()].filter((path) => names.some((name) => path.endsWith(name)));
}

/** The last parts of the linear layers' names: what users write as target modules. */
export function endings(model: CausalLM): string[] {
  return [...new Set([...model.modules.keys()].map((path) => path.slice(path.lastIndexOf('.') + 1)))];
}

function matches(path: string, wanted: string | readonly string[], config: TargetConfig, model: CausalLM): boolean {
  if (config.exclude_modules && named(path, config.exclude_modules, 'exclude_modules')) return false;
  if (config.modules_to_save?.some((name) => regex(`(^|.*\\.)${name}($|\\..*)`, 'modules_to_save').test(path))) return false;
  if (wanted === 'all-linear') return path !== model.paths.head && model.modules.get(path) instanceof Linear;
  if (!named(path, wanted, 'target_modules')) return false;
  if (typeof wanted === 'string' || wanted.includes(path)) return true;
  return inLayers(path, config);
}

function named(path: string, names: string | readonly string[], place: string): boolean {
  if (typeof names === 'string') return regex(`^(?:${names})$`, place).test(path);
  return names.some((name) => path === name || path.endsWith(`.${name}`));
}

function inLayers(path: string, { layers_to_transform: layers, layers_pattern: patterns }: TargetConfig): boolean {
  if (layers === undefined || layers === null || (Array.isArray(layers) && layers.length === 0)) return true;
  const containers = typeof patterns === 'string' ? [patterns] : patterns?.length ? patterns : ['[^.]*'];
  for (const container of containers) {
    const index = regex(`^(?:|.*?\\.)${container}\\.(\\d+)\\.`, 'layers_pattern').exec(path)?.[1];
    if (index !== undefined) return [layers].flat().includes(Number(index));
  }
  return false;
}

/** The value of the first pattern that matches the path's end, as in PEFT's rank_pattern and alpha_pattern. */
export function valueFor(patterns: Readonly<Record<string, number>> | null | undefined, path: string): number | undefined {
  for (const [key, value] of Object.entries(patterns ?? {})) {
    if (regex(`^(?:.*\\.)?(?:${key})$`, 'rank_pattern or alpha_pattern').test(path)) return value;
  }
  return undefined;
}

const compiled = new Map<string, RegExp>();

/** Compiles a regular expression that came from a recipe or a file. Python's named groups become JavaScript's. */
function regex(source: string, place: string): RegExp {
  let expression = compiled.get(source);
  if (!expression) {
    try {
      expression = new RegExp(source.replaceAll('(?P<', '(?<'));
    } catch (error) {
      throw new LowrankError(`${place}: not a regular expression: ${messageOf(error)}`, { mend: 'correct the pattern, or list the names' });
    }
    compiled.set(source, expression);
  }
  return expression;
}

function noTargets(model: CausalLM, wanted: string | readonly string[]): LowrankError {
  const list = endings(model);
  const near = typeof wanted === 'string' ? undefined : wanted.map((name) => nearest(name, list)).find(Boolean);
  return new LowrankError(`${JSON.stringify(wanted)} names no module of this model`, {
    place: 'target_modules',
    expected: `endings such as ${list.join(', ')}, as in "${[...model.modules.keys()].find((path) => path.includes('.0.')) ?? list[0]}"`,
    mend: near ? `write "${near}"` : 'use "all-linear", or some of these names',
  });
}
