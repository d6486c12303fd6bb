import { Embedding, Linear, type Module } from '../nn/layers.js';
import type { CausalLM } from '../nn/model.js';
import { LowrankError, nearest } from '../util/errors.js';
import { pythonPattern } from './pattern.js';

/** The keys that say which layers are adapted and which modules are trained as a whole; PEFT's meaning and names. */
export interface TargetConfig {
  /** Names or path endings; one string is a regular expression for whole paths, or `all-linear`; null takes the architecture's default. */
  readonly target_modules?: string | readonly string[] | null;
  /** Endings of parameters' paths, by the names that transformers has in memory. */
  readonly target_parameters?: readonly string[] | null;
  readonly exclude_modules?: string | readonly string[] | null;
  readonly layers_to_transform?: number | readonly number[] | null;
  readonly layers_pattern?: string | readonly string[] | null;
  readonly modules_to_save?: readonly string[] | null;
  readonly rank_pattern?: Readonly<Record<string, number>> | null;
  readonly alpha_pattern?: Readonly<Record<string, number>> | null;
}

/** A module that is to be adapted. */
export interface Target {
  readonly path: string;
  readonly module: Linear | Embedding;
}

/** A parameter of several experts, [E,out,in] in transformers, and the linear layers that it is made of, by expert, in order of outputs. */
export interface StackTarget {
  readonly path: string;
  readonly experts: readonly (readonly { readonly path: string; readonly module: Linear }[])[];
}

/** The parameters of experts that a configuration names, in the model's order. */
export function findStacks(model: CausalLM, { target_parameters: names }: TargetConfig): StackTarget[] {
  const stacks = [...(model.stacks ?? [])].filter(([path]) => namesParameter(names, path));
  return stacks.map(([path, experts]) => {
    const targetOf = (linear: string) => ({ path: linear, module: model.modules.get(linear) as Linear });
    return { path, experts: experts.map((linears) => linears.map(targetOf)) };
  });
}

/** PEFT's rule of target_parameters. */
function namesParameter(names: readonly string[] | null | undefined, path: string): boolean {
  return names?.some((name) => path === name || path.endsWith(`.${name}`)) ?? false;
}

/** The layers and embeddings that a configuration names, in the model's order; PEFT's rules (tuners_utils.check_target_module_exists). */
export function findTargets(model: CausalLM, config: TargetConfig): Target[] {
  const targets: Target[] = [];
  const { target_parameters: parameters } = config;
  const wanted = config.target_modules ?? (parameters?.length ? [] : [...model.defaultTargets]);
  for (const [path, module] of model.modules) {
    const weight = `${model.aliases?.get(path) ?? path}.weight`;
    if (!matches(path, wanted, config, model) && !namesParameter(parameters, weight)) continue;
    if (!isAdaptable(module)) {
      throw new LowrankError(`target module "${path}" is neither a linear layer nor an embedding`, {
        place: 'target_modules',
        mend: 'leave it out and name it in modules_to_save, which trains it whole',
      });
    }
    targets.push({ path, module });
  }
  if (targets.length === 0 && findStacks(model, config).length === 0) throw noTargets(model, wanted, parameters);
  return targets;
}

/**
 * Throws where a name or pattern of a new adapter's configuration fits nothing, which is a misspelling. Files of other programs may name
 * more than a model has, and PEFT takes them so.
 */
export function refuseUnmatched(model: CausalLM, config: TargetConfig): void {
  const paths = [...model.modules.keys()];
  const adapted = findTargets(model, config).map(({ path }) => path);
  const check = (place: string, names: readonly string[], fits: (name: string) => boolean) => {
    const wrong = names.find((name) => !fits(name));
    if (wrong === undefined) return;
    const near = nearest(wrong, endings(model));
    throw new LowrankError(`"${wrong}" fits no ${fitting[place] ?? 'module'} of this model`, {
      place,
      expected: `names such as ${endings(model).join(', ')}`,
      mend: near && near !== wrong ? `write "${near}"` : 'remove it, or name layers of this model',
    });
  };
  for (const place of ['target_modules', 'exclude_modules'] as const) {
    const names = config[place];
    const list = Array.isArray(names) ? names : [];
    check(place, list, (name) => paths.some((path) => named(path, [name], place)));
  }
  const { exclude_modules: excluded } = config;
  if (typeof excluded === 'string')
    check('exclude_modules', [excluded], () => paths.some((path) => named(path, excluded, 'exclude_modules')));
  const weights = [...(model.stacks?.keys() ?? []), ...paths.map((path) => `${model.aliases?.get(path) ?? path}.weight`)];
  check('target_parameters', config.target_parameters ?? [], (name) => weights.some((path) => namesParameter([name], path)));
  adapted.push(...findStacks(model, config).map(({ path }) => path));
  for (const place of ['rank_pattern', 'alpha_pattern'] as const)
    check(place, Object.keys(config[place] ?? {}), (key) => adapted.some((path) => valueFor({ [key]: 1 }, path) !== undefined));
}

/** What names and patterns fit, where that is not a module. */
const fitting: Readonly<Record<string, string>> = {
  rank_pattern: 'adapted layer',
  alpha_pattern: 'adapted layer',
  target_parameters: 'parameter',
};

/** The modules that modules_to_save names: those whose path, or that of a module around them, ends with one of the names, as in PEFT. */
export function findSaved(model: CausalLM, config: TargetConfig): string[] {
  const names = config.modules_to_save ?? [];
  const isSaved = (path: string, name: string) => pathsAround(path).some((around) => around.endsWith(name));
  const paths = [...model.modules.keys()];
  for (const name of names) {
    if (paths.some((path) => isSaved(path, name))) continue;
    const near = nearest(name, endings(model));
    throw new LowrankError(`no module ends with "${name}"`, {
      place: 'modules_to_save',
      mend: near ? `write "${near}"` : `name one of: ${endings(model).join(', ')}`,
    });
  }
  return paths.filter((path) => names.some((name) => isSaved(path, name)));
}

/** A module's path and those of the modules that it is a part of, but for the numbered list of layers and the whole model. */
function pathsAround(path: string): string[] {
  const parts = path.split('.');
  const inLayer = parts.findIndex((part) => /^\d+$/.test(part)) + 1;
  return parts.flatMap((_, i) => (i + 1 >= inLayer && (inLayer > 0 || i + 1 === parts.length) ? [parts.slice(0, i + 1).join('.')] : []));
}

/** The last parts of the names of modules, of all or of some: what users write. */
export function endings(model: CausalLM, wanted: (module: Module) => boolean = () => true): string[] {
  const paths = [...model.modules].flatMap(([path, module]) => (wanted(module) ? [path] : []));
  return [...new Set(paths.map((path) => path.slice(path.lastIndexOf('.') + 1)))];
}

const isAdaptable = (module: Module): module is Linear | Embedding => module instanceof Linear || module instanceof Embedding;

/** What PEFT puts around a pattern: re.fullmatch, the end of a path, a container of numbered layers. */
const whole = (inner: string) => `^(?:${inner})$`;
const ending = (inner: string) => `^(?:.*\\.)?(?:${inner})$`;
const numbered = (inner: string) => `^(?:|.*?\\.)${inner}\\.(?<index_of_layer>\\d+)\\.`;

function matches(path: string, wanted: string | readonly string[], config: TargetConfig, model: CausalLM): boolean {
  if (config.exclude_modules && named(path, config.exclude_modules, 'exclude_modules')) return false;
  if (config.modules_to_save?.some((name) => pythonPattern(name, 'modules_to_save', (inner) => `^(?:.*\\.)?${inner}(?:$|\\.)`).test(path)))
    return false;
  if (wanted === 'all-linear') return path !== model.paths.head && model.modules.get(path) instanceof Linear;
  if (!named(path, wanted, 'target_modules')) return false;
  if (typeof wanted === 'string' || wanted.includes(path)) return true;
  return inLayers(path, config);
}

function named(path: string, names: string | readonly string[], place: string): boolean {
  if (typeof names === 'string') return pythonPattern(names, place, whole).test(path);
  return names.some((name) => path === name || path.endsWith(`.${name}`));
}

function inLayers(path: string, { layers_to_transform: layers, layers_pattern: patterns }: TargetConfig): boolean {
  if (layers === undefined || layers === null || (Array.isArray(layers) && layers.length === 0)) return true;
  const containers = typeof patterns === 'string' ? [patterns] : patterns?.length ? patterns : ['[^.]*'];
  for (const container of containers) {
    const index = pythonPattern(container, 'layers_pattern', numbered).exec(path)?.groups?.index_of_layer;
    if (index !== undefined) return [layers].flat().includes(Number(index));
  }
  return false;
}

/** The value of the first pattern that matches the path's end, as in PEFT's rank_pattern and alpha_pattern. */
export function valueFor(patterns: Readonly<Record<string, number>> | null | undefined, path: string): number | undefined {
  for (const [key, value] of Object.entries(patterns ?? {})) {
    if (pythonPattern(key, 'rank_pattern or alpha_pattern', ending).test(path)) return value;
  }
  return undefined;
}

function noTargets(model: CausalLM, wanted: string | readonly string[], parameters?: readonly string[] | null): LowrankError {
  if (wanted.length === 0 && parameters?.length) {
    const known = [...(model.stacks?.keys() ?? [])].slice(0, 2);
    return new LowrankError(`${JSON.stringify(parameters)} names no parameter of this model`, {
      place: 'target_parameters',
      expected: known.length > 0 ? `endings of parameters such as ${known.join(', ')}` : 'endings of weights, such as q_proj.weight',
      mend: 'name some of these, or set target_modules',
    });
  }
  const list = endings(model, isAdaptable);
  const example = [...model.modules].find(([path, module]) => path.includes('.0.') && isAdaptable(module));
  const near = typeof wanted === 'string' ? undefined : wanted.map((name) => nearest(name, list)).find(Boolean);
  return new LowrankError(`${JSON.stringify(wanted)} names no module of this model`, {
    place: 'target_modules',
    expected: `endings such as ${list.join(', ')}, as in "${example?.[0] ?? list[0]}"`,
    mend: near ? `write "${near}"` : 'use "all-linear", or some of these names',
  });
}
